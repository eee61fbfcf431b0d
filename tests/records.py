"""What a run has left: its records and results without the times, in which no two runs are equal."""

import json
from pathlib import Path

from jaxprl.runs.record import RECORDS, read_lines


def timeless(row: dict) -> dict:
    return {name: value for name, value in row.items() if name != "seconds"}


def left_by(out: Path, *seeds: int) -> dict:
    """Every line of the records by file, in order, and every result by folder; those of some seeds if any are named."""
    folders = [out / f"seed-{seed}" for seed in seeds] or [file.parent for file in out.glob("seed-*/result.json")]
    left = {
        name: [timeless(row) for row in read_lines(out / name) if not seeds or row["seed"] in seeds]
        for name in RECORDS
        if (out / name).exists()
    }
    return left | {folder.name: timeless(json.loads((folder / "result.json").read_text())) for folder in folders}
