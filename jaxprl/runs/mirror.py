"""A run's rows written on to TensorBoard or Weights & Biases. The run directory stays the record; this only adds."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxprl.errors import UserError, unknown

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""By what `--log-to` takes: also the names of the extras."""


class Mirror:
    """Passes rows of metrics.jsonl on; a failure of the receiver is told once and ends only the mirror.

    A resumed run writes the rows after its checkpoint again, with the same values at the same numbers of programs.
    """

    def __init__(self, write: Callable[[dict[str, Any]], None], close: Callable[[], None]):
        self._write, self._close = write, close
        self.broken = False

    def __call__(self, name: str, row: dict[str, Any]) -> None:
        """Take a row of the record `name`; only those of metrics.jsonl go on."""
        if name == "metrics.jsonl":
            self._try(lambda: self._write(row))

    def close(self) -> None:
        """Bring everything to the receiver."""
        self._try(self._close)

    def _try(self, action: Callable[[], None]) -> None:
        if self.broken:
            return
        try:
            action()
        except Exception as error:  # whatever a third package raises must not end a search
            self.broken = True
            print(f"warning: logging stops, the run goes on: {type(error).__name__}: {error}", file=sys.stderr)


def opener(kind: str) -> Callable[[Path], Mirror]:
    """Return what opens the mirror of a run directory. Raises UserError for an unknown kind or a missing package."""
    if kind not in PACKAGES:
        raise unknown("log", kind, PACKAGES)
    package = PACKAGES[kind]
    try:
        importlib.import_module(package)
    except ImportError:
        raise UserError(f"--log-to {kind} needs {package}: pip install -e '.[{kind}]'") from None
    return _tensorboard if kind == "tensorboard" else _wandb


def _tensorboard(directory: Path) -> Mirror:
    """Event files in the folder `tensorboard` of the run: a curve for each search seed against programs evaluated."""
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(directory / "tensorboard"))

    def write(row: dict[str, Any]) -> None:
        writer.add_scalar(f"return/seed-{row['seed']}", row["best"], row["evaluated"])
        writer.add_scalar(f"seconds/seed-{row['seed']}", row["seconds"], row["evaluated"])

    return Mirror(write, writer.close)


def _wandb(directory: Path) -> Mirror:
    """One run of Weights & Biases, named like the directory; project, mode and key are as its own variables say
    (WANDB_PROJECT, WANDB_MODE=offline, ...). Each seed has its own axis of programs evaluated."""
    import wandb

    try:
        run = wandb.init(dir=str(directory), name=directory.name)
    except wandb.Error as error:
        raise UserError(f"--log-to wandb: {error}") from None
    known: set[int] = set()

    def write(row: dict[str, Any]) -> None:
        seed = row["seed"]
        if seed not in known:
            known.add(seed)
            run.define_metric(f"seed {seed}/programs")
            run.define_metric(f"seed {seed}/*", step_metric=f"seed {seed}/programs")
        values = {"programs": row["evaluated"], "return": row["best"], "seconds": row["seconds"]}
        run.log({f"seed {seed}/{name}": value for name, value in values.items()})

    return Mirror(write, run.finish)
