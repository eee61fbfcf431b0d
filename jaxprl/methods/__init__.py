"""Named ways to search, one file each. `jaxprl.methods()` returns them by name.

Example:
  >>> import jaxprl
  >>> jaxprl.methods()["chain"].options()
  Options(max_nodes=20, neighbourhood='grammar', parts_share=0.8)
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxprl.methods.base import Method


class _Callable(types.ModuleType):
    """This package under the name of the function `jaxprl.methods`: whichever is imported first, both work."""

    def __call__(self) -> dict[str, Method]:
        from jaxprl.methods import registry  # imports every method

        return registry.methods()

    def __reduce__(self) -> tuple[Callable[[str], types.ModuleType], tuple[str]]:
        return importlib.import_module, (self.__name__,)  # pickled by name, like a function


sys.modules[__name__].__class__ = _Callable
