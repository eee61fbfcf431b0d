"""Measure how fast `proceed` runs programs, each on a start of its own, beside `evaluate` on one layout and on 32.

    python experiments/benchmark_proceed.py
    python experiments/benchmark_proceed.py --tasks Snake --programs 1000 --workers 1

Programs are drawn as searches draw them; starts are fresh layouts. Runs per second are by the clock, nanoseconds are
CPU time of all threads together, so that they say something on a busy machine, too. Each figure is the best of several
repetitions; what is compiled before does not count.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

import jaxprl
from jaxprl.cli.common import run_process, whole
from jaxprl.codegen.threads import cores
from jaxprl.dsl import sample
from jaxprl.vm.layouts import rows_of

FRESH = 512
"""Different starts; each serves for several programs."""
LAYOUTS = 32


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["DoorKey", "Snake", "CleanHouse"], help="tasks in array code")
    parser.add_argument("--programs", type=whole(1, 2**20), default=16_384)
    parser.add_argument("--repeats", type=whole(1, 1000), default=15)
    parser.add_argument("--workers", type=whole(1, 1024), nargs="+", default=[1, cores()], help="a row each")
    options = parser.parse_args(arguments)
    jaxprl.prefer_whole_loops()
    print("| task, threads | | runs/s | CPU ns a call | CPU ns a run | calls a run |\n|---|---|---|---|---|---|")
    for name in options.tasks:
        for workers in dict.fromkeys(options.workers):
            for line in measured(jaxprl.make(name), options.programs, options.repeats, workers):
                print(f"| {name}, {workers} | {line} |", flush=True)
    return 0


def measured(task: jaxprl.Task, count: int, repeats: int, workers: int) -> list[str]:
    """Return a row for `proceed` and one for `evaluate` on each number of layouts."""
    programs = np.asarray(sample.random_programs(task.language, jax.random.split(jax.random.key(0), count)))
    fresh = task.layouts(range(FRESH))
    starts = rows_of(fresh, np.arange(count) % FRESH)
    jobs: dict[str, Callable[[], int]] = {
        "`proceed`": lambda: int(jaxprl.proceed(task, programs, starts, workers=workers).outcomes.calls.sum())
    }
    for number in (1, LAYOUTS):
        layouts = rows_of(fresh, slice(number))
        jobs[f"`evaluate`, {number} {'layout' if number == 1 else 'layouts'}"] = lambda layouts=layouts: int(
            jaxprl.evaluate(task, programs, layouts, workers=workers).calls.sum()
        )
    found = []
    for (name, job), runs in zip(jobs.items(), (count, count, LAYOUTS * count), strict=True):
        calls, (seconds, busy) = job(), timed(job, repeats)
        figures = f"{runs / seconds:,.0f} | {busy / calls * 1e9:.1f} | {busy / runs * 1e9:,.0f}"
        found.append(f"{name} | {figures} | {calls / runs:.1f}")
    return found


def timed(job: Callable[[], int], repeats: int) -> tuple[float, float]:
    """Return the fewest seconds that a job takes, by the clock and of CPU time."""
    found = []
    for _ in range(repeats):
        started, busy = time.perf_counter(), time.process_time()
        job()
        found.append((time.perf_counter() - started, time.process_time() - busy))
    return min(seconds for seconds, _ in found), min(busy for _, busy in found)


if __name__ == "__main__":
    sys.exit(run_process(main, sys.argv[1:]))
