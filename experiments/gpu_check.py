"""Check and measure the kernels on a machine with an NVIDIA GPU, in less than seven minutes.

    python experiments/gpu_check.py --out results.json             # everything, in turn
    python experiments/gpu_check.py --sections golden speed
    python experiments/gpu_check.py --dry                          # on a machine without a GPU
    python experiments/gpu_check.py --write-layouts layouts.pickle # where minigrid is installed

- golden: the golden programs of the tests, every one of them, give what the published system gives.
- static: registers, spilled bytes and occupancy of the kernels; launches of a round of hill climbing.
- speed: calls and programs a second of the engine `cuda`, for DoorKey, CleanHouse and Snake.
- search: hill climbing of 32 and of 256 searches side by side, k = 250, everything included.
- latency: one run of some 10,000 calls.
- lanes: the engine `lanes` beside `cuda`, in turn, on DoorKey.
- tuning: the speed with other numbers of blocks, slots and steps between two looks, and with tests that wait.

It needs JAX with CUDA and a checkout of the repository; neither gymnasium, minigrid nor openai, and no network. Where
minigrid is not installed, layouts of its tasks come from a file of `--write-layouts`; without one they are left out.
Each result is written as soon as it is there. With --dry a CPU runs the text of the kernels, slowly and on less, and
they are compiled for an H200 where `jax[cuda13]` is installed. The exit code is 0 only if everything that was tried is
right.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the package need not be installed
if "--dry" in sys.argv:
    os.environ["JAX_PLATFORMS"] = "cpu"  # has to be set before JAX is imported

import jax
import numpy as np
from benchmark import DATA, LAYOUTS, LONG, climbing
from benchmark_timing import Row, in_turn, row

import jaxprl
from jaxprl.cli.common import path, run_process
from jaxprl.codegen import launch
from jaxprl.codegen.compiler import Unavailable
from jaxprl.codegen.launch import Emulated, Gpu
from jaxprl.codegen.without_gpu import H200, figures, launches, module_for_h200
from jaxprl.dsl import encode, sample
from jaxprl.errors import MissingPackage, unknown
from jaxprl.experiment.evaluator import Evaluator
from jaxprl.files import check_output
from jaxprl.runs.record import environment
from jaxprl.search.driver import drive
from jaxprl.search.protocol import search_keys
from jaxprl.search.rounds import several
from jaxprl.vm import cuda
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.kernel import gpu, gpu_worker, pieces
from jaxprl.vm.outcomes import Outcomes, Scale

TASKS = ("DoorKey", "CleanHouse", "Snake")
"""Tasks whose speed is measured."""
MINIGRID = ("LavaGap", "PutNear", "RedBlueDoor")
TOLERANCE = 1e-9
LONGEST = "DEF run m( REPEAT R=19 r( REPEAT R=19 r( REPEAT R=19 r( turnLeft turnRight r) r) r) m)"
PATIENCE = 40
"""Seconds after which a search is not repeated."""
BUDGET, SEARCHES = 200_000, (32, 256)


class Check:
    """What the sections share, and the report."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.failures: list[str] = []
        self.rows: list[Row] = []
        self.started = time.perf_counter()
        self.layouts: dict[str, jaxprl.Layout] = {}
        if options.layouts:
            self.layouts = read_layouts(options.layouts)

    def layouts_of(self, task: jaxprl.Task) -> jaxprl.Layout | None:
        """Return the layouts of a task; None if minigrid is needed for that and nobody gave them."""
        if task.name in self.layouts:
            return self.layouts[task.name]
        try:
            return task.layouts(LAYOUTS)
        except MissingPackage:
            return None

    def add(self, *rows: Row) -> None:
        """Add results, print them, and write all that there are."""
        for each in rows:
            self.rows.append(each)
            print(in_words(each), flush=True)
        if self.options.out:
            self.options.out.write_text(json.dumps(self.report(), indent=1) + "\n")

    def label(self, engine: str) -> str:
        """Return the name of an engine, which says so if a CPU stands for the GPU."""
        return f"{engine} on a CPU" if self.options.dry else engine

    def fail(self, message: str) -> None:
        self.failures.append(message)
        print(f"WRONG: {message}", flush=True)

    def report(self) -> dict[str, Any]:
        devices = [f"{device.device_kind}" for device in jax.local_devices()]
        seconds = round(time.perf_counter() - self.started, 1)
        return {
            "dry": self.options.dry, "devices": devices, "environment": environment(), "seconds": seconds,
            "failures": self.failures, "rows": self.rows,
        }  # fmt: skip


def in_words(each: Row) -> str:
    """Return a line of the table."""
    if "per second" in each:
        low, high = each["quartiles"]
        calls = f", {each['calls/s']:.3g} calls/s" if "calls/s" in each else ""
        return f"{each['name']:52}{each['per second']:14,.0f} {each['unit']}/s ({low:,.0f}-{high:,.0f}){calls}"
    return f"{each['name']:52}" + ", ".join(f"{key} {value}" for key, value in each.items() if key != "name")


def golden_rows(task: jaxprl.Task) -> list[dict[str, Any]]:
    """Return the golden programs of a task, with what the published system made of them."""
    file = DATA / f"returns_{task.language.name}.json.gz"
    if not file.exists():
        return []
    return json.loads(gzip.decompress(file.read_bytes()))["tasks"].get(task.name, {"programs": []})["programs"]


def check_golden(check: Check) -> None:
    """Run every golden program on 32 layouts; with --dry, some of them."""
    every = 25 if check.options.dry else 1
    for name in jaxprl.tasks():
        task = jaxprl.make(name)
        if isinstance(task, jaxprl.PythonTask) or not (rows := golden_rows(task)[::every]):
            continue
        layouts = check.layouts_of(task)
        if layouts is None:
            check.add({"name": f"golden programs, {name}", "left out": "its layouts come from minigrid (--layouts)"})
            continue
        started = time.perf_counter()
        found = evaluate(task, [jaxprl.parse(each["program"], task) for each in rows], layouts, engine="cuda")
        seconds = round(time.perf_counter() - started, 2)
        wrong = [each["program"] for each, right in zip(rows, is_right(found, rows), strict=True) if not right]
        check.add({"name": f"golden programs, {name}", "programs": len(rows), "wrong": len(wrong), "seconds": seconds})
        if wrong:
            check.fail(f"{name}: {len(wrong)} golden programs, {wrong[0]} for instance")


def is_right(found: Outcomes, rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return for which programs all returns, and all calls of runs that did not crash, are the published ones."""
    returns = np.array([each["returns"] for each in rows])
    calls = np.array([each["num_calls"] for each in rows])
    crashed = np.char.find(np.array([each["end"] for each in rows]), "C") >= 0
    return ((np.abs(found.returns - returns) <= TOLERANCE) & (crashed | (found.calls == calls))).all(axis=1)


def check_static(check: Check) -> None:
    """Compile the kernels of every task, and a round of hill climbing, and look at them."""
    launcher = H200 if check.options.dry else Gpu.present()
    try:
        for name in jaxprl.tasks():
            task = jaxprl.make(name)
            if isinstance(task, jaxprl.PythonTask) or (layouts := check.layouts_of(task)) is None:
                continue
            for worker, found in figures(kernel_of(task, layouts, launcher).code, launcher.capability).items():
                if worker in ("run_programs", "first_better"):
                    shown = {"registers": found.registers, "spilled": found.spilled, "stack": found.stack}
                    shown["occupancy"] = round(found.occupancy(gpu.THREADS), 2)
                    check.add({"name": f"{name}, {worker}", **shown})
                    if found.registers > 48 or found.spilled:
                        check.fail(f"{name}: {worker} has {found.registers} registers and spills {found.spilled} bytes")
        count = launches_of_a_round()
        check.add({"name": "hill climbing, 32 searches", "launches a round": count})
        if not 0 < count <= 30:
            check.fail(f"a round of hill climbing has {count} launches")
    except Unavailable as reason:
        check.add({"name": "static figures", "left out": str(reason)})


def kernel_of(task: jaxprl.Task, layouts: jaxprl.Layout, launcher: Gpu) -> gpu.Kernel:
    return gpu.kernel_of(*pieces.usual(task, layouts, cuda.Batches.slots), launcher)


def launches_of_a_round() -> int:
    """Return how many launches a round of hill climbing of 32 searches on DoorKey has, compiled for an H200."""
    task = task_named("DoorKey")
    layouts = task.layouts(LAYOUTS)
    scale, kernel = Scale.of(layouts), kernel_of(task, layouts, H200)
    search = climbing(task, scale.denominator, BUDGET)
    state = search.init(search_keys(range(32)))
    tables = jax.ShapeDtypeStruct((kernel.threads * kernel.slots * 4,), np.uint32)
    given = pieces.leaves_on_device(layouts), np.asarray(scale.weights, np.int32)

    def rounds(*args: Any) -> Any:
        with launch.using(H200):
            answer = cuda.Answering(kernel, scale.most)
            return several.__wrapped__(*args, ask=search.ask, tell=search.tell, answer=answer, width=64, count=16)

    memory = gpu.Memory(tables, np.zeros(1, np.uint32))
    return launches(module_for_h200(rounds, state, given, memory, donated=(2,))).round


def programs_of(task: jaxprl.Task, count: int) -> dict[str, np.ndarray]:
    """Return sets of programs, int32 [P, N]: neighbours of good programs that run long, random ones, golden ones."""
    golden = golden_rows(task)
    long = [each for each in golden if each["kind"] == "neighbour" and np.mean(each["num_calls"]) >= LONG] or golden
    good, all_golden = (
        encode.encode_all([jaxprl.parse(each["program"], task) for each in rows], task.language, encode.WIDTH)
        for rows in (long, golden)
    )
    random = np.asarray(sample.random_programs(task.language, jax.random.split(jax.random.key(0), count)))
    return {"good neighbours": np.resize(good, (count, encode.WIDTH)), "random": random, "golden": all_golden}


def check_speed(check: Check) -> None:
    """Measure evaluation by the engine `cuda`."""
    for name in TASKS:
        for kind, nodes in programs_of(task_named(name), 64 if check.options.dry else 16_384).items():
            compare(check, name, kind, nodes, ["cuda"], 5)


def check_lanes(check: Check) -> None:
    """Measure evaluation by both engines for GPUs, of few programs: it takes XLA long to compile for `lanes`."""
    engines = ["cuda"] if check.options.dry else ["cuda", "lanes"]
    for kind, nodes in programs_of(task_named("DoorKey"), 64 if check.options.dry else 1024).items():
        if kind != "golden":
            compare(check, "DoorKey", f"{kind}, few", nodes, engines, 3)


def compare(check: Check, name: str, kind: str, nodes: np.ndarray, engines: Sequence[str], repeats: int) -> None:
    """Measure engines in turn."""
    task = task_named(name)
    layouts = jax.tree.map(jax.numpy.asarray, task.layouts(LAYOUTS))
    jobs = [lambda e=engine: int(evaluate(task, nodes, layouts, engine=e).calls.sum()) for engine in engines]
    timings = in_turn(jobs, 1 if check.options.dry else repeats)
    for engine, (first, seconds, calls) in zip(engines, timings, strict=True):
        title = f"evaluate, {name}, {kind}, {check.label(engine)}"
        check.add(row(title, "programs", len(nodes), first, seconds, calls=calls))


def task_named(name: str) -> jaxprl.Task:
    task = jaxprl.make(name)
    assert isinstance(task, jaxprl.Task)
    return task


def check_search(check: Check) -> None:
    """Measure hill climbing, everything included."""
    task = task_named("DoorKey")
    for number in (4,) if check.options.dry else SEARCHES:
        evaluator = Evaluator(task, tuple(LAYOUTS), engine="cuda")
        search = climbing(task, evaluator.goal + 1, 300 if check.options.dry else BUDGET)  # a goal that nobody reaches

        def job() -> int:
            state = search.init(search_keys(range(number)))  # noqa: B023
            state = drive(search, state, evaluator.answer, record=lambda event: None, device=evaluator)  # noqa: B023
            return int(np.asarray(state.evaluated).sum())

        seconds: list[float] = []
        while not seconds or (len(seconds) < 4 and sum(seconds) < PATIENCE):
            started = time.perf_counter()
            evaluated = job()
            seconds.append(time.perf_counter() - started)
        first, seconds = seconds[0], seconds[1:] or seconds  # the first one has compilation in it
        title = f"hill climbing, {number} side by side, {check.label('cuda')}"
        check.add(row(title, "programs", evaluated, first, seconds))


def check_latency(check: Check) -> None:
    """Measure one run that is as long as runs can be."""
    task = task_named("DoorKey")
    layouts = task.layouts([0])
    program = [jaxprl.parse(LONGEST, task)]
    ((first, seconds, calls),) = in_turn([lambda: int(evaluate(task, program, layouts, engine="cuda").calls.sum())], 7)
    check.add(row(f"latency of one run, {check.label('cuda')}", "runs", 1, first, seconds, calls=calls))


def check_tuning(check: Check) -> None:
    """Measure DoorKey's good neighbours with other settings of the kernel."""
    task = task_named("DoorKey")
    layouts = jax.tree.map(jax.numpy.asarray, task.layouts(LAYOUTS))
    nodes = programs_of(task, 64 if check.options.dry else 16_384)["good neighbours"]
    expected = evaluate(task, nodes, layouts, engine="cuda").calls
    settings = [{"BLOCKS": blocks} for blocks in (6, 8, 10, 12)] + [{"LOOK": look} for look in (16, 256)]
    settings += [{"BALLOT": ballot} for ballot in (8, 16, 24)] + [{"slots": slots} for slots in (64, 1024)]
    for values in settings[-3:] if check.options.dry else settings:
        with changed(values):
            slots = values.get("slots")
            job = lambda: evaluate(task, nodes, layouts, engine="cuda", slots=slots).calls  # noqa: B023, E731
            ((first, seconds, calls),) = in_turn([job], 1 if check.options.dry else 3)
        title = f"tuning, {', '.join(f'{key} {value}' for key, value in values.items())}, {check.label('cuda')}"
        check.add(row(title, "programs", len(nodes), first, seconds, calls=int(calls.sum())))
        if not np.array_equal(calls, expected):
            check.fail(f"{title}: the runs are others")


@contextlib.contextmanager
def changed(values: dict[str, int]) -> Iterator[None]:
    """Change constants of the kernel for a while."""
    old = {name: getattr(gpu_worker, name) for name in values if hasattr(gpu_worker, name)}
    try:
        for name in old:
            for module in (gpu_worker, gpu):
                if hasattr(module, name):
                    setattr(module, name, values[name])
        gpu.forget()
        yield
    finally:
        for name, value in old.items():
            for module in (gpu_worker, gpu):
                if hasattr(module, name):
                    setattr(module, name, value)
        gpu.forget()


SECTIONS: dict[str, Callable[[Check], None]] = {
    "golden": check_golden,
    "static": check_static,
    "speed": check_speed,
    "search": check_search,
    "latency": check_latency,
    "tuning": check_tuning,
    "lanes": check_lanes,
}


def read_layouts(file: Path) -> dict[str, jaxprl.Layout]:
    """Return the layouts that `write_layouts` wrote. Raises UserError for another file."""
    try:
        found = pickle.loads(file.read_bytes())
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError, ImportError, TypeError) as error:
        raise jaxprl.UserError(f"--layouts {file}: not what --write-layouts writes: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(each, jaxprl.Layout) for each in found.values()):
        raise jaxprl.UserError(f"--layouts {file}: not what --write-layouts writes")
    return found


def write_layouts(file: Path) -> int:
    """Write the layouts of MiniGrid's tasks that have golden programs."""
    found = {name: jax.tree.map(np.asarray, jaxprl.make(name).layouts(LAYOUTS)) for name in MINIGRID}
    file.write_bytes(pickle.dumps(found))
    print(f"{file}: the layouts of {', '.join(found)}, {file.stat().st_size:,} bytes")
    return 0


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    if options.write_layouts:
        check_output(options.write_layouts, "--write-layouts")
        return write_layouts(options.write_layouts)
    for section in options.sections:
        if section not in SECTIONS:
            raise unknown("section", section, SECTIONS)
    if options.layouts and not options.layouts.is_file():
        raise jaxprl.UserError(f"--layouts {options.layouts}: there is no such file")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        check_output(options.out, "--out")
    check = Check(options)
    with contextlib.ExitStack() as stack:
        if options.dry:
            stack.enter_context(launch.using(Emulated()))
        try:
            launch.here()
        except Unavailable as reason:
            raise jaxprl.UserError(f"{reason}; --dry checks what can be checked without a GPU") from None
        for section in options.sections:
            started = time.perf_counter()
            try:
                SECTIONS[section](check)
            except (jaxprl.UserError, Unavailable, RuntimeError) as error:  # the other sections may still say something
                check.fail(f"section {section}: {type(error).__name__}: {error}")
            check.add({"name": f"section {section}", "seconds": round(time.perf_counter() - started, 1)})
    print("all right" if not check.failures else f"{len(check.failures)} things are wrong", flush=True)
    return 1 if check.failures else 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), help=", ".join(SECTIONS))
    parser.add_argument("--dry", action="store_true", help="without a GPU")
    parser.add_argument("--out", type=path, help="file for the results, JSON")
    parser.add_argument("--layouts", type=path, help="layouts of MiniGrid's tasks")
    parser.add_argument("--write-layouts", type=path, metavar="FILE", help="write such a file, and do nothing else")
    return parser


if __name__ == "__main__":
    sys.exit(run_process(main, sys.argv[1:]))
