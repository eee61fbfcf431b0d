"""Searches and run directories that are made up, for tests of reports."""

import json
from pathlib import Path

from jaxprl.report.reading import Search


def search(seed, steps, *, finished=True, solved=False):
    """A search with the given (evaluated, best) steps, a second for each program."""
    rows = [{"seed": seed, "evaluated": n, "best": best, "seconds": float(n)} for n, best in steps]
    evaluated, best = steps[-1]
    result = {"seed": seed, "return": best, "evaluated": evaluated, "found_at": evaluated, "seconds": float(evaluated),
              "stop": "solved" if solved else "budget", "program": "p", "python": "p"}  # fmt: skip
    return Search(seed, rows, result if finished else None)


def write_run(path: Path, task: str, method: str, searches) -> Path:
    """Write the directory of a run that has left these searches."""
    path.mkdir(parents=True)
    config = {"task": task, "method": method, "seeds": [each.seed for each in searches]}
    (path / "config.json").write_text(json.dumps(config))
    (path / "env.json").write_text("{}")
    rows = [json.dumps(row) + "\n" for each in searches for row in each.rows]
    (path / "metrics.jsonl").write_text("".join(rows))
    for each in searches:
        if each.result:
            (path / f"seed-{each.seed}").mkdir()
            (path / f"seed-{each.seed}" / "result.json").write_text(json.dumps(each.result))
    return path
