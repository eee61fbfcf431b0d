"""Measure how fast jaxprl is, beside yardsticks that are measured in the same run.

    python experiments/benchmark.py                                # DoorKey, a table
    python experiments/benchmark.py --task LavaGap --json          # one JSON object
    python experiments/benchmark.py --sections scaling --plot scaling.png

- evaluate: every return of the golden programs (those of the tests), of the long-running neighbours of good programs
  among them, and of random programs; no run is left out. Yardsticks: the plain-Python interpreter (MiniGrid: over the
  real `minigrid` environments) and, where numba is installed, a scalar interpreter (`native.py`), which is compared
  with the engines for CPUs on one core.
- search: hill climbing, everything included, in programs that count as evaluated.
- engines: hill climbing with each engine for CPUs, in turn.
- start: the whole of a short `jaxprl run`, with empty caches and with full ones.
- hprl (Karel): its programs decoded and run per second, and the share of the time of each part.
- world (MiniGrid): random actions in thousands of copies of the world, and in `minigrid` itself.
- scaling: cost per program against the number of runs in a call, and against the number of threads.

Every figure is the median of several repetitions, with the quartiles beside it; compilation is timed separately.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_hprl import side_by_side
from benchmark_output import plot, table
from benchmark_timing import Row, in_turn, row, timed

import jaxprl
from jaxprl.cli.common import path, run_process, whole
from jaxprl.codegen import compiler
from jaxprl.dsl import encode, sample
from jaxprl.errors import needed_by, unknown
from jaxprl.experiment.evaluator import Evaluator
from jaxprl.files import check_output
from jaxprl.runs.record import environment
from jaxprl.search.driver import drive
from jaxprl.search.hill_climbing import hill_climbing
from jaxprl.search.program_space import mutations, random_starts
from jaxprl.search.protocol import Improvements, Neighbourhoods, search_keys
from jaxprl.search.schedule import Constant
from jaxprl.vm import plain
from jaxprl.vm.compile import instructions
from jaxprl.vm.evaluate import evaluate, first_better
from jaxprl.vm.outcomes import Scale, unpack
from jaxprl.worlds.plain import WorldEnvironment
from jaxprl.worlds.task import FARAMA

DATA = Path(__file__).parent.parent / "tests" / "data"
LAYOUTS = range(32)
LONG = 200
"""Calls per run of a long-running program, at least."""
NEIGHBOURHOOD = jaxprl.methods()["hc"].options().k
"""Neighbours that hill climbing looks at before it starts again."""
NUMBA = "numba, good neighbours, one core"
ONE_CORE = "{}, good neighbours, one core"
"""Name of an engine's row."""
CPU_ENGINES = ("native", "sequential")
SLOW_REPEATS = 3
NUMBERS = {
    "programs": (2048, 2**18, "programs of the larger sets"),
    "budget": (200_000, 2**30 - 1, "programs of all searches of a row together"),
    "copies": (16_384, 2**20, "copies of the world"),
    "repeats": (7, 1000, "measurements of which the median is shown"),
}
"""Options that are numbers: the default, the largest value, what it is."""
NUMBA_TASKS = ("DoorKey", "CleanHouse")


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    check(options)
    jaxprl.prefer_whole_loops()
    bench = Benchmark(options)
    rows = [row for section in options.sections for row in SECTIONS[section](bench)]
    report = {"task": bench.task.name, "layouts": len(LAYOUTS), "environment": environment(), "rows": rows}
    report |= ratios(rows)
    print(json.dumps(report) if options.json else table(report))
    if options.plot:
        plot(rows, options.plot)
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="DoorKey", help="one with golden programs: a Karel task, LavaGap, ...")
    parser.add_argument("--sections", nargs="+", default=["evaluate", "search"], help=", ".join(SECTIONS))
    for name, (default, most, help) in NUMBERS.items():
        parser.add_argument(f"--{name}", type=whole(1, most), default=default, help=f"{help} (default: %(default)s)")
    parser.add_argument(
        "--searches", type=whole(1, 2**12), nargs="+", default=[1, 32], help="searches side by side, a row each"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=path, help="picture of the scaling rows (needs matplotlib)")
    return parser


def check(options: argparse.Namespace) -> None:
    """Raise UserError for options that do not go together, before anything is measured."""
    for section in options.sections:
        if section not in SECTIONS:
            raise unknown("section", section, SECTIONS)
    if {"search", "engines"} & set(options.sections) and options.budget < max(options.searches):
        raise jaxprl.UserError(
            f"--budget {options.budget}: from {max(options.searches)} on, so that each of the --searches has a program"
        )
    if options.plot:
        if "scaling" not in options.sections:
            raise jaxprl.UserError("there are no scaling rows to draw: add --sections scaling")
        check_output(options.plot, "--plot")
        with needed_by("--plot"):
            import matplotlib as mpl  # noqa: F401


class Benchmark:
    """What the sections share: the task, its layouts and sets of programs."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        task = jaxprl.make(options.task)
        none = f"{task.name} has no golden programs; take a Karel task, LavaGap, PutNear or RedBlueDoor"
        if isinstance(task, jaxprl.PythonTask) or task.language.name not in ("karel", "minigrid"):
            raise jaxprl.UserError(none)
        self.task: jaxprl.Task = task
        self.layouts: jaxprl.Layout = jax.tree.map(jnp.asarray, task.layouts(LAYOUTS))
        file = DATA / f"returns_{task.language.name}.json.gz"
        if not file.exists():
            raise jaxprl.UserError(f"{file} is missing: run the benchmark from a checkout of the repository")
        tasks = json.loads(gzip.decompress(file.read_bytes()))["tasks"]
        if task.name not in tasks:
            raise jaxprl.UserError(none)
        if "hprl" in options.sections and task.language.name != "karel":
            raise jaxprl.UserError(
                f"section hprl needs a program space, which there is for Karel tasks, not {task.name}"
            )
        if "world" in options.sections and task.language.name != "minigrid":
            raise jaxprl.UserError(f"section world compares with minigrid; {task.name} is a Karel task")
        golden = tasks[task.name]["programs"]
        good = [row for row in golden if row["kind"] == "neighbour" and np.mean(row["num_calls"]) >= LONG]
        self.golden = [jaxprl.parse(row["program"], task) for row in golden]
        keys = jax.random.split(jax.random.key(0), options.programs)
        self.random = np.asarray(sample.random_programs(task.language, keys))
        parsed = [jaxprl.parse(row["program"], task) for row in good] or self.golden
        self.good = np.resize(encode.encode_all(parsed, task.language, encode.WIDTH), self.random.shape)


def evaluation(bench: Benchmark) -> list[Row]:
    """Evaluate several sets of programs completely, and the yardsticks."""
    golden = encode.encode_all(bench.golden, bench.task.language)
    rows = [plain_python(bench)]
    if bench.task.language.name == "minigrid":
        rows.insert(0, plain_python(bench, observed=True))
    return [
        *rows,
        *one_core(bench),
        batched("golden", bench, golden),
        batched("good neighbours", bench, bench.good),
        batched("random", bench, bench.random),
    ]


def plain_python(bench: Benchmark, *, observed: bool = False) -> Row:
    """Run every fourth golden program in the plain-Python interpreter.

    A MiniGrid task runs in the real environments; `observed` says whether these also make an observation at every step,
    as they do by themselves, which is slower.
    """
    task, programs = bench.task, bench.golden[::4]
    if task.language.name == "minigrid":
        real = jaxprl.make(f"{FARAMA}{task.name}")
        assert isinstance(real, jaxprl.PythonTask)
        start: Callable[[int], Any] = real.environment
        if observed:
            start(0).env.unwrapped.__dict__.pop("gen_obs")  # the package's own, in the one environment of the task
    else:
        layouts = [task.layout(seed) for seed in LAYOUTS]
        start = lambda seed: WorldEnvironment(task, layouts[seed])  # noqa: E731

    def job() -> int:
        return sum(plain.run(program, start(seed)).calls for program in programs for seed in LAYOUTS)

    first, seconds, calls = timed(job, 1 if observed else min(SLOW_REPEATS, bench.options.repeats))
    if observed:
        start(0).env.unwrapped.gen_obs = dict
    name = "plain Python over minigrid" if task.language.name == "minigrid" else "plain Python"
    name = f"{name} as it is" if observed else name
    return row(f"{name}, golden / 4", "programs", len(programs), first, seconds, calls=calls)


def one_core(bench: Benchmark) -> list[Row]:
    """Run the engines for CPUs, and numba if it knows the task, each on one core."""
    jobs = {ONE_CORE.format(name): every_return(bench, bench.good, workers=1, engine=name) for name in cpu_engines()}
    if importlib.util.find_spec("numba") and bench.task.name in NUMBA_TASKS:
        from native import run_programs

        code, layouts = np.asarray(instructions(jnp.asarray(bench.good))), bench.task.layouts(LAYOUTS)
        jobs = {NUMBA: lambda: int(unpack(run_programs(bench.task.name, code, layouts)).calls.sum()), **jobs}
    timings = zip(jobs, in_turn(list(jobs.values()), bench.options.repeats), strict=True)
    size = len(bench.good)
    return [row(name, "programs", size, first, seconds, calls=calls) for name, (first, seconds, calls) in timings]


def cpu_engines() -> list[str]:
    """Return the engines for CPUs that this machine has."""
    try:
        compiler.command()
    except compiler.Unavailable:
        return [name for name in CPU_ENGINES if name != "native"]
    return list(CPU_ENGINES)


def batched(name: str, bench: Benchmark, *calls: np.ndarray, **options: Any) -> Row:
    """Evaluate programs completely, in one call or several."""
    first, seconds, steps = timed(every_return(bench, *calls, **options), bench.options.repeats)
    return row(f"evaluate, {name}", "programs", sum(map(len, calls)), first, seconds, calls=steps, **options)


def every_return(bench: Benchmark, *calls: np.ndarray, **options: Any) -> Callable[[], int]:
    return lambda: sum(int(evaluate(bench.task, nodes, bench.layouts, **options).calls.sum()) for nodes in calls)


def searches(bench: Benchmark) -> list[Row]:
    """Run hill climbing from random programs; `evaluating` is the share of the time in `first_better`.

    On a GPU whole rounds are done there, so that this share is nothing.
    """
    return [row for number in bench.options.searches for row in hill_climbs(bench, number, [None])]


def engines(bench: Benchmark) -> list[Row]:
    """Run hill climbing with each engine for CPUs, in turn."""
    return [row for number in bench.options.searches for row in hill_climbs(bench, number, cpu_engines())]


def climbing(task: jaxprl.Task, goal: int, budget: int) -> jaxprl.Search:
    """Return hill climbing from random programs."""
    return hill_climbing(
        neighbours=functools.partial(mutations, task.language),
        start=functools.partial(random_starts, task.language),
        schedule=Constant(NEIGHBOURHOOD),
        budget=budget,
        goal=goal,
        in_array_code=True,
    )


def hill_climbs(bench: Benchmark, number: int, names: Sequence[str | None]) -> list[Row]:
    """Run `number` searches side by side with each of some engines, in turn."""
    task, scale = bench.task, Scale.of(bench.layouts)
    search = climbing(task, scale.denominator + 1, bench.options.budget // number)  # a goal that nobody reaches
    spent: dict[str | None, float] = {}

    def job(engine: str | None) -> int:
        def answer(question: Neighbourhoods) -> Improvements:
            started = time.perf_counter()
            found = first_better(task, question, bench.layouts, engine=engine)
            spent[engine] += time.perf_counter() - started
            return found

        spent[engine] = 0.0
        state = search.init(search_keys(range(number)))
        device = Evaluator(task, tuple(LAYOUTS), engine=engine)
        return int(np.sum(np.asarray(drive(search, state, answer, record=lambda event: None, device=device).evaluated)))

    repeats = min(SLOW_REPEATS, bench.options.repeats)
    timings = in_turn([functools.partial(job, name) for name in names], repeats)
    rows = []
    for name, (first, seconds, evaluated) in zip(names, timings, strict=True):
        title = f"hill climbing, {number} side by side" + (f", {name}" if name else "")
        share = spent[name] / seconds[-1]
        rows.append(row(title, "programs", evaluated, first, seconds, evaluating=share))
    return rows


def start(bench: Benchmark) -> list[Row]:
    """Run a short hill climb as a process of its own, with empty caches and with full ones."""
    seconds: dict[str, list[float]] = {"empty": [], "full": []}
    run = [sys.executable, "-m", "jaxprl", "run", "--task", "Harvester", "--method", "hc", "--budget", "100", "--out"]
    for _ in range(min(SLOW_REPEATS, bench.options.repeats)):
        with tempfile.TemporaryDirectory() as folder:
            variables = {**os.environ, "XDG_CACHE_HOME": folder}
            variables.pop("JAX_COMPILATION_CACHE_DIR", None)
            for caches, times in seconds.items():
                started = time.perf_counter()
                subprocess.run([*run, f"{folder}/{caches}"], env=variables, capture_output=True, check=True)
                times.append(time.perf_counter() - started)
    return [row(f"jaxprl run, {caches} caches", "runs", 1, 0.0, times) for caches, times in seconds.items()]


def hprl(bench: Benchmark) -> list[Row]:
    """Run searches by `hprl`."""
    repeats = min(SLOW_REPEATS, bench.options.repeats)
    return [side_by_side(bench.task, LAYOUTS, number, repeats) for number in bench.options.searches]


def world(bench: Benchmark) -> list[Row]:
    """Step environments with random actions; episodes that have ended go on."""
    from jaxprl.worlds.minigrid import act, from_farama, layouts

    makers = {"LavaGap": layouts.lava_gap, "PutNear": layouts.put_near, "RedBlueDoor": layouts.red_blue_door}
    env, blind, steps = makers[bench.task.name](), makers[bench.task.name](), 64
    blind.gen_obs = dict
    actions = np.random.default_rng(0).integers(0, 6, 1000)

    def theirs(env: Any) -> None:
        env.reset(seed=0)
        for action in actions:
            env.step(action)

    env.reset(seed=0)
    start = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], bench.options.copies, axis=0), from_farama(env))
    own = jax.random.randint(jax.random.key(0), (steps, bench.options.copies), 0, 6)

    @jax.jit
    def ours(states: Any, actions: jax.Array) -> Any:
        return jax.lax.scan(lambda states, row: (jax.vmap(act)(states, row), None), states, actions)[0]

    slow = timed(lambda: theirs(env), bench.options.repeats)
    less_slow = timed(lambda: theirs(blind), bench.options.repeats)
    first, seconds, _ = timed(lambda: jax.block_until_ready(ours(start, own)), bench.options.repeats)
    return [
        row("minigrid itself", "steps", actions.size, *slow[:2]),
        row("minigrid, its observations left out", "steps", actions.size, *less_slow[:2]),
        row(f"ours, {bench.options.copies} copies", "steps", own.size, first, seconds),
    ]


def scaling(bench: Benchmark) -> list[Row]:
    """Evaluate the same programs in calls of 1,024 to 65,536 runs, and in one call with one, two and four threads."""
    rows = []
    for programs in (32, 64, 128, 256, 512, 1024, 2048):
        parts = np.split(bench.good, range(programs, len(bench.good), programs))
        runs = programs * len(LAYOUTS)
        rows.append(batched(f"{runs} runs a call", bench, *parts) | {"runs": runs})
    return [*rows, *(batched(f"{threads} threads", bench, bench.good, workers=threads) for threads in (1, 2, 4))]


SECTIONS: dict[str, Callable[[Benchmark], list[Row]]] = {
    "evaluate": evaluation,
    "search": searches,
    "engines": engines,
    "start": start,
    "hprl": hprl,
    "world": world,
    "scaling": scaling,
}


def ratios(rows: list[Row]) -> dict[str, float]:
    """Return the ratios that are quoted in the documentation, from the rows of this run."""
    rate = {each["name"].partition(",")[0]: each["per second"] for each in rows}
    named = {each["name"]: each for each in rows}
    found: dict[str, float] = {}
    golden = named.get("evaluate, golden")
    python = next((each for each in rows if each["name"].startswith("plain Python")), None)
    if golden and python:
        found["golden programs/s over plain Python"] = golden["per second"] / python["per second"]
    ours, theirs, numba = (named.get(name) for name in (*map(ONE_CORE.format, CPU_ENGINES), NUMBA))
    if ours and theirs:
        found["time per call, sequential over native"] = ours["per second"] / theirs["per second"]
    if ours and numba:
        found["time per call, native over numba"] = numba["per second"] / ours["per second"]
    for name, each in named.items():
        if name.endswith("side by side, native") and name.replace("native", "sequential") in named:
            other = named[name.replace("native", "sequential")]
            found[f"{name} over sequential"] = each["per second"] / other["per second"]
    if "ours" in rate:
        found["steps/s over minigrid"] = rate["ours"] / rate["minigrid itself"]
    return found


if __name__ == "__main__":
    sys.exit(run_process(main, sys.argv[1:]))
