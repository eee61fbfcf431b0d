"""LLM-guided search for programmatic reinforcement-learning policies, with worlds and programs as arrays.

Importing this package is light: a name is loaded when it is first used, and nothing is configured.

Example:
  >>> import jaxprl
  >>> task = jaxprl.make("DoorKey")
  >>> program = jaxprl.parse("DEF run m( WHILE c( frontIsClear c) w( move w) m)", task)
  >>> outcomes = jaxprl.evaluate(task, [program], layout_seeds=range(4))
  >>> outcomes.mean_returns.tolist()
  [0.0]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxprl import forks as _forks  # noqa: F401 (it notices a fork from here on)

__version__ = "0.2.0"

_MODULES = {
    "Config": "jaxprl.experiment.config",
    "Environment": "jaxprl.environments.functional",
    "Language": "jaxprl.dsl.language",
    "Layout": "jaxprl.worlds.task",
    "Method": "jaxprl.methods.base",
    "Outcomes": "jaxprl.vm.outcomes",
    "Proceeded": "jaxprl.vm.outcomes",
    "Program": "jaxprl.dsl.ast",
    "PythonTask": "jaxprl.worlds.task",
    "Search": "jaxprl.search.protocol",
    "Task": "jaxprl.worlds.task",
    "Trace": "jaxprl.vm.trace",
    "UserError": "jaxprl.errors",
    "check": "jaxprl.worlds.check",
    "draw": "jaxprl.render.world",
    "evaluate": "jaxprl.vm.evaluate",
    "make": "jaxprl.worlds.make",
    "make_env": "jaxprl.environments.functional",
    "parse": "jaxprl.dsl.parse",
    "prefer_whole_loops": "jaxprl.xla",
    "proceed": "jaxprl.vm.proceed",
    "register": "jaxprl.worlds.registry",
    "run": "jaxprl.experiment.run",
    "tasks": "jaxprl.worlds.registry",
    "trace": "jaxprl.vm.trace",
}
"""The public names and the modules that define them, but for `methods`: that package can be called."""

__all__ = [
    "Config", "Environment", "Language", "Layout", "Method", "Outcomes", "Proceeded", "Program", "PythonTask", "Search",
    "Task", "Trace", "UserError", "check", "draw", "evaluate", "make", "make_env", "methods", "parse",
    "prefer_whole_loops", "proceed", "register", "run", "tasks", "trace",
]  # fmt: skip

if TYPE_CHECKING:
    from jaxprl.dsl.ast import Program
    from jaxprl.dsl.language import Language
    from jaxprl.dsl.parse import parse
    from jaxprl.environments.functional import Environment, make_env
    from jaxprl.errors import UserError
    from jaxprl.experiment.config import Config
    from jaxprl.experiment.run import run
    from jaxprl.methods.base import Method
    from jaxprl.methods.registry import methods
    from jaxprl.render.world import draw
    from jaxprl.search.protocol import Search
    from jaxprl.vm.evaluate import evaluate
    from jaxprl.vm.outcomes import Outcomes, Proceeded
    from jaxprl.vm.proceed import proceed
    from jaxprl.vm.trace import Trace, trace
    from jaxprl.worlds.check import check
    from jaxprl.worlds.make import make
    from jaxprl.worlds.registry import register, tasks
    from jaxprl.worlds.task import Layout, PythonTask, Task
    from jaxprl.xla import prefer_whole_loops


def __getattr__(name: str) -> Any:
    if name == "methods":
        return importlib.import_module("jaxprl.methods")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # the next time it is found without this function
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
