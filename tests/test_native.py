"""The native scalar interpreter of the benchmark returns what `evaluate` returns."""

import functools
import importlib.util
from pathlib import Path

import golden
import numpy as np
import pytest

from jaxprl.dsl import encode, text
from jaxprl.vm.compile import counter_bits, instructions
from jaxprl.vm.outcomes import pack
from jaxprl.worlds.make import make

pytest.importorskip("numba")

FILE = Path(__file__).parent.parent / "experiments" / "native.py"


@functools.cache
def native():
    """Return the module; it is compiled once."""
    spec = importlib.util.spec_from_file_location("native", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["DoorKey", "CleanHouse", "HarvesterSparse"])
def test_native_interpreter_agrees_with_evaluate(name):
    task = make(name)
    rows = [*golden.returns(name), *golden.edge_cases(name)]
    nodes = encode.encode_all([text.from_text(row.program, task.language) for row in rows], task.language)
    code = np.asarray(instructions(nodes, bits=counter_bits(nodes)))
    found = native().run_programs(name, code, task.layouts(range(4)))
    assert np.array_equal(found, pack(golden.evaluated(name, rows, layouts=4)))
