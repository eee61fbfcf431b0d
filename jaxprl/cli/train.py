"""Train the program VAE, report on it, and write the model file that ships.

jaxprl train --out runs/vae                      # from scratch
jaxprl train --out runs/vae --resume             # go on from the newest checkpoint
jaxprl train --out runs/vae --resume --steps 0 --export karel.npz

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

from jaxprl.cli.common import command_parser, prepare_jax
from jaxprl.errors import Stopped, UserError
from jaxprl.latent import data, quality, train
from jaxprl.latent.grammar import Grammar
from jaxprl.latent.space import LatentSpace, Origin
from jaxprl.runs.checkpoint import Checkpoints, Every, Saved, flat, rebuilt
from jaxprl.runs.record import RunDirectory, environment
from jaxprl.runs.signals import CODES, StopRequest

STEPS = 4
"""Steps of one compiled call."""
EVALUATED = 512
"""Held-out programs looked at on the way."""


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    prepare_jax()
    recipe = train.Recipe(seed=options.seed)
    directory = RunDirectory(options.out, dataclasses.asdict(recipe), resume=options.resume)
    try:
        training = Training(recipe, directory)
        training.load()
        with StopRequest() as stop:
            training.run(options.steps, options.seconds, Every.parse(options.checkpoint_every), stop)
        if options.export or not options.no_report:
            training.finish(options.export, programs=options.report_programs)
    finally:
        directory.close()
    return 0


class Training:
    """A training in its run directory."""

    def __init__(self, recipe: train.Recipe, directory: RunDirectory):
        self.recipe, self.directory = recipe, directory
        self.task = data.RANDOM_STATES
        self.grammar = Grammar.of(self.task.language)
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
        """Train up to `steps` steps or for `limit` seconds, evaluating every 500 steps."""
        started = saved = time.monotonic()
        before = self.seconds
        while int(self.state.step) < steps and time.monotonic() - started < limit:
            self.state, parts = train.advance(self.recipe, self.grammar, self.task, self.state, STEPS)
            step = int(self.state.step)
            self.seconds = before + time.monotonic() - started
            if step % 100 == 0 or step == STEPS:
                self._record(step, {name: float(value) for name, value in parts.items()})
            if stop.signal or time.monotonic() - saved > every.seconds:
                self.save()
                saved = time.monotonic()
            if stop.signal:
                raise Stopped(f"stopped after {step:,} steps; --resume goes on", CODES[stop.signal])
        if time.monotonic() != started and int(self.state.step) > 0 and self.seconds > before:
            self.save()

    def _record(self, step: int, row: dict[str, float]) -> None:
        if step % 500 == 0:
            if self.held_out is None:
                self.held_out = data.held_out_programs(self.task, 0, EVALUATED)
            row["held_out"] = quality.reconstruction(self.grammar, self.state.average, self.held_out)["programs"]
        self.directory.append("metrics.jsonl", {"step": step, "seconds": round(self.seconds, 1), **row})
        held_out = f" | held-out programs {row['held_out']:.3f}" if "held_out" in row else ""
        print(
            f"step {step:,} | loss {row['loss']:.3f} | tokens {row['token_accuracy']:.3f} | "
            f"actions {row['action_accuracy']:.3f} | kl {row['kl']:.3f}{held_out} | {self.seconds:.0f} s",
            flush=True,
        )

    def finish(self, export: Path | None, *, programs: int) -> None:
        """Write report and curve, and the model file if that is wanted."""
        if not int(self.state.step):
            raise UserError("nothing has been trained yet")
        found = quality.full_report(self.grammar, self.task, self.state.average, programs=programs)
        device = environment()
        origin = Origin(
            command=f"jaxprl train --seed {self.recipe.seed} --steps {int(self.state.step)}",
            seed=self.recipe.seed,
            steps=int(self.state.step),
            seconds=round(self.seconds),
            device=f"{device['device']} ({device['processor']})",
            report=found,
        )
        self.directory.write_json("report.json", dataclasses.asdict(origin))
        text = quality.in_words(dataclasses.asdict(origin), self.directory.path / "metrics.jsonl")
        (self.directory.path / "report.txt").write_text(text)
        print(text)
        if export:
            LatentSpace(self.grammar, self.state.average, origin).save(export)
            print(f"model -> {export}")


def parser() -> argparse.ArgumentParser:
    parser = command_parser("train", __doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/vae"), help="run directory")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the run directory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=40_000, help="steps at which the training ends")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="or the seconds that it may go on now")
    parser.add_argument("--checkpoint-every", default="300s", help="how often to save, like 300s")
    parser.add_argument("--export", type=Path, help="write the model to this file")
    parser.add_argument("--no-report", action="store_true", help="leave the report out")
    parser.add_argument("--report-programs", type=int, default=4096, help="held-out programs and draws of the report")
    return parser
