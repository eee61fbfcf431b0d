"""Writes the text with which the engine `native` proceeds: its rules, and the loop of a thread (`proceeding.c`).

Each run begins in a row of the starts and leaves its state and its progress in the same row of the ends.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.codegen import prelude, text
from jaxprl.codegen.expressions import C, c_type
from jaxprl.vm.instruction import WORDS
from jaxprl.vm.kernel import pieces
from jaxprl.vm.kernel.pieces import SHORT, Leaves, Piece, array
from jaxprl.vm.kernel.worker import style_of
from jaxprl.vm.machine import Machine, fetch_from
from jaxprl.vm.memory import Direct
from jaxprl.vm.outcomes import COLUMNS
from jaxprl.worlds.task import Layout
from jaxprl.xla import guarded

HARNESS = tuple(Path(__file__).with_name(name) for name in ("tickets.c", "proceeding.c"))


def structure(layouts: Leaves) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the pointers and the numbers of `struct proceeding` behind the starts (`proceeding.c`)."""
    return (*map(_end, layouts.leaves), "programs", "outcomes"), ("count", "tickets")


def _end(leaf: pieces.Leaf) -> str:
    return f"end_{leaf.name}"


@guarded
def write(machine: Machine, layouts: Leaves, nodes: int) -> str:
    """Return the text in C.

    Args:
      machine: what all runs share.
      layouts: the leaves of the starts.
      nodes: nodes of a program, one of `WIDTHS`.

    Raises:
      Unsupported: a rule of the task has an operation that is not translated.
    """
    leaves = layouts.leaves
    starts = "".join(f"    const {c_type(leaf.dtype)} *{leaf.name};\n" for leaf in leaves)
    ends = "".join(f"    {c_type(leaf.dtype)} *{_end(leaf)};\n" for leaf in leaves)
    sizes = [math.prod(leaf.shape) for leaf in leaves]

    def rows(names: list[str]) -> list[str]:
        return [f"(all).{name} + (int64_t)(row) * {size}" for name, size in zip(names, sizes, strict=True)]

    parts = [
        prelude.PRELUDE,
        text.sizes({"NODES": nodes, "SHORT": SHORT, "WORDS": WORDS, "COLUMNS": COLUMNS}),
        f"struct layouts {{\n{starts}}};\nstruct ends {{\n{ends}}};",
        text.macro("STARTS(all, row)", rows([leaf.name for leaf in leaves])),
        text.macro("ENDS(all, row)", rows([_end(leaf) for leaf in leaves])) + "\n",
        *(piece.written() for piece in pieces.instructions(machine, nodes, C)),
        _proceed(machine, layouts, nodes).written(),
        *(file.read_text() for file in HARNESS),
    ]
    return "\n".join(parts)


def _proceed(machine: Machine, layouts: Leaves, nodes: int) -> Piece:
    """Return what runs a program on one start and says where the run ended, each leaf in an array of its own."""
    leaves, tree = layouts

    def proceed(code, *rest):
        *starts, table, earlier = rest
        stacked = Layout(**jax.tree.unflatten(tree, starts), units=jnp.ones(1, np.int32))  # no run depends on units
        end = machine.run(fetch_from(code), stacked, jnp.int32(0), Direct(table, jnp.int32(0), earlier))
        ends = jax.tree.leaves({"state": end.state, "progress": end.progress})
        return end.units, end.calls, end.actions, end.end, *(leaf.reshape(-1) for leaf in ends), end.memory.table

    table = jax.eval_shape(functools.partial(Direct.empty, machine.slots)).table
    args = {
        "code": array(nodes, WORDS, dtype=np.uint32),
        **{leaf.name: array(1, *leaf.shape, dtype=leaf.dtype) for leaf in leaves},
        "table": array(*table.shape, dtype=np.uint32),
        "earlier": array(dtype=np.uint32),  # runs that used the table before
    }
    results = ["units", "calls", "actions", "end", *map(_end, leaves), "table"]
    in_place = {len(results) - 1: list(args).index("table")}
    known_by = pieces.known_by(machine, layouts, nodes)
    return Piece("proceed", proceed, args, results, in_place, known_by, style_of(machine.task))
