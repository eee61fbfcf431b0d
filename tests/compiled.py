"""The engines whose code is compiled, as far as they are there."""

import shutil

from jaxprl.vm.evaluate import ENGINES as ALL_ENGINES
from jaxprl.vm.kernel import compiler

HAS_C_COMPILER = any(map(shutil.which, compiler.COMPILERS))
MISSING = {"plain"} if HAS_C_COMPILER else {"plain", "native"}
ENGINES = tuple(name for name in ALL_ENGINES if name not in MISSING)
