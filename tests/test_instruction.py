"""The bits of instructions: what is packed comes out again, and the fields are where the documentation says."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxprl.dsl import encode
from jaxprl.dsl.parse import parse
from jaxprl.vm import instruction
from jaxprl.vm.compile import instructions, instructions_of
from jaxprl.vm.instruction import (
    ALWAYS,
    CHAIN,
    HALT,
    NEVER,
    PERCEIVE,
    REPEATS,
    WORDS,
    Field,
    Fields,
    Instruction,
    after_action,
    next_action,
    pack,
    prepended,
    unpack,
)
from jaxprl.worlds.make import make

SIZE = 16
"""Instructions packed at a time, so that each function is compiled once."""
WHOLE = {
    "kind": instruction.KIND,
    "perception": instruction.PERCEPTION,
    "negate": instruction.NEGATE,
    "record": instruction.RECORD,
    "loop": instruction.LOOP,
    "repeat_count": instruction.REPEAT_COUNT,
    "counter_shift": instruction.COUNTER_SHIFT,
    "counter_word": instruction.COUNTER_WORD,
    "holds": instruction.HOLDS,
    "fails": instruction.FAILS,
    "actions": instruction.ACTIONS,
    "rounds": instruction.ROUNDS,
}
OF_KIND = {
    NEVER: set(),
    PERCEIVE: {"perception", "negate", "record", "loop"},
    REPEATS: {"repeat_count", "counter_shift", "counter_word"},
    ALWAYS: {"record", "loop"},
}
OF_TESTS = set.union(*OF_KIND.values())


def fields(rows):
    """Return dictionaries of fields as `Fields` of arrays."""
    columns = {name: np.array([row[name] for row in rows], np.int32) for name in Fields._fields}
    flags = {name: columns[name] != 0 for name in ("negate", "record")}
    return Fields(**{name: jnp.asarray(column) for name, column in (columns | flags).items()})


def at_its_edges(field):
    return st.one_of(st.sampled_from([0, 1, field.most]), st.integers(0, field.most))


ROWS = st.lists(st.fixed_dictionaries({name: at_its_edges(field) for name, field in WHOLE.items()}), min_size=SIZE,
                max_size=SIZE)  # fmt: skip
packed, unpacked = jax.jit(pack), jax.jit(unpack)


@given(ROWS)
def test_what_is_packed_comes_out_again(rows):
    found = jax.tree.map(np.asarray, unpacked(packed(fields(rows))))
    for index, row in enumerate(rows):
        for name, column in zip(Fields._fields, found, strict=True):
            wanted = row[name] if name not in OF_TESTS or name in OF_KIND[row["kind"]] else 0
            assert int(column[index]) == wanted, (name, row)


@given(ROWS)
def test_a_property_extracts_the_field_of_its_name(rows):
    words = packed(fields(rows))
    assert {word.dtype for word in words[:WORDS]} == {jnp.dtype("uint32")}
    found = {name: np.asarray(column) for name, column in extracted(words).items()}
    for index, row in enumerate(rows):
        for name in {"kind", "holds", "fails"} | OF_KIND[row["kind"]]:
            assert int(found[name][index]) == row[name], name


@jax.jit
def extracted(words):
    targets = {"holds": words.target(jnp.bool_(True)), "fails": words.target(jnp.bool_(False))}
    return targets | {name: getattr(words, name) for name in {"kind"} | OF_TESTS}


def test_fields_of_one_kind_do_not_overlap_and_fit_their_word():
    for kind, names in OF_KIND.items():
        test = [instruction.FREE, instruction.KIND, *(WHOLE[name] for name in names)]
        for word in (test, [WHOLE["holds"], WHOLE["fails"]], [WHOLE["actions"], WHOLE["rounds"]]):
            masks = [field.put(field.most) for field in word]
            assert sum(masks) == np.bitwise_or.reduce(masks) < 2**32, kind


def test_the_table_in_the_documentation_is_that_of_the_fields():
    found = re.findall(r"^ +(?:test|targets|chain)? +(\d+)(?:-(\d+))? +(\w+)", instruction.__doc__, re.MULTILINE)
    table = {name: (int(first), int(last or first)) for first, last, name in found}
    fields = {"free": instruction.FREE} | WHOLE
    assert table == {name: (field.shift, field.shift + field.bits - 1) for name, field in fields.items()}


def test_the_topmost_field_of_an_unsigned_word_needs_no_mask():
    word = jnp.uint32(0xF0000001)
    assert [int(field.get(word)) for field in (Field(28, 4), Field(24, 8), Field(24, 4))] == [15, 0xF0, 0]


@given(st.lists(st.integers(1, instruction.ACTION.most), min_size=1, max_size=CHAIN), st.integers(0, 3))
def test_a_chain_gives_its_actions_in_order_in_every_round(actions, rounds):
    chain = 0
    for action in reversed(actions):
        chain = prepended(action, chain)
    chain = left = jnp.uint32(chain | instruction.ROUNDS.put(rounds))
    done = []
    while int(left):
        done.append(int(next_action(left)))
        left = after_action(left, chain)
    assert done == actions * (rounds + 1)


def test_instructions_of_a_program():
    """The example of `compile`."""
    task = make("DoorKey")
    text = "DEF run m( WHILE c( and c( frontIsClear c) c( leftIsClear c) c) w( move w) turnLeft m)"
    nodes = encode.encode(parse(text, task), task.language)
    words = instructions(nodes[None])[0]
    found = unpack(Instruction(*(words[:, word] for word in range(WORDS))))
    tests = [
        (int(found.kind[i]), int(found.perception[i]), bool(found.record[i]), int(found.holds[i]), int(found.fails[i]))
        for i in (0, 4, 5, 6)
    ]
    assert tests[0] == tests[1] == tests[3] == (PERCEIVE, 0, False, 5, 7)
    assert tests[2] == (PERCEIVE, 1, True, 6, 7)
    assert int(found.loop[5]) == 2
    assert (int(found.kind[7]), int(found.fails[7])) == (NEVER, HALT)
    assert found.actions[np.array([4, 5, 6, 7])].tolist() == [0, 0, 1, 2]


def test_a_repeat_of_actions_is_a_chain_with_rounds():
    task = make("DoorKey")
    nodes = encode.encode(parse("DEF run m( REPEAT R=3 r( move turnLeft r) putMarker m)", task), task.language)
    compiled = jax.jit(functools.partial(instructions_of, bits=5, longest=CHAIN))
    words = np.asarray(compiled(nodes, np.int32(np.count_nonzero(nodes)))[0])
    first = unpack(Instruction(*words[0]))
    assert (int(first.actions), int(first.rounds)) == (0x21, 2)
    assert int(first.kind) == NEVER
