"""The translation of array code to C (`jaxprl/codegen/`): the compiled text gives what XLA gives."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxprl
from jaxprl.codegen import prelude, stablehlo, text
from jaxprl.codegen.expressions import c_type
from jaxprl.dsl import encode
from jaxprl.vm.compile import instructions_of
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.instruction import CHAIN
from jaxprl.vm.machine import Machine, fetch_from
from jaxprl.vm.memory import Direct
from jaxprl.xla import guarded, jit

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
NODES, SLOTS, EPISODES = 64, 4096, 4


def compiled(folder, source):
    """Return the library of a text."""
    (folder / "text.c").write_text(prelude.PRELUDE + source)
    command = [COMPILER, "-O1", "-fwrapv", "-shared", "-fPIC", "-w", "text.c", "-o", "text.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "text.so"))


def address(array):
    return ctypes.c_void_p(array.ctypes.data)


def caller(folder, function, examples):
    """Return a function that calls the translation of a JAX function of arrays, with arrays as its results."""
    shapes = [jax.ShapeDtypeStruct(example.shape, example.dtype) for example in examples]
    as_rows = lambda *args: [jnp.atleast_1d(leaf) for leaf in jax.tree.leaves(function(*args))]  # noqa: E731
    results = guarded(jax.eval_shape)(as_rows, *shapes)
    inputs, outputs = ([f"{word}{i}" for i in range(len(rows))] for word, rows in (("in", shapes), ("result", results)))
    source = text.write(stablehlo.translate("translated", as_rows, shapes, inputs), outputs)
    scalars = [f"*(const {c_type(str(s.dtype))} *)p[{i}]" if s.shape == () else f"p[{i}]" for i, s in enumerate(shapes)]
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
        for found, expected in zip(call(*args), jit()(reference)(*args), strict=True):
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


def test_variables_whose_names_mean_something_in_c(tmp_path):
    def function(table, number):
        double = table * 2
        register = double + table[3]
        memcpy = register[::-1] ^ number
        linux = jnp.sum(memcpy, dtype=jnp.int32)
        int32_t = linux + 1
        _1 = int32_t * linux
        _ = _1 + int32_t
        static = jax.lax.fori_loop(0, number, lambda union, struct: struct.at[union].set(_), jnp.cumsum(memcpy))
        return double, register, memcpy, linux, int32_t, _1, _, static

    same(tmp_path, function, (np.arange(16, dtype=np.int32), np.int32(5)))


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


# Rules made of operations that hypothesis chooses: each takes numbers and arrays from those that are there, and adds
# its result. What it takes is chosen by numbers modulo how many there are.
ONE_NUMBER = {
    "negate": lambda a: -a, "not": lambda a: ~a, "abs": jnp.abs, "sign": jnp.sign, "ones": jax.lax.population_count,
    "zeros": jax.lax.clz, "byte": lambda a: a.astype(jnp.uint8).astype(jnp.int32),
    "short": lambda a: a.astype(jnp.int16).astype(jnp.int32), "truth": lambda a: (a != 0).astype(jnp.int32),
    "unsigned": lambda a: (a.astype(jnp.uint32) >> 3).astype(jnp.int32),
    "mixed": lambda a: (a.astype(jnp.uint32) * jnp.uint32(2654435761) ^ jnp.uint32(77)).astype(jnp.int32),
}  # fmt: skip
TWO_NUMBERS = {
    "add": jnp.add, "subtract": jnp.subtract, "multiply": jnp.multiply, "divide": jax.lax.div, "rest": jax.lax.rem,
    "floor": lambda a, b: jnp.where(b == 0, a, a // jnp.where(b == 0, 1, b)), "least": jnp.minimum, "most": jnp.maximum,
    "and": jnp.bitwise_and, "or": jnp.bitwise_or, "xor": jnp.bitwise_xor, "left": jax.lax.shift_left,
    "right": jax.lax.shift_right_arithmetic, "logical": jax.lax.shift_right_logical,
    "choose": lambda a, b: jnp.where(a < b, a, b + 1), "equal": lambda a, b: (a == b).astype(jnp.int32),
}  # fmt: skip
ONE_ARRAY = {
    "turn": lambda t: t[::-1], "roll": lambda t: jnp.roll(t, 5), "sums": jnp.cumsum, "least so far": jax.lax.cummin,
    "matrix": lambda t: t.reshape(4, 4).T.reshape(-1), "halves": lambda t: jnp.concatenate([t[8:], t[:8]]),
    "padded": lambda t: jnp.pad(t[2:12], (3, 3), constant_values=9), "odd": lambda t: jnp.repeat(t[1::2], 2),
    "pairs": lambda t: jnp.stack([t[:8], t[8:]], axis=-1).reshape(-1),
    "where": lambda t: jnp.where(t > 0, jnp.arange(16, dtype=jnp.int32), t),
}  # fmt: skip
TO_NUMBER = {
    "sum": lambda t: jnp.sum(t, dtype=jnp.int32), "max": jnp.max, "min": jnp.min, "any": lambda t: jnp.any(t > 3),
    "all": lambda t: jnp.all(t < 3), "where most": jnp.argmax, "where least": jnp.argmin,
    "rows": lambda t: jnp.max(jnp.sum(t.reshape(4, 4), axis=1, dtype=jnp.int32)),
}  # fmt: skip
WITH_NUMBER = {
    "set": lambda t, a: t.at[a].set(a + 1), "add at": lambda t, a: t.at[a].add(3), "times": lambda t, a: t * a,
    "put": lambda t, a: jax.lax.dynamic_update_slice(t, t[3:6], (a,)), "plus": lambda t, a: t + a,
    "slice": lambda t, a: jnp.tile(jax.lax.dynamic_slice(t, (a,), (8,)), 2),
    "branch": lambda t, a: jax.lax.cond(a > 2, lambda t: t.at[1].set(7), lambda t: t - 1, t),
    "switch": lambda t, a: jax.lax.switch(a, [lambda t: t, lambda t: t.at[a].set(2), lambda t: t[::-1]], t),
    "walk": lambda t, a: jax.lax.fori_loop(0, (a & 7) + 1, lambda i, t: t.at[(t[i] + i) & 15].add(i), t),
    "until": lambda t, a: jax.lax.while_loop(
        lambda c: (c[0] < 9) & (c[1][c[0]] != a), lambda c: (c[0] + 1, c[1].at[c[0]].set(c[0])), (a & 3, t)
    )[1],
}  # fmt: skip
TWO_ARRAYS = {
    "look up": lambda t, u: t[u & 15], "look beyond": lambda t, u: t.at[u].get(mode="fill", fill_value=4),
    "scatter": lambda t, u: t.at[u & 15].max(u), "sum of both": lambda t, u: t + u, "outer": lambda t, u: jnp.max(
        t[:, None] ^ u[None, :], axis=0), "select": lambda t, u: jnp.where(t > u, t, -u),
    "swap": lambda t, u: jax.lax.fori_loop(0, 3, lambda i, c: (c[1].at[i].set(5), c[0]), (t, u))[0],
}  # fmt: skip
FROM_ARRAY = {"entry": lambda t, a: t[a & 15], "taken": lambda t, a: t[jnp.clip(a, 0, 15)], "held": lambda t, a: t[a]}
KINDS = [ONE_NUMBER, TWO_NUMBERS, ONE_ARRAY, TO_NUMBER, WITH_NUMBER, TWO_ARRAYS, FROM_ARRAY]
OPERATIONS = {name: (kind, operation) for kind in KINDS for name, operation in kind.items()}


def rule_of(steps):
    """Return the rule that does some operations one after the other."""

    def rule(table, other, number):
        arrays, numbers = [table, other], [number, jnp.int32(2)]
        for name, first, second in steps:
            kind, operation = OPERATIONS[name]
            one, two = arrays[first % len(arrays)], arrays[second % len(arrays)]
            a, b = numbers[first % len(numbers)], numbers[second % len(numbers)]
            given = {0: (a,), 1: (a, b), 2: (one,), 3: (one,), 4: (one, b), 5: (one, two), 6: (one, b)}[
                KINDS.index(kind)
            ]
            found = jnp.asarray(operation(*given)).astype(jnp.int32)
            (arrays if found.shape else numbers).append(found)
        return arrays[2:], numbers[2:]

    return rule


STEPS = st.lists(
    st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 30), st.integers(0, 30)), min_size=3, max_size=12
)


def check_rules(folder, steps):
    rng = np.random.default_rng(len(steps))
    rows = rng.integers(-20, 20, (5, 2, 16), dtype=np.int32)
    same(
        folder,
        rule_of(steps),
        *((*pair, np.int32(number)) for pair, number in zip(rows, (-3, 0, 2, 9, 40), strict=True)),
    )


def test_every_operation_in_a_rule(tmp_path):
    names = sorted(OPERATIONS)
    steps = [(name, 7 * place, 3 * place) for place, name in enumerate(names)]
    check_rules(tmp_path, steps)


@settings(max_examples=10)
@given(steps=STEPS)
def test_rules_of_any_operations(steps):
    with tempfile.TemporaryDirectory() as folder:
        check_rules(Path(folder), steps)


@pytest.mark.full
@settings(max_examples=300)
@given(steps=STEPS)
def test_many_rules_of_any_operations(steps):
    with tempfile.TemporaryDirectory() as folder:
        check_rules(Path(folder), steps)
