"""List the published settings, or show what one sets on a task and where each value is stated.

jaxprl published                                   # all of them, with their tasks
jaxprl published carvalho-cebs --task MazeSparse   # one of them
jaxprl run --published carvalho-hc --task DoorKey --seeds 1-4 --out runs/hc
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from jaxprl.cli.common import command_parser, prepare_jax
from jaxprl.experiment import published
from jaxprl.experiment.config import Config
from jaxprl.experiment.job import resolve
from jaxprl.experiment.published import Setting, short
from jaxprl.methods.base import Job
from jaxprl.report.reading import in_ranges
from jaxprl.worlds.task import Task

_FIXED = ("k", "elite", "sigma")
"""Parameters of methods that have their own for each task, and no option for them."""
_WIDTH = 120


class Row(NamedTuple):
    """A value that a setting decides."""

    name: str
    ours: str
    """The value of the job."""
    theirs: str
    """The value of the source."""
    source: str


def main(arguments: Sequence[str]) -> int:
    parser = command_parser("published", __doc__)
    parser.add_argument("name", nargs="?", help="a setting to show (default: list them all)")
    parser.add_argument("--task", help="a task of the setting (default: DoorKey)")
    options = parser.parse_args(arguments)
    if options.name is None:
        for setting in published.SETTINGS.values():
            print(f"{setting.name:15} {setting.work}")
            print(textwrap.fill(", ".join(map(short, setting.tasks.value)), _WIDTH, initial_indent=" " * 16,
                                subsequent_indent=" " * 16))  # fmt: skip
        return 0
    setting = published.get(options.name)
    prepare_jax()
    print("\n".join(setting_in_words(setting, resolve(Config(task=options.task, published=setting.name)))))
    return 0


def setting_in_words(setting: Setting, job: Job) -> list[str]:
    """Return in words what a setting has decided for a job, where each value is stated, and what is not as there."""
    lines = [f"published setting {setting.name}: {setting.work}"]
    for row in rows(setting, job):
        same = row.ours == row.theirs
        source = row.source if same else f"DIFFERS from {row.theirs} in the source: {row.source}"
        lines.append(f"  {row.name:14} {row.ours:24} {source}")
    differences = list(setting.differences)
    if short(job.task_name) in setting.task_differences:
        differences.append(setting.task_differences[short(job.task_name)])
    lines.append("not as in the source:")
    for each in differences:
        lines += textwrap.wrap(each, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return lines


def rows(setting: Setting, job: Job) -> list[Row]:
    """Return the values that a setting decides, with those that the job has."""
    task = job.task_name
    full = next(name for name in setting.tasks.value if short(name) == short(task))
    found = [Row("task", _sized(job), _sized(job) if task == full else full, setting.tasks.source)]
    found.append(Row("method", job.method.name, setting.method.on(task), setting.method.source))
    for name, stated in setting.options.items():
        ours, theirs = getattr(job.options, name), stated.on(task)
        found.append(Row(name.replace("_", "-"), f"{ours}", f"{theirs}", stated.source))
    own = job.method.identity(job)
    for name in _FIXED:
        if name in own and not hasattr(job.options, name):
            found.append(Row(name, f"{own[name]}", f"{own[name]}", setting.method.source))
    found.append(Row("layouts", in_ranges(job.layouts), in_ranges(setting.layouts.on(task)), setting.layouts.source))
    found.append(Row("seeds", in_ranges(job.seeds), in_ranges(setting.seeds.on(task)), setting.seeds.source))
    found.append(Row("budget", f"{job.budget:,}", f"{setting.budget.on(task):,}", setting.budget.source))
    if setting.llm:
        found.append(Row("llm", job.llm, setting.llm.on(task), setting.llm.source))
    if setting.model:
        asked = job.settings.model if job.settings else "none, recorded answers" if job.uses_llm else "none"
        found.append(Row("model", asked, setting.model.on(task), setting.model.source))
    return found


def _sized(job: Job) -> str:
    """Return the name of a job's task, with the size of its world unless the name has it."""
    world = job.task.world if isinstance(job.task, Task) else None
    height, width = getattr(world, "height", None), getattr(world, "width", None)
    return job.task_name if "@" in job.task_name or not height else f"{job.task_name} ({height}x{width})"
