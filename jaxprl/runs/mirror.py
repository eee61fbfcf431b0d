"""Copying the metrics of a run to TensorBoard or Weights & Biases. The run directory remains the record."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from jaxprl.errors import UserError, needed_by, unknown
from jaxprl.output import say
from jaxprl.types import JSON

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""The package behind each value of `--log-to`. The values are also the names of the extras that install them."""


class Mirror:
    """Passes the rows of metrics.jsonl on to another service.

    If the service fails, a warning is printed and nothing more is passed on; the run continues. A resumed run passes on
    the rows after its checkpoint again, with the same values and numbers of programs.

    Args:
      write: takes a row of metrics.jsonl.
      close: called once at the end.
    """

    def __init__(self, write: Callable[[JSON], None], close: Callable[[], None]):
        self._write, self._close = write, close
        self.broken = False

    def __call__(self, name: str, row: JSON) -> None:
        """Pass on a row of a record.

        Args:
          name: name of the record. Rows of other records than metrics.jsonl are ignored.
          row: the row.
        """
        if name == "metrics.jsonl":
            self._try(lambda: self._write(row))

    def close(self) -> None:
        """Wait until the service has received everything."""
        self._try(self._close)

    def _try(self, action: Callable[[], None]) -> None:
        if self.broken:
            return
        try:
            action()
        except Exception as error:  # whatever another package raises must not end a search
            self.broken = True
            say(f"warning: logging stops, the run goes on: {type(error).__name__}: {error}")


def opener(kind: str) -> Callable[[Path], Mirror]:
    """Return a function that opens a mirror for a run directory.

    Args:
      kind: `tensorboard` or `wandb`.

    Returns:
      A function from the run directory to its mirror.

    Raises:
      UserError: the kind is unknown, or its package is not installed.
    """
    if kind not in PACKAGES:
        raise unknown("log", kind, PACKAGES)
    with needed_by(f"--log-to {kind}", extra=kind):
        importlib.import_module(PACKAGES[kind])
    return _tensorboard if kind == "tensorboard" else _wandb


def _tensorboard(directory: Path) -> Mirror:
    """Write event files to the folder `tensorboard` of the run: for each seed, curves against programs evaluated."""
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(directory / "tensorboard"))

    def write(row: JSON) -> None:
        writer.add_scalar(f"return/seed-{row['seed']}", row["best"], row["evaluated"])
        writer.add_scalar(f"seconds/seed-{row['seed']}", row["seconds"], row["evaluated"])

    return Mirror(write, writer.close)


def _wandb(directory: Path) -> Mirror:
    """Write to a run of Weights & Biases that is named like the directory.

    Project, mode and key come from the environment variables of the service (WANDB_PROJECT, WANDB_MODE=offline, ...).
    Each seed has its own axis of programs evaluated.
    """
    import wandb

    try:
        run = wandb.init(dir=str(directory), name=directory.name)
    except wandb.Error as error:
        raise UserError(f"--log-to wandb: {error}") from None
    known: set[int] = set()

    def write(row: JSON) -> None:
        seed = row["seed"]
        if seed not in known:
            known.add(seed)
            run.define_metric(f"seed {seed}/programs")
            run.define_metric(f"seed {seed}/*", step_metric=f"seed {seed}/programs")
        values = {"programs": row["evaluated"], "return": row["best"], "seconds": row["seconds"]}
        run.log({f"seed {seed}/{name}": value for name, value in values.items()})

    return Mirror(write, run.finish)
