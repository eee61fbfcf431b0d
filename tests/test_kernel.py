"""The translation of array code to C (`jaxprl/vm/kernel/`): the compiled text gives what XLA gives."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprl
from jaxprl.dsl import encode
from jaxprl.vm.compile import instructions_of
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.instruction import CHAIN
from jaxprl.vm.kernel import stablehlo, text
from jaxprl.vm.machine import Machine, fetch_from
from jaxprl.vm.memory import Direct

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
NODES, SLOTS, EPISODES = 64, 4096, 4


def compiled(folder, source):
    """Return the library of a text."""
    (folder / "text.c").write_text(text.PRELUDE + source)
    command = [COMPILER, "-O1", "-fwrapv", "-shared", "-fPIC", "-w", "text.c", "-o", "text.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "text.so"))


def address(array):
    return ctypes.c_void_p(array.ctypes.data)


def caller(folder, function, examples):
    """Return a function that calls the translation of a JAX function of arrays, with arrays as its results."""
    shapes = [jax.ShapeDtypeStruct(example.shape, example.dtype) for example in examples]
    as_rows = lambda *args: [jnp.atleast_1d(leaf) for leaf in jax.tree.leaves(function(*args))]  # noqa: E731
    results = jax.eval_shape(as_rows, *shapes)
    inputs, outputs = ([f"{word}{i}" for i in range(len(rows))] for word, rows in (("in", shapes), ("result", results)))
    source = text.write(stablehlo.translate("translated", as_rows, shapes, inputs), outputs)
    scalars = [
        f"*(const {text.c_type(str(s.dtype))} *)p[{i}]" if s.shape == () else f"p[{i}]" for i, s in enumerate(shapes)
    ]
    passed = ", ".join([*scalars, *(f"p[{len(shapes) + i}]" for i in range(len(results)))])
    library = compiled(folder, f"{source}\nvoid call(void **p) {{ translated({passed}); }}\n")

    def call(*args):
        rows = [np.ascontiguousarray(arg) for arg in args]
        found = [np.zeros(result.shape, result.dtype) for result in results]
        library.call((ctypes.c_void_p * (len(rows) + len(found)))(*(array.ctypes.data for array in [*rows, *found])))
        return found

    return call, as_rows


def same(folder, function, *examples):
    """Check that a translation gives what XLA gives for several sets of arguments of one shape."""
    call, reference = caller(folder, function, examples[0])
    for args in examples:
        for found, expected in zip(call(*args), jax.jit(reference)(*args), strict=True):
            np.testing.assert_array_equal(found, expected)


NUMBERS = [0, 1, 2, 3, 31, 32, 33, 1000, 2**31 - 1, -1, -2, -31, -32, -33, -(2**31)]


@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int8, np.uint8, np.int16, np.uint16])
def test_arithmetic_of_xla(tmp_path, kind):
    def everything(x, y):
        lax = jax.lax
        signed = jnp.issubdtype(x.dtype, jnp.signedinteger)
        return [
            x + y, x - y, x * y, lax.div(x, y), lax.rem(x, y), lax.max(x, y), lax.min(x, y), x & y, x | y, x ^ y, ~x,
            lax.shift_left(x, y), lax.shift_right_logical(x, y), lax.shift_right_arithmetic(x, y), lax.sign(x),
            x < y, x <= y, x == y, x != y, x > y, x >= y, lax.population_count(x), lax.clz(x), x.astype(bool),
            x.astype(jnp.int32), x.astype(jnp.uint8), x.astype(jnp.int16), lax.clamp(y, x, lax.max(x, y)),
            *([-x, lax.abs(x), x // y, x % y] if signed else []),
        ]  # fmt: skip

    pairs = np.array([(a, b) for a in NUMBERS for b in NUMBERS], np.int64).astype(kind).T
    same(tmp_path, everything, (pairs[0], pairs[1]))
    scalars = [(kind(a), kind(b)) for a, b in pairs.T[::7]]
    (tmp_path / "scalars").mkdir()
    same(tmp_path / "scalars", everything, *scalars)


def test_arrays_of_xla(tmp_path):
    def everything(table, index, amount):
        grid = table.reshape(4, 5)
        near, matrix = table[:2], jnp.outer(table, table)
        return [
            table[index], grid[index % 4, 2], table.at[index].set(amount), table.at[index].add(amount), grid.T,
            grid[::-1, 1:], jnp.cumsum(table), jax.lax.cummin(table), jax.lax.cummin(table, reverse=True),
            jnp.argmax(table), jnp.argmin(grid, axis=1), jnp.roll(table, 3), jnp.concatenate([table, grid[0]]),
            jnp.pad(table, (1, 2), constant_values=7), jnp.sum(grid, 0), jnp.any(grid == amount, axis=1),
            jnp.all(grid < amount), table.at[grid[:2, 0]].get(mode="fill", fill_value=-1),
            jax.lax.dynamic_slice(table, (index,), (12,)), jax.lax.dynamic_update_slice(table, grid[1], (index,)),
            jnp.select([table < 0, table > 5], [table, -table], amount), near[jnp.clip(index, 0, 1)],
            jnp.where(matrix > amount, 1, 0).sum(1), jnp.take(table, grid, mode="clip"),
        ]  # fmt: skip

    rng = np.random.default_rng(0)
    tables = rng.integers(-10, 10, (12, 20), dtype=np.int32)
    same(tmp_path, everything, *((row, np.int32(i * 5 - 25), np.int32(i - 6)) for i, row in enumerate(tables)))


def test_loops_and_branches_that_share_arrays(tmp_path):
    def function(table, count):
        def swap(i, pair):  # the two arrays change places, so neither can stay where it is
            first, second = pair
            return second.at[i % 16].add(i), first.at[0].set(second[3])

        first, second = jax.lax.fori_loop(0, count, swap, (table, table * 2))
        branch = jax.lax.switch(count % 3, [lambda t: t.at[2].set(5), lambda t: t, lambda t: t * 3], first)
        old, new = branch, branch.at[1].set(9)  # both are used afterwards
        kept = jax.lax.while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, c[1].at[c[0]].set(table[c[0]])), (0, new))[1]
        return first, second, old, new, kept, table

    tables = np.random.default_rng(0).integers(-10, 10, (7, 16), dtype=np.int32)
    same(tmp_path, function, *((row, np.int32(i)) for i, row in enumerate(tables)))


def test_random_numbers(tmp_path):
    def draw(seed, number):
        key = jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), number)
        return jax.random.key_data(jax.random.split(key, 3)), jax.random.bits(key, (5,))

    rows = np.random.default_rng(0).integers(0, 2**32, (5, 2), dtype=np.uint32)
    same(tmp_path, draw, *((row, np.int32(i)) for i, row in enumerate(rows)))


def test_what_is_not_translated_is_named():
    shapes = [jax.ShapeDtypeStruct((16,), np.int32)]
    with pytest.raises(stablehlo.Unsupported, match=r"stablehlo\.sort"):
        stablehlo.translate("f", lambda x: [jnp.sort(x)], shapes, ["x"])
    with pytest.raises(stablehlo.Unsupported, match="values of type f32"):
        stablehlo.translate("f", lambda x: [x], [jax.ShapeDtypeStruct((16,), np.float32)], ["x"])


def golden_nodes(task, step):
    rows = golden.load(f"returns_{task.language.name}")["tasks"][task.name]["programs"][::step]
    return encode.encode_all([jaxprl.parse(row["program"], task) for row in rows], task.language)


def test_instructions(tmp_path):
    nodes = golden_nodes(jaxprl.make("DoorKey"), 10)
    compile_ = lambda row: instructions_of(row, encode.length(row), bits=5, longest=CHAIN)  # noqa: E731
    same(tmp_path, compile_, *((row,) for row in nodes))


def equal_runs(folder, name, step):
    """Check that the translated run of golden programs ends as `evaluate` says."""
    task = jaxprl.make(name)
    nodes, layouts = golden_nodes(task, step), task.layouts(range(EPISODES))
    leaves, structure = jax.tree.flatten(layouts)
    machine = Machine(task, 5, 1, SLOTS)

    def run(row, layout, *leaves):
        stacked = jax.tree.unflatten(structure, leaves)
        end = machine.run(fetch_from(machine.code(row)), stacked, layout, Direct.empty(SLOTS))
        return end.units, end.calls, end.actions, end.end

    call, _ = caller(folder, run, (nodes[0], np.int32(0), *leaves))
    expected = evaluate(task, nodes, layouts).columns
    for place, row in enumerate(nodes):
        for layout in range(EPISODES):
            found = [int(column[0]) for column in call(row, np.int32(layout), *leaves)]
            assert found == [int(column[place, layout]) for column in expected], (place, layout)


@pytest.mark.parametrize("name", ["DoorKey", "Snake", "CleanHouse", "LavaGap"])
def test_runs(tmp_path, name):
    equal_runs(tmp_path, name, 60)


@pytest.mark.full
@pytest.mark.parametrize("name", golden.TASKS)
def test_runs_of_every_task(tmp_path, name):
    equal_runs(tmp_path, name, 5)
