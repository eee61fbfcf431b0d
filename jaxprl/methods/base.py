"""What a method is: a named way to search, as a value.

A method has a name, a frozen dataclass of its own options, a check of what it is asked to do, and a function that
builds its `Search`. Nothing outside this package depends on which method it is: the command line makes its flags from
the options, a run drives the search.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxprl.errors import UserError
from jaxprl.files import expanded
from jaxprl.llm.programs import Answers, Ask
from jaxprl.llm.settings import Settings
from jaxprl.search.protocol import Event, Search
from jaxprl.types import JSON
from jaxprl.vm.outcomes import Outcomes, Proceeded, Scale
from jaxprl.worlds.task import Layout, PythonTask, Task

Value = Any
"""Value of an option: a number, a text or a path."""

LLMS = ("recorded", "openai", "none")
"""Where programs of a language model come from: `recorded` answers, a server with OpenAI's interface, or nowhere."""


def option(default: Value, help: str) -> Value:
    """Return the field of an option; `help` is its line on the command line, without the default."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a method that has none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a method is asked to do, with every name resolved (`experiment.job.resolve`)."""

    task: Task | PythonTask
    task_name: str
    """The task's name as the user wrote it."""
    method: Method
    options: Value
    """An instance of `method.options`."""
    seeds: tuple[int, ...]
    layouts: tuple[int, ...]
    """Layout seeds that programs are evaluated on."""
    budget: int
    """Programs that a search may evaluate."""
    llm: str
    """One of `LLMS`."""
    settings: Settings | None
    """The language model to ask, or whose cached answers are read; None for neither."""
    style: str
    """Style of the prompts."""
    published: str | None = None
    """Name of the published setting that the job follows, if it follows one."""

    @property
    def asks(self) -> bool:
        """Whether a language model, or the cache of its answers, is asked."""
        return self.settings is not None

    @property
    def uses_llm(self) -> bool:
        """Whether programs of a language model take part, asked for or recorded."""
        return self.llm != "none"

    @property
    def bundled(self) -> bool:
        """Whether the recorded answers that ship with the package are used."""
        return self.llm == "recorded" and not self.asks


class Log(Protocol):
    """Where a method writes down what becomes of the language model's answers. Searches are identified by their
    index."""

    def record(self, event: Event) -> None:
        """Record a new best program."""

    def record_answers(self, search: int, answers: Answers) -> None:
        """Record answers that a search has used or rejected."""

    def add_fact(self, search: int, name: str, value: JSON) -> None:
        """Add facts to those of a search's answers in its result."""

    def record_round(self, search: int, row: JSON) -> None:
        """Record what one occasion of asking brought."""

    def record_update(self, search: int, row: JSON) -> None:
        """Record what an update of a search's policy was like."""

    def leave_out(self, search: int, why: str) -> None:
        """Leave out a search that has no program to start from. Raises UserError if no search is left."""

    def best(self, search: int) -> np.ndarray:
        """Return the best program of a search so far, nodes int32 [N]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What a run offers to the search that a method builds."""

    job: Job
    layouts: Layout
    """The E layouts that programs are evaluated on."""
    scale: Scale
    """From returns on those layouts to scores."""
    evaluate: Callable[[np.ndarray], Outcomes]
    """Programs, nodes int32 [P, N] -> their outcomes on the layouts."""
    proceed: Callable[[np.ndarray, Layout], Proceeded]
    """Programs, nodes int32 [P, N], and P layouts -> how their runs ended, and where (`vm.proceed`)."""
    language_model: Ask | None
    """Asks the language model, if the job names one."""
    log: Log

    @property
    def goal(self) -> int:
        """Score of return 1."""
        return self.scale.denominator


def _accept(job: Job) -> None:
    """Accept every job."""


def _as_always(options: Value) -> None:
    """Return None: options make no difference."""


def _own_options(job: Job) -> JSON:
    return {name: str(value) if hasattr(value, "__fspath__") else value for name, value in vars(job.options).items()}


@dataclasses.dataclass(frozen=True)
class Method:
    """A named way to search.

    Adding one takes a file in `methods/` that makes this value, a line in `methods/registry.py`, and the search itself
    in `search/`.

    Example:
      >>> import jaxprl
      >>> method = jaxprl.methods()["hc"]
      >>> method.make_options({"k": 100})
      Options(k=100, neighbourhood='grammar', parts_share=0.8)
    """

    name: str
    summary: str
    """What it does, in a line."""
    build: Callable[[Setup], Search]
    """Builds the search of a run."""
    options: type = NoOptions
    """A frozen dataclass of its own parameters, with fields made by `option`."""
    check: Callable[[Job], None] = _accept
    """Raises UserError for a job that it cannot carry out, before anything is run."""
    llms: tuple[str, ...] = ("none",)
    """Those of `LLMS` that it can take programs from, the default first."""
    llms_with: Callable[[Value], tuple[str, ...] | None] = _as_always
    """Those with certain options, where these make a difference; None where they make none."""
    identity: Callable[[Job], JSON] = _own_options
    """What a resumed run has to have in common with the one before, besides what all methods have."""

    def make_options(self, values: object) -> Value:
        """Return the method's options.

        Args:
          values: a dictionary of names and values, the others at their defaults; or an instance of `options`.

        Raises:
          UserError: the method has no such option, or a value is of the wrong type.
        """
        if isinstance(values, self.options):
            return values
        if not isinstance(values, Mapping):
            raise UserError(f"options {values!r}: expected a dictionary of names and values")
        known = {field.name: field for field in dataclasses.fields(self.options)}
        if strange := [str(name) for name in values if name not in known]:
            own = ", ".join(map(flag, known))
            its = f"its options: {own}" if own else "it has no options"
            raise UserError(f"method {self.name} has no option {', '.join(map(flag, strange))}; {its}")
        kinds = option_types(self.options)
        return self.options(**{name: _fitting(known[name], value, kinds[name]) for name, value in values.items()})


def flag(name: str) -> str:
    """Return an option's flag on the command line: `--revise-every` for `revise_every`."""
    return "--" + name.replace("_", "-")


def option_lines(options: type) -> dict[str, str]:
    """Return a line for each option of a method, with its default."""
    lines = {}
    for field in dataclasses.fields(options):
        shown = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
        lines[field.name] = field.metadata["help"] + ("" if field.default is None else f" (default: {shown})")
    return lines


@functools.cache
def option_types(options: type) -> dict[str, type]:
    """Return the type of each option: int, float, str or Path. That of `int | None` is int."""
    found = {}
    for name, hint in typing.get_type_hints(options).items():
        parts = [part for part in typing.get_args(hint) if part is not types.NoneType]
        found[name] = parts[0] if parts else hint
    return found


def _fitting(field: dataclasses.Field, value: Value, kind: type) -> Value:
    """Return an option's value in the type of its field. Raises UserError if it does not fit."""
    if value is None and field.default is None:
        return None
    try:
        fitting = expanded(value) if kind is Path else kind(value)
    except UserError as error:
        raise UserError(f"{flag(field.name)}: {error}") from None
    except (TypeError, ValueError, OverflowError):
        fitting = None
    if fitting is None or isinstance(value, bool) or (kind is int and fitting != value):
        expected = {int: "a whole number", float: "a number"}.get(kind, f"a {kind.__name__}")
        raise UserError(f"{flag(field.name)} {value!r}: expected {expected}")
    return fitting
