"""The functions of which the text of an engine consists: each is array code, translated for itself.

Programs become instructions by `compile.py`, runs go by `machine.py`, and which runs a search needs is said by
`pruning.py`: these are the rules of every engine. A text serves any number of programs, layouts, searches and
neighbours. It is translated for as many as there can be, and the sizes of leading axes do not appear in it.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.codegen import kept, stablehlo, text
from jaxprl.codegen.expressions import C, Style
from jaxprl.types import PyTree
from jaxprl.vm import pruning
from jaxprl.vm.compile import COUNT_BITS
from jaxprl.vm.instruction import MOST_NODES
from jaxprl.vm.machine import Machine
from jaxprl.vm.outcomes import score_to_beat
from jaxprl.vm.sharing import Ended
from jaxprl.worlds import ops, registry
from jaxprl.worlds.task import Layout, Task

MOST_LAYOUTS = 2**15
"""Layouts that one call may have."""
MOST_NEIGHBOURS = 2**20
"""Neighbours of a search that one question may have."""
WIDTHS = (64, 128, 256, MOST_NODES)
"""Nodes of the programs that texts are written for; a program is padded to the next one."""
SHORT = 32
"""Nodes that most programs have room in. These become instructions by a function of their own, in half the time."""


def width_of(nodes: int) -> int:
    """Return the width of the text for programs with room for `nodes` nodes; what is behind the last one is cut off."""
    return next((width for width in WIDTHS if width >= nodes), WIDTHS[-1])


def array(*shape: int, dtype: Any = np.int32) -> jax.ShapeDtypeStruct:
    """Return the shape and the type of an argument."""
    return jax.ShapeDtypeStruct(shape, dtype)


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
    names = [name_of(path) for path, _ in paths]
    kinds = [str(jax.dtypes.canonicalize_dtype(dtype)) for _, dtype in types]
    shapes = [shape for shape, _ in types]
    return Leaves(tuple(map(Leaf, names, shapes, kinds)), structure)


def name_of(path: Any) -> str:
    """Return the name of a leaf from its path in a pytree."""
    return re.sub(r"\W+", "_", jax.tree_util.keystr(path)).strip("_")


def arrays_of(layouts: Layout) -> list[np.ndarray]:
    """Return the leaves that `leaves_of` describes, as numpy arrays."""
    return [np.ascontiguousarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype)) for leaf in leaves_in(layouts)]


def leaves_in(ends: Layout | Ended) -> list[Any]:
    """Return the leaves of the state and the progress, in the order of `Leaves`."""
    return jax.tree.leaves(_start_of(ends))


def leaves_on_device(layouts: Layout) -> list[jax.Array]:
    """Return the leaves that `leaves_of` describes, on the device."""
    return [jnp.asarray(leaf) for leaf in leaves_in(layouts)]


def _start_of(layouts: Layout | Ended) -> PyTree:
    return {"state": layouts.state, "progress": layouts.progress}


@dataclasses.dataclass(frozen=True)
class Piece:
    """A function that is translated."""

    name: str
    function: Callable[..., Any]
    args: dict[str, PyTree]  # name of a leaf -> its shape, in the order of the function's arguments
    results: Sequence[str]  # names of the leaves of the result; of those behind the last one nothing is written
    in_place: dict[int, int] = dataclasses.field(default_factory=dict)
    depends_on: tuple[Any, ...] | None = ()  # what its text depends on besides the package; None if nobody knows
    style: Style = C

    def translated(self) -> stablehlo.Function:
        """Return the function in the form of `ir.py`."""
        args, names = list(self.args.values()), list(self.args)
        with ops.unfenced():
            return stablehlo.translate(
                self.name, self.function, args, names, in_place=self.in_place, wanted=len(self.results)
            )

    def written(self) -> str:
        """Return the text of the function, written now or, where that can be known, earlier."""
        return remembered([self.name, self.style], self.depends_on, self._text)

    def _text(self) -> str:
        return text.write(self.translated(), self.results, self.style)


def remembered(names: Sequence[Any], depends_on: tuple[Any, ...] | None, write: Callable[[], str]) -> str:
    """Return a text, written now or, where that can be known, earlier.

    Args:
      names: what tells the text from others.
      depends_on: what it depends on besides the package; None if nobody knows.
      write: writes it.
    """
    if depends_on is None:
        return write()
    name = kept.name_of([kept.version(), repr(names), repr(depends_on)]) + ".c"
    known = kept.read(name)
    if known is not None:
        return known.decode()
    written = write()
    kept.write(name, written.encode())
    return written


def known_by(machine: Machine, layouts: Leaves, nodes: int) -> tuple[Any, ...] | None:
    """Return what the text of a task's rules depends on besides the package; None if the task is not of the package."""
    if not registry.is_of_package(machine.task):
        return None
    return machine.task.name, machine.bits, machine.words, machine.slots, nodes, layouts


def usual(task: Task, layouts: Layout, slots: int) -> tuple[Machine, Leaves, int]:
    """Return what the text for most programs of a task is made from: the first arguments of `write`.

    Args:
      task: the task.
      layouts: stacked layouts.
      slots: slots of the memory of WHILE.
    """
    return Machine(task, COUNT_BITS, 1, slots), leaves_of(layouts), WIDTHS[0]


def instructions(machine: Machine, nodes: int, style: Style) -> list[Piece]:
    """Return what makes instructions of programs with up to `nodes` nodes."""
    coded = machine.bits, nodes
    whole, short = ({"nodes": array(room)} for room in (nodes, SHORT))
    return [
        Piece("traced_instructions", machine.traced_code, whole, ["code", "marks"], {}, coded, style),
        # The same function with one result fewer, since JAX traces a function only once.
        Piece("instructions", machine.traced_code, whole, ["code"], {}, coded, style),
        Piece("short_instructions", machine.code, short, ["code"], {}, coded, style),
    ]


def comparisons(nodes: int, style: Style) -> list[Piece]:
    """Return what compares programs and scores."""
    number, program = array(), array(nodes)
    several = {"programs": array(MOST_NEIGHBOURS, nodes), "marks": array(MOST_NEIGHBOURS, dtype=np.uint32)}
    known = {"parent": program, **several, "margins": array(MOST_NEIGHBOURS), "index": number}
    return [
        Piece("mark", pruning.mark, {"nodes": program}, ["mark"], {}, (nodes,), style),
        Piece("score_to_beat", score_to_beat, {"score": number, "margin": number}, ["least"], style=style),
        Piece("is_known", pruning.is_known, known, ["is_known"], {}, (nodes,), style),
    ]
