"""Train the program VAE, report on it, and write the model file that ships.

jaxprl train --out runs/vae                      # from scratch
jaxprl train --out runs/hprl --space-kind hprl   # the space of HPRL: 64 dimensions, simplified programs
jaxprl train --out runs/vae --resume             # go on from the newest checkpoint
jaxprl train --out runs/vae --resume --steps 0 --export karel.npz
jaxprl train --out runs/vae --resume --steps 0 --no-report --export karel.npz      # the model file alone

The data is made as it is used (`jaxprl/latent/data.py`). Each step's data and noise follow from the seed and the step's
number, so a training that was interrupted gives what an uninterrupted one gives. SIGTERM and SIGINT save and stop: exit
codes 75 and 130. Errors: 2.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxprl.cli.common import check_devices, command_parser, path, prepare_jax, whole
from jaxprl.errors import Stopped, UserError
from jaxprl.files import check_output
from jaxprl.latent import data, quality, train
from jaxprl.latent.grammar import Grammar
from jaxprl.latent.kinds import KINDS, LEAPS
from jaxprl.latent.space import LatentSpace, Origin
from jaxprl.runs.checkpoint import Checkpoints, Every, Saved, flat, rebuilt
from jaxprl.runs.record import RunDirectory, environment
from jaxprl.runs.signals import CODES, StopRequest
from jaxprl.worlds import seeds

STEPS = 4
"""Steps of one compiled call."""
MOST_STEPS = 2**31 - 1
"""The most steps of a training, whose number is an int32."""
PROGRAMS = 4096
"""Held-out programs and draws of the report, unless another number is asked for."""
EVALUATED = 512
"""Held-out programs looked at on the way."""


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    recipe, every = train.Recipe.of(KINDS[options.space_kind], seed=options.seed), checked(options)
    prepare_jax()
    check_devices()
    directory = RunDirectory(options.out, dataclasses.asdict(recipe), resume=options.resume)
    try:
        training = Training(recipe, directory)
        training.load()
        with StopRequest() as stop:
            training.run(options.steps, options.seconds, every, stop)
        origin = training.report(options.report_programs or PROGRAMS) if not options.no_report else training.origin()
        if options.export:
            training.export(options.export, origin)
    finally:
        directory.close()
    return 0


class Training:
    """A training in its run directory."""

    def __init__(self, recipe: train.Recipe, directory: RunDirectory):
        self.recipe, self.directory = recipe, directory
        self.task = data.RANDOM_STATES
        self.grammar = Grammar.of(recipe.kind.language(self.task.language))
        self.checkpoints = Checkpoints(directory)
        self.state = train.start(recipe, self.grammar)
        self.seconds = 0.0
        self.held_out: np.ndarray | None = None

    def load(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        saved = self.checkpoints.load()
        self.directory.cut(saved.facts["records"] if saved else {})
        if saved:
            self.state = rebuilt(self.state, "", saved.arrays)
            self.seconds = saved.facts["seconds"]

    def save(self) -> None:
        self.checkpoints.save(Saved(flat(self.state, ""), {"seconds": self.seconds}))

    def run(self, steps: int, limit: float, every: Every, stop: StopRequest) -> None:
        """Train up to `steps` steps or for `limit` seconds, evaluating every 500 steps.

        Raises:
          UserError: that is no step, and none was taken before.
        """
        started = saved = time.monotonic()
        before, step = self.seconds, int(self.state.step)
        if step < steps and limit > 0:
            print("compiling the training step", flush=True)
        while step < steps and time.monotonic() - started < limit:
            ahead = min(STEPS - step % STEPS, steps - step)  # so that later calls end at the same steps again
            self.state, parts = train.advance(self.recipe, self.grammar, self.task, self.state, ahead)
            step = int(self.state.step)
            self.seconds = before + time.monotonic() - started
            if step % 100 == 0 or step <= STEPS:
                self._record(step, {name: float(value) for name, value in parts.items()})
            if stop.signal or time.monotonic() - saved > every.seconds:
                self.save()
                saved = time.monotonic()
            if stop.signal:
                raise Stopped(f"stopped after {step:,} steps; --resume goes on", CODES[stop.signal])
        if not step:
            raise UserError("nothing has been trained yet: it takes more --steps or --seconds")
        if self.seconds > before:
            self.save()

    def _record(self, step: int, row: dict[str, float]) -> None:
        if step % 500 == 0:
            if self.held_out is None:
                self.held_out = data.held_out_programs(self.task, 0, EVALUATED, self.recipe.kind)
            found = quality.reconstruction(self.grammar, self.state.average, self.held_out, self.recipe.kind)
            row["held_out"] = found["programs"]
        self.directory.append("metrics.jsonl", {"step": step, "seconds": round(self.seconds, 1), **row})
        held_out = f" | held-out programs {row['held_out']:.3f}" if "held_out" in row else ""
        print(
            f"step {step:,} | loss {row['loss']:.3f} | tokens {row['token_accuracy']:.3f} | "
            f"actions {row['action_accuracy']:.3f} | kl {row['kl']:.3f}{held_out} | {self.seconds:.0f} s",
            flush=True,
        )

    def origin(self) -> Origin:
        """Return how the model was trained, without a report."""
        device = environment()
        kind = "" if self.recipe.kind is LEAPS else f"--space-kind {self.recipe.space_kind} "
        return Origin(
            command=f"jaxprl train {kind}--seed {self.recipe.seed} --steps {int(self.state.step)}",
            seed=self.recipe.seed,
            steps=int(self.state.step),
            seconds=round(self.seconds),
            device=f"{device['device']} ({device['processor']})",
        )

    def report(self, programs: int) -> Origin:
        """Write report and curve, and return the origin of the model with the report."""
        average, kind = self.state.average, self.recipe.kind
        found = quality.full_report(self.grammar, self.task, average, programs=programs, kind=kind)
        origin = dataclasses.replace(self.origin(), report=found)
        self.directory.write_json("report.json", dataclasses.asdict(origin))
        text = quality.in_words(dataclasses.asdict(origin), self.directory.path / "metrics.jsonl")
        (self.directory.path / "report.txt").write_text(text, encoding="utf-8")
        print(text)
        return origin

    def export(self, file: Path, origin: Origin) -> None:
        """Write the model file."""
        LatentSpace(self.grammar, self.state.average, origin, self.recipe.space_kind).save(file)
        print(f"model -> {file}")


def checked(options: argparse.Namespace) -> Every:
    """Check all options but the seed, before any work begins, and return the interval of checkpoints.

    Raises:
      UserError: an option is out of range, does not go with another one, or names a file that cannot be written.
    """
    if not options.seconds >= 0:  # not a number either
        raise UserError(f"--seconds {options.seconds:g}: it goes from 0 on")
    goes_on = options.resume and (options.out / "config.json").exists()
    if not goes_on and not min(options.steps, options.seconds):
        raise UserError("nothing is trained with --steps 0 or --seconds 0; they are for a training that goes on")
    every = Every.parse(options.checkpoint_every)
    if every.seconds == float("inf") or every.programs < float("inf"):
        raise UserError(f"--checkpoint-every {options.checkpoint_every}: a training saves by time, like 300s")
    if options.no_report and options.report_programs is not None:
        raise UserError("--report-programs is for the report, which --no-report leaves out")
    if options.export:
        _check_export(options.export, options.out)
    return every


def _check_export(file: Path, out: Path) -> None:
    """Raise UserError unless the model file can be written at the end of a training in the run directory `out`."""
    place, out = file.resolve(), out.resolve()
    if place in (out, *out.parents):
        raise UserError(f"--export {file}: that is a folder of the run directory {out}")
    if place.parent == out and place.suffix != ".npz":
        raise UserError(f"--export {file}: in the run directory it has to end in .npz, like no file of the run")
    if place.parent != out or out.exists():  # a new run makes its directory itself
        check_output(file, "--export")


def parser() -> argparse.ArgumentParser:
    parser = command_parser("train", __doc__)
    parser.add_argument("--out", type=path, default=Path("runs/vae"), help="run directory")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the run directory")
    parser.add_argument("--space-kind", choices=list(KINDS), default=LEAPS.name, help="default: leaps")
    parser.add_argument("--seed", type=whole(0, seeds.MOST), default=0, help=f"0 (the default) to {seeds.MOST}")
    parser.add_argument("--steps", type=whole(0, MOST_STEPS), default=40_000, help="steps at which the training ends")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="or the seconds that it may go on now")
    parser.add_argument("--checkpoint-every", default="300s", help="how often to save, like 300s")
    parser.add_argument("--export", type=path, help="write the model to this file")
    parser.add_argument("--no-report", action="store_true", help="leave the report out")
    parser.add_argument(
        "--report-programs",
        type=whole(1, quality.MOST_PROGRAMS),
        help=f"held-out programs and draws of the report (default: {PROGRAMS})",
    )
    return parser
