"""Writes the text of the engine for a task: its rules, translated from array code, and the loop of a thread.

The rules are those that every engine has: how a program becomes instructions (`compile.py`), how a run goes
(`machine.py`) and which runs a search needs (`pruning.py`). Only taking tickets is written in C (`worker.c`). One text
serves any number of programs, layouts, searches and neighbours: it is translated for as many as there can be, and the
sizes of leading axes do not appear in it.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.types import PyTree
from jaxprl.vm import pruning
from jaxprl.vm.instruction import MOST_NODES, WORDS, Instruction
from jaxprl.vm.kernel import kept, stablehlo, text
from jaxprl.vm.machine import Machine, fetch_from
from jaxprl.vm.memory import Direct
from jaxprl.vm.outcomes import COLUMNS, RUNNING, score_to_beat
from jaxprl.worlds import ops, registry
from jaxprl.worlds.task import Layout

MOST_LAYOUTS = 2**15
"""Layouts that one call may have."""
MOST_NEIGHBOURS = 2**20
"""Neighbours of a search that one question may have."""
WIDTHS = (64, 128, 256, MOST_NODES)
"""Nodes of the programs that texts are written for; a program is padded to the next one."""
HARNESS = Path(__file__).with_name("worker.c")
SHORT = 32
"""Nodes that most programs have room in. These become instructions by a function of their own, in half the time."""
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


class Leaf(NamedTuple):
    """A leaf of the layouts, as the text has it."""

    name: str
    shape: tuple[int, ...]  # of one layout
    dtype: str


class Leaves(NamedTuple):
    """What a run starts from: the leaves of the layouts, in the order of their pytree."""

    leaves: tuple[Leaf, ...]
    structure: jax.tree_util.PyTreeDef


def leaves_of(layouts: Layout) -> Leaves:
    """Return the leaves of stacked layouts that a run starts from."""
    leaves, structure = jax.tree.flatten(_start_of(layouts))
    return _leaves(structure, tuple((leaf.shape[1:], leaf.dtype) for leaf in leaves))


@functools.lru_cache(256)
def _leaves(structure: jax.tree_util.PyTreeDef, types: tuple[tuple[tuple[int, ...], np.dtype], ...]) -> Leaves:
    paths, _ = jax.tree_util.tree_flatten_with_path(jax.tree.unflatten(structure, range(len(types))))
    names = [re.sub(r"\W+", "_", jax.tree_util.keystr(path)).strip("_") for path, _ in paths]
    kinds = [str(jax.dtypes.canonicalize_dtype(dtype)) for _, dtype in types]
    shapes = [shape for shape, _ in types]
    return Leaves(tuple(map(Leaf, names, shapes, kinds)), structure)


def arrays_of(layouts: Layout) -> list[np.ndarray]:
    """Return the leaves that `leaves_of` describes, as numpy arrays."""
    leaves = jax.tree.leaves(_start_of(layouts))
    return [np.ascontiguousarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype)) for leaf in leaves]


def _start_of(layouts: Layout) -> PyTree:
    return {"state": layouts.state, "progress": layouts.progress}


def width_of(nodes: int) -> int:
    """Return the width of the text for programs with room for `nodes` nodes; what is behind the last one is cut off."""
    return next((width for width in WIDTHS if width >= nodes), WIDTHS[-1])


def write(machine: Machine, layouts: Leaves, nodes: int) -> str:
    """Return the text of the engine in C.

    Args:
      machine: what all runs share.
      layouts: the leaves of the task's layouts.
      nodes: nodes of a program, one of `WIDTHS`.

    Raises:
      Unsupported: a rule of the task has an operation that is not translated.
    """
    fields = "".join(f"    const {text.c_type(leaf.dtype)} *{leaf.name};\n" for leaf in layouts.leaves)
    passed = ", ".join(f"(all)->{leaf.name}" for leaf in layouts.leaves)
    parts = [
        text.PRELUDE,
        f"enum {{ NODES = {nodes}, SHORT = {SHORT}, WORDS = {WORDS}, COLUMNS = {COLUMNS}, RUNNING = {RUNNING} }};\n",
        f"struct layouts {{\n{fields}}};\n#define LAYOUTS(all) {passed}\n",
        *map(_written, _pieces(machine, layouts, nodes)),
        HARNESS.read_text(),
    ]
    return "\n".join(parts)


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A function that is translated."""

    name: str
    function: Callable[..., Any]
    args: dict[str, PyTree]  # name of a leaf -> its shape, in the order of the function's arguments
    results: Sequence[str]
    in_place: dict[int, int] = dataclasses.field(default_factory=dict)
    depends_on: tuple[Any, ...] | None = ()  # what its text depends on besides the package; None if nobody knows

    def written(self) -> str:
        args, names = list(self.args.values()), list(self.args)
        with ops.unfenced():
            translated = stablehlo.translate(self.name, self.function, args, names, in_place=self.in_place)
        return text.write(translated, self.results)


def _written(piece: _Piece) -> str:
    """Return the text of a function, written now or, where that can be known, earlier."""
    if piece.depends_on is None:
        return piece.written()
    name = kept.name_of([kept.version(), piece.name, repr(piece.depends_on)]) + ".c"
    known = kept.read(name)
    if known is not None:
        return known.decode()
    written = piece.written()
    kept.write(name, written.encode())
    return written


def _array(*shape: int, dtype: Any = np.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _pieces(machine: Machine, layouts: Leaves, nodes: int) -> list[_Piece]:
    number, program, row = _array(), _array(nodes), _array(MOST_LAYOUTS)
    scoring = {"weights": row, "most": number, "episodes": number}
    traces = {"units": row, "touched": _array(MOST_LAYOUTS, 2, dtype=np.uint32), "changed": _array(2)}
    several = {"programs": _array(MOST_NEIGHBOURS, nodes), "marks": _array(MOST_NEIGHBOURS, dtype=np.uint32)}

    def highest_score(units, touched, changed, *scale):
        return pruning.highest_score(pruning.Traces(units, touched), changed, pruning.Scoring(*scale))

    def next_place(units, touched, changed, weights, most, episodes, place):
        scoring = pruning.Scoring(weights, most, episodes)
        return pruning.next_place(pruning.Traces(units, touched), changed, scoring, place)

    def layout_at(place, episodes):
        return pruning.layout_at(place, pruning.Scoring(place, place, episodes))

    coded = machine.bits, nodes
    return [
        _Piece("instructions", machine.code, {"nodes": program}, ["code"], depends_on=coded),
        _Piece("short_instructions", machine.code, {"nodes": _array(SHORT)}, ["code"], depends_on=coded),
        _Piece("traced_instructions", machine.traced_code, {"nodes": program}, ["code", "marks"], depends_on=coded),
        _run(machine, layouts, nodes),
        _Piece("mark", pruning.mark, {"nodes": program}, ["mark"], depends_on=(nodes,)),
        _Piece("score_to_beat", score_to_beat, {"score": number, "margin": number}, ["least"]),
        _Piece("highest_score", highest_score, traces | scoring, ["highest"]),
        _Piece("next_place", next_place, traces | scoring | {"place": number}, ["place"]),
        _Piece("layout_at", layout_at, {"place": number, "episodes": number}, ["layout"]),
        _Piece(
            "is_known",
            pruning.is_known,
            {"parent": program, **several, "margins": _array(MOST_NEIGHBOURS), "index": number},
            ["is_known"],
            depends_on=(nodes,),
        ),
    ]


def _run(machine: Machine, layouts: Leaves, nodes: int) -> _Piece:
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
        "code": _array(nodes, WORDS, dtype=np.uint32),
        "marks": _array(nodes, 2, dtype=np.uint32),
        "is_traced": _array(dtype=np.bool),
        **{leaf.name: _array(MOST_LAYOUTS, *leaf.shape, dtype=leaf.dtype) for leaf in leaves},
        "layout": _array(),
        "table": _array(*table.shape, dtype=np.uint32),
        "earlier": _array(dtype=np.uint32),  # runs that used the table before
    }
    results = ["units", "calls", "actions", "end", "visited_0", "visited_1", "table"]
    in_place = {len(results) - 1: list(args).index("table")}
    of_package = registry.is_of_package(machine.task)
    known = (machine.task.name, machine.bits, machine.words, machine.slots, nodes, leaves) if of_package else None
    return _Piece("run", run, args, results, in_place, known)
