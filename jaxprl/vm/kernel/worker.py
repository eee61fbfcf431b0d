"""Writes the text of the engine `native` for a task: its rules (`pieces.py`), and the loop of a thread (`worker.c`)."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.codegen import prelude, text
from jaxprl.codegen.expressions import C, Style, c_type
from jaxprl.vm import pruning
from jaxprl.vm.instruction import WORDS, Instruction
from jaxprl.vm.kernel import pieces
from jaxprl.vm.kernel.pieces import MOST_LAYOUTS, SHORT, Leaves, Piece, array
from jaxprl.vm.machine import Machine, fetch_from
from jaxprl.vm.memory import Direct
from jaxprl.vm.outcomes import COLUMNS, RUNNING
from jaxprl.worlds.task import Layout, Task
from jaxprl.xla import guarded

IN_GLIDING = ("tree-pre", "schedule-insns2")
"""Optimizations that cost more than they bring where a run only walks and turns (`interpreter.glide`): they compute
ahead what is seldom needed, and then there are too few registers. Without them CleanHouse takes 4.2 ns a call, not
4.8."""
HARNESS = tuple(Path(__file__).with_name(name) for name in ("tickets.c", "worker.c"))
BATCH = ("programs", "outcomes"), ("count", "episodes", "tickets")
"""Pointers and numbers of `struct batch` behind the layouts (`worker.c`)."""
QUESTION = (
    (
        "weights", "parents", "programs", "changed", "margins", "counts", "units", "touched", "marks", "left", "score",
        "first", "better", "crowded",
    ),
    ("episodes", "most", "searches", "width", "parts", "tickets"),
)  # fmt: skip
"""Pointers and numbers of `struct question` behind the layouts (`worker.c`)."""


@guarded
def write(machine: Machine, layouts: Leaves, nodes: int) -> str:
    """Return the text of the engine in C.

    Args:
      machine: what all runs share.
      layouts: the leaves of the task's layouts.
      nodes: nodes of a program, one of `WIDTHS`.

    Raises:
      Unsupported: a rule of the task has an operation that is not translated.
    """
    fields = "".join(f"    const {c_type(leaf.dtype)} *{leaf.name};\n" for leaf in layouts.leaves)
    passed = [f"(all)->{leaf.name}" for leaf in layouts.leaves]
    sizes = {
        "NODES": nodes, "SHORT": SHORT, "WORDS": WORDS, "COLUMNS": COLUMNS, "RUNNING": RUNNING
    }  # fmt: skip
    parts = [
        prelude.PRELUDE,
        text.sizes(sizes),
        f"struct layouts {{\n{fields}}};\n{text.macro('LAYOUTS(all)', passed)}\n",
        *(piece.written() for piece in _pieces(machine, layouts, nodes)),
        *(file.read_text() for file in HARNESS),
    ]
    return "\n".join(parts)


def _pieces(machine: Machine, layouts: Leaves, nodes: int) -> list[Piece]:
    number, row, style = array(), array(MOST_LAYOUTS), C
    scoring = {"weights": row, "most": number, "episodes": number}
    traces = {"units": row, "touched": array(MOST_LAYOUTS, 2, dtype=np.uint32), "changed": array(2)}

    def highest_score(units, touched, changed, *scale):
        return pruning.highest_score(pruning.Traces(units, touched), changed, pruning.Scoring(*scale))

    def next_place(units, touched, changed, weights, most, episodes, place):
        scoring = pruning.Scoring(weights, most, episodes)
        return pruning.next_place(pruning.Traces(units, touched), changed, scoring, place)

    def layout_at(place, episodes):
        return pruning.layout_at(place, pruning.Scoring(place, place, episodes))

    return [
        *pieces.instructions(machine, nodes, style),
        _run(machine, layouts, nodes),
        *pieces.comparisons(nodes, style),
        Piece("highest_score", highest_score, traces | scoring, ["highest"]),
        Piece("next_place", next_place, traces | scoring | {"place": number}, ["place"]),
        Piece("layout_at", layout_at, {"place": number, "episodes": number}, ["layout"]),
    ]


def _run(machine: Machine, layouts: Leaves, nodes: int) -> Piece:
    leaves, structure = layouts

    def run(code, marks, is_traced, *rest):
        *starts, layout, table, earlier = rest
        fetch_both = fetch_from(code, marks)

        def fetch(address: jax.Array) -> Instruction:
            instruction = fetch_both(address)
            return instruction._replace(nodes=jnp.where(is_traced, jnp.asarray(instruction.nodes), 0))

        units = jnp.ones(MOST_LAYOUTS, np.int32)  # no run depends on them
        stacked = Layout(**jax.tree.unflatten(structure, starts), units=units)
        end = machine.run(fetch, stacked, layout, Direct(table, jnp.int32(0), earlier))
        visited = jnp.asarray(end.visited)
        return end.units, end.calls, end.actions, end.end, visited[0], visited[1], end.memory.table

    table = jax.eval_shape(functools.partial(Direct.empty, machine.slots)).table
    args = {
        "code": array(nodes, WORDS, dtype=np.uint32),
        "marks": array(nodes, 2, dtype=np.uint32),
        "is_traced": array(dtype=np.bool),
        **{leaf.name: array(MOST_LAYOUTS, *leaf.shape, dtype=leaf.dtype) for leaf in leaves},
        "layout": array(),
        "table": array(*table.shape, dtype=np.uint32),
        "earlier": array(dtype=np.uint32),  # runs that used the table before
    }
    results = ["units", "calls", "actions", "end", "visited_0", "visited_1", "table"]
    in_place = {len(results) - 1: list(args).index("table")}
    known_by = pieces.known_by(machine, layouts, nodes)
    return Piece("run", run, args, results, in_place, known_by, style_of(machine.task))


def style_of(task: Task) -> Style:
    """Return how the function is written that does a whole run."""
    return Style(without=IN_GLIDING) if task.quiet else C
