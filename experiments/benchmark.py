"""How fast it is: the batched interpreter and whole searches beside the plain-Python interpreter, in one run.

    python experiments/benchmark.py                 # a table
    python experiments/benchmark.py --json          # one JSON object

Every figure is the median of several repetitions with the quartiles beside it; compilation is timed apart. The golden
programs are those of the tests: hand-written, random, and neighbours of good programs.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.arguments import run_main
from jaxprl.dsl import ast, encode, sample, text
from jaxprl.errors import UserError
from jaxprl.experiment import NEIGHBOURHOOD
from jaxprl.runs.record import environment
from jaxprl.search.driver import drive
from jaxprl.search.hill_climbing import hill_climbing
from jaxprl.search.schedule import Constant
from jaxprl.search.types import UNKNOWN, search_keys
from jaxprl.starts import random_starts
from jaxprl.vm import host
from jaxprl.vm.evaluate import Contest, Scale, contest_scores, evaluate
from jaxprl.worlds import registry
from jaxprl.worlds.task import Layout, Task

GOLDEN = Path(__file__).parent.parent / "tests" / "data" / "returns_karel.json.gz"
LAYOUTS = range(32)


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    task = registry.make(options.task)
    layouts = task.layouts(LAYOUTS)
    golden = golden_programs(task)
    good = [program for program in golden if program["kind"] == "neighbour" and np.mean(program["num_calls"]) >= 200]
    drawn = np.asarray(sample.random_programs(task.language, jax.random.split(jax.random.key(0), options.programs)))
    sets = {
        "golden": nodes_of(golden, task),
        "good neighbours": np.resize(nodes_of(good or golden, task), (options.programs, encode.WIDTH)),
        "random": drawn,
    }
    rows = [measure_host(task, layouts, golden, options)]
    rows += [measure_evaluate(name, task, layouts, nodes, options) for name, nodes in sets.items()]
    rows += [measure_search(task, layouts, searches, options) for searches in options.searches]
    report = {"task": task.name, "layouts": len(LAYOUTS), "environment": environment(), "rows": rows}
    report["golden over host"] = rows[1]["programs/s"] / rows[0]["programs/s"]
    print(json.dumps(report) if options.json else table(report))
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="DoorKey")
    parser.add_argument("--programs", type=int, default=2048, help="programs of the larger sets")
    parser.add_argument("--budget", type=int, default=20_000, help="programs of all searches of a row together")
    parser.add_argument("--searches", type=int, nargs="*", default=[1, 32], help="searches side by side, a row each")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    return parser


def golden_programs(task: Task) -> list[dict[str, Any]]:
    if not GOLDEN.exists():
        raise UserError(f"{GOLDEN} is missing: run the benchmark from a checkout of the repository")
    return json.loads(gzip.decompress(GOLDEN.read_bytes()))["tasks"][task.name]["programs"]


def nodes_of(programs: list[dict[str, Any]], task: Task) -> np.ndarray:
    return encode.encode_all([parsed(program, task) for program in programs], task.language)


def parsed(program: dict[str, Any], task: Task) -> ast.Program:
    return text.parse(program["program"], task.language)


def timed(job: Callable[[], Any], repeats: int) -> tuple[float, list[float], Any]:
    """Return the seconds of the first run, of the later ones, and the last result."""
    started = time.perf_counter()
    job()
    first = time.perf_counter() - started
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = job()
        seconds.append(time.perf_counter() - started)
    return first, seconds, result


def row(name: str, programs: int, calls: int | None, first: float, seconds: list[float], **more: Any) -> dict[str, Any]:
    low, median, high = np.percentile(seconds, [25, 50, 75])
    figures: dict[str, Any] = {"name": name, "programs": programs, "programs/s": programs / median}
    figures |= {"quartiles": [programs / high, programs / low], "first run - median, s": max(0.0, first - median)}
    if calls is not None:
        figures |= {"calls/s": calls / median, "ns/call": median / calls * 1e9}
    return figures | more


def measure_host(task: Task, layouts: Layout, golden: list[dict[str, Any]], options: argparse.Namespace):
    """The plain-Python interpreter on every fourth golden program."""
    programs = [parsed(program, task) for program in golden[::4]]
    starts = [task.layout(seed) for seed in LAYOUTS]

    def job() -> int:
        environments = ((program, host.WorldEnvironment(task, start)) for program in programs for start in starts)
        return sum(host.run(program, environment).calls for program, environment in environments)

    first, seconds, calls = timed(job, min(3, options.repeats))
    return row("plain Python, golden / 4", len(programs), calls, first, seconds)


def measure_evaluate(name: str, task: Task, layouts: Layout, nodes: np.ndarray, options: argparse.Namespace):
    """The batched interpreter: every return, nothing dropped or reused."""
    first, seconds, runs = timed(lambda: evaluate(task, nodes, layouts), options.repeats)
    return row(f"evaluate, {name}", len(nodes), int(runs.calls.sum()), first, seconds)


def measure_search(task: Task, layouts: Layout, searches: int, options: argparse.Namespace) -> dict[str, Any]:
    """Hill climbing, everything included, in programs that count; `evaluating` is the share of time in `evaluate`."""
    scale = Scale.of(layouts)
    spent: list[float] = []

    def scores(programs: np.ndarray, beat: np.ndarray, group: np.ndarray) -> np.ndarray:
        started = time.perf_counter()
        found = contest_scores(task, programs, layouts, scale, Contest(beat, group))
        spent.append(time.perf_counter() - started)
        return found

    search = hill_climbing(
        neighbours=functools.partial(sample.neighbours, task.language),
        start=functools.partial(random_starts, task.language),
        schedule=Constant(NEIGHBOURHOOD),
        budget=options.budget // searches,
        goal=scale.denominator,
    )

    def job() -> int:
        spent.clear()
        keys = search_keys(range(searches))
        zero = jnp.zeros(searches, jnp.int32)
        state = drive(search, search.init(keys, zero, zero + UNKNOWN), scores, record=lambda event: None)
        return int(np.sum(np.asarray(state.evaluated)))

    first, seconds, evaluated = timed(job, min(3, options.repeats))
    share = sum(spent) / seconds[-1]
    return row(f"hill climbing, {searches} side by side", evaluated, None, first, seconds, evaluating=share)


def table(report: dict[str, Any]) -> str:
    where = report["environment"]
    lines = [
        f"{report['task']}, {report['layouts']} layouts, {where['backend']} ({where['processor']}), "
        f"jax {where['packages']['jax']}",
        f"{'':32}{'programs/s':>12}{'quartiles':>20}{'ns/call':>10}{'first run':>11}",
    ]
    for each in report["rows"]:
        low, high = each["quartiles"]
        nanoseconds = f"{each['ns/call']:.1f}" if "ns/call" in each else f"({each['evaluating']:.0%})"
        lines.append(
            f"{each['name']:32}{each['programs/s']:12,.0f}{f'{low:,.0f}-{high:,.0f}':>20}{nanoseconds:>10}"
            f"{each['first run - median, s']:10.1f}s"
        )
    lines.append(f"evaluate, golden / plain Python: {report['golden over host']:.0f} times")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_main(main))
