"""Writes the text of the engine `cuda` for a task: its rules (`pieces.py`), and the loop of a thread (`gpu_worker.cu`).

Each thread has a run of its own. It does one step of it after the other (`Machine.step`), and takes the next run when
it has come to its end. What a run carries from step to step are the leaves of `Run` that some step changes: scalars in
registers, larger arrays in memory of the thread. A leaf that no step changes, the places where food appears for
instance, is read where the layouts are.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.codegen import prelude, stablehlo, text
from jaxprl.codegen.expressions import CUDA, Style, c_type
from jaxprl.types import PyTree
from jaxprl.vm import pruning
from jaxprl.vm.compile import TRACED
from jaxprl.vm.instruction import WORDS, Instruction
from jaxprl.vm.interpreter import Run
from jaxprl.vm.kernel import pieces
from jaxprl.vm.kernel.pieces import MOST_LAYOUTS, SHORT, Leaves, Piece, array
from jaxprl.vm.machine import Machine, fetch_from, goes_on
from jaxprl.vm.memory import SLOT_WORDS, Direct
from jaxprl.vm.outcomes import COLUMNS, RUNNING
from jaxprl.worlds.task import Layout
from jaxprl.xla import guarded

THREAD, WORKER, PROCEEDING = (
    Path(__file__).with_name(name) for name in ("gpu_threads.cu", "gpu_worker.cu", "gpu_proceeding.cu")
)
THREADS = 128
"""Threads of a block."""
BLOCKS = 10
"""Blocks of a multiprocessor at the same time: these leave 48 registers to each thread."""
LOOK = 64
"""Steps after which threads look whether their runs are still of use."""
BALLOT = 0
"""Threads of a warp that wait for each other to do their tests together; 0 for none."""
GOES_ON = "goes_on"
"""Name of the field of a run that says whether it goes on."""
VISITED = ("visited_0", "visited_1")
"""Fields that hold the nodes that a run comes to in a step. They are not carried on, since few runs need them."""
READ = {"chain", "calls", "perceptions", "units", "end", *VISITED}
"""Names of the fields that `gpu_worker.cu` reads."""

_ARGUMENTS = ("code", "marks", "is_traced", "may_test", "layout", "number", "table", GOES_ON)


class Field(NamedTuple):
    """A leaf of a run, or an entry of a small one."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Written(NamedTuple):
    """A text, and what whoever launches its kernels has to know."""

    text: str
    run_bytes: int  # arrays of a run
    scratch: int  # bytes that it takes to make the instructions of a program


@guarded
def write(machine: Machine, layouts: Leaves, nodes: int, *, proceeds: bool = False) -> Written:
    """Return the text of the engine in CUDA.

    Args:
      machine: what all runs share.
      layouts: the leaves of the task's layouts.
      nodes: nodes of a program, one of `pieces.WIDTHS`.
      proceeds: whether programs run on starts of their own.

    Raises:
      Unsupported: a rule of the task has an operation that is not translated.
    """
    leaves = [f"{c_type(leaf.dtype)} *{leaf.name}" for leaf in layouts.leaves]
    ends = [f"{c_type(leaf.dtype)} *end_{leaf.name}" for leaf in layouts.leaves]
    rules = pieces.remembered(
        ["rules of a run"], pieces.known_by(machine, layouts, nodes), functools.partial(_rules, machine, layouts, nodes)
    )
    sizes = {
        "NODES": nodes, "SHORT": SHORT, "WORDS": WORDS, "COLUMNS": COLUMNS, "RUNNING": RUNNING,
        "MARKS": TRACED // 32, "THREADS": THREADS, "BLOCKS": BLOCKS, "LOOK": LOOK, "BALLOT": BALLOT,
        "SLOTS": machine.slots, "SLOT_WORDS": SLOT_WORDS,
    }  # fmt: skip
    style = Style(is_cuda=True, has_scratch=True)
    instructions = [piece.written() for piece in pieces.instructions(machine, nodes, style)]
    scratch = max(map(int, re.findall(r"enum { SCRATCH_\w+ = (\d+) };", "\n".join(instructions))))
    whole = "\n".join(
        [
            prelude.CUDA_PRELUDE,
            text.sizes(sizes),
            "struct layouts {\n" + "".join(f"    const {leaf};\n" for leaf in leaves) + "};",
            text.macro("LAYOUTS(all)", [f"(all).{leaf.name}" for leaf in layouts.leaves]),
            text.macro("LEAVES", [f"const {leaf}" for leaf in leaves]),
            text.macro("ALL_LEAVES", [leaf.name for leaf in layouts.leaves]),
            "struct ends {\n" + "".join(f"    {end};\n" for end in ends) + "};",
            text.macro("ENDS", ends),
            text.macro("ALL_ENDS", [f"end_{leaf.name}" for leaf in layouts.leaves]) + "\n",
            *instructions,
            *([] if proceeds else [piece.written() for piece in _comparisons(nodes)]),
            rules,
            f"enum {{ SCRATCH = {scratch} }};\n",
            THREAD.read_text(),
            (PROCEEDING if proceeds else WORKER).read_text(),
        ]
    )
    (run_bytes,) = map(int, re.findall(r"enum { RUN_BYTES = (\d+) };", rules))
    return Written(whole, run_bytes, scratch)


def _comparisons(nodes: int) -> list[Piece]:
    """Return what says which runs a search needs."""
    args = {"touched": array(TRACED // 32, dtype=np.uint32), "changed": array(2)}
    differs = Piece("differs", pruning.differs, args, ["differs"], style=CUDA)
    return [*pieces.comparisons(nodes, CUDA), differs]


def _rules(machine: Machine, layouts: Leaves, nodes: int) -> str:
    """Return the text of what starts a run and what does a step of it."""
    everything = _Carried(machine, layouts, nodes)
    all_fields = everything.fields
    translated = everything.step(all_fields).translated()
    args = {value.name: value for value in translated.args}
    changing = [
        field
        for field, result in zip(all_fields, translated.body.results[:-2], strict=True)
        if field.name in READ or result is not args[field.name]
    ]
    scalars, arrays = ([field for field in changing if bool(field.shape) == many] for many in (False, True))
    declared = " ".join(f"alignas(16) {c_type(field.dtype)} {field.name}[{field.size}];" for field in arrays)
    carried = [field for field in changing if field.name not in VISITED]
    passed = [field.name if field.shape else f"(run).{field.name}" for field in carried]
    return "\n".join(
        [
            "/* What a run carries from step to step. */",
            text.struct_of("run", {**{field.name: field.dtype for field in scalars}, GOES_ON: "bool"}),
            f"enum {{ RUN_BYTES = {sum(field.size * np.dtype(field.dtype).itemsize for field in arrays)} }};",
            f"#define ARRAYS_OF_RUN {declared}",
            f"#define ARRAYS {''.join(f', {field.name}' for field in arrays)}",
            f"#define ARRAY_PARAMS {''.join(f', const {c_type(field.dtype)} *{field.name}' for field in arrays)}",
            everything.keeping(carried),
            text.macro("CARRIED(run)", passed) + "\n",
            everything.start(changing).written(),
            everything.step(changing).written(),
        ]
    )


@dataclasses.dataclass(frozen=True)
class _Carried:
    """What a run carries, as a list of fields."""

    machine: Machine
    layouts: Leaves
    nodes: int

    @functools.cached_property
    def run(self) -> Run[Direct]:
        """A run, of shapes."""
        leaves = [array(MOST_LAYOUTS, *leaf.shape, dtype=leaf.dtype) for leaf in self.layouts.leaves]
        code = array(self.nodes, WORDS, dtype=np.uint32)
        marks = array(self.nodes, TRACED // 32, dtype=np.uint32)
        table = array(SLOT_WORDS * self.machine.slots, dtype=np.uint32)
        return jax.eval_shape(self._start, leaves, array(), code, marks, table, array(dtype=np.uint32))

    def _start(
        self, leaves: list[jax.Array], layout: jax.Array, code: Any, marks: Any, table: Any, earlier: Any
    ) -> Any:
        units = jnp.ones(MOST_LAYOUTS, np.int32)  # no run depends on them
        stacked = Layout(**jax.tree.unflatten(self.layouts.structure, leaves), units=units)
        memory = Direct(table, jnp.int32(0), earlier)
        return self.machine.start(fetch_from(code, marks), stacked, layout, memory)

    @functools.cached_property
    def fields(self) -> list[Field]:
        """All fields that can change, in the order of the leaves."""
        fields: list[Field] = []
        for path, leaf in jax.tree_util.tree_flatten_with_path(_state(self.run))[0]:
            name, dtype = pieces.name_of(path), str(leaf.dtype)
            if _is_small(leaf):
                fields += [Field(f"{name}_{number}", (), dtype) for number in range(leaf.size)]
            else:
                fields.append(Field(name, leaf.shape, dtype))
        # The leaves of the layouts have the whole names, and those of the world a part of it, where that is free.
        whole = [field.name for field in fields]
        short = [name.removeprefix("state_").removeprefix("progress_") for name in whole]
        leaves = {leaf.name for leaf in self.layouts.leaves}
        free = [
            old not in leaves if name == old else short.count(name) == 1 and name not in {*whole, *leaves, *_ARGUMENTS}
            for name, old in zip(short, whole, strict=True)
        ]
        names = [name if ok else f"own_{old}" for name, ok, old in zip(short, free, whole, strict=True)]
        return [field._replace(name=name) for field, name in zip(fields, names, strict=True)]

    def keeping(self, carried: list[Field]) -> str:
        """Return the text that puts the state and the progress of a run into a row of `struct ends`.

        What runs do not carry is what it was at the start.
        """
        fields, lines = iter(self.fields), []
        leaves = {leaf.name: leaf for leaf in self.layouts.leaves}
        for path, shape in jax.tree_util.tree_flatten_with_path(_state(self.run))[0]:
            name = pieces.name_of(path)
            own = [next(fields) for _ in range(shape.size if _is_small(shape) else 1)]
            if name not in leaves:
                continue
            row = f"{name} + (row) * {shape.size}"
            if own[0].shape:
                source = own[0].name if own[0] in carried else f"(starts).{row}"
                lines.append(f"copy((ends).end_{row}, {source}, {shape.size});")
                continue
            for place, field in enumerate(own):
                source = f"(run).{field.name}" if field in carried else f"((starts).{row})[{place}]"
                lines.append(f"((ends).end_{row})[{place}] = {source};")
        return "#define KEEP(starts, ends, row, run) " + "".join(f"\\\n    {line}" for line in lines)

    def start(self, fields: list[Field]) -> Piece:
        """Return what starts a run."""
        args = {
            "code": array(self.nodes, WORDS, dtype=np.uint32),
            **{leaf.name: array(MOST_LAYOUTS, *leaf.shape, dtype=leaf.dtype) for leaf in self.layouts.leaves},
            "layout": array(),
        }

        def start(code: jax.Array, *rest: jax.Array) -> list[jax.Array]:
            *leaves, layout = rest
            marks = jnp.zeros((self.nodes, TRACED // 32), np.uint32)
            table = jnp.zeros(SLOT_WORDS * self.machine.slots, np.uint32)
            found = self._flat(self._start(list(leaves), layout, code, marks, table, jnp.uint32(0)))
            return [*(found[field.name] for field in fields), jnp.bool_(True)]

        style = Style(is_cuda=True, struct="run")
        return Piece("start", start, args, [*(field.name for field in fields), GOES_ON], {}, None, style)

    def step(self, fields: list[Field]) -> Piece:
        """Return what does a step of a run that carries some fields."""
        carried = {field.name: array(*field.shape, dtype=field.dtype) for field in fields if field.name not in VISITED}
        args = {
            "code": array(self.nodes, WORDS, dtype=np.uint32),
            "marks": array(self.nodes, TRACED // 32, dtype=np.uint32),
            "is_traced": array(dtype=np.bool),
            "may_test": array(dtype=np.bool),
            **{leaf.name: array(MOST_LAYOUTS, *leaf.shape, dtype=leaf.dtype) for leaf in self.layouts.leaves},
            "layout": array(),
            "number": array(dtype=np.uint32),
            **carried,
            "table": array(SLOT_WORDS * self.machine.slots, dtype=np.uint32),
        }

        def step(code, marks, is_traced, may_test, *rest):
            leaves = rest[: len(self.layouts.leaves)]
            layout, number, *values, table = rest[len(leaves) :]
            fetch_both = fetch_from(code, marks)

            def fetch(address: jax.Array) -> Instruction:
                instruction = fetch_both(address)
                return instruction._replace(nodes=jnp.where(is_traced, jnp.asarray(instruction.nodes), 0))

            begun = self._start(list(leaves), layout, code, marks, table, jnp.uint32(0))
            begun = begun._replace(memory=begun.memory._replace(number=number))
            run = self._changed(begun, dict(zip(carried, values, strict=True)))
            end = self.machine.step(fetch, run, may_test)
            found = self._flat(end)
            return *(found[field.name] for field in fields), goes_on(end), end.memory.table

        names = [field.name for field in fields]
        order = list(args)
        in_place = {place: order.index(field.name) for place, field in enumerate(fields) if field.shape}
        in_place[len(fields) + 1] = order.index("table")
        style = Style(is_cuda=True, struct="run")
        return Piece("step", step, args, [*names, GOES_ON, "table"], in_place, None, style)

    def _flat(self, run: Run[Direct]) -> dict[str, jax.Array]:
        """Return the fields of a run."""
        entries: list[jax.Array] = []
        for leaf in map(jnp.asarray, jax.tree.leaves(_state(run))):
            entries += [leaf.reshape(-1)[number] for number in range(leaf.size)] if _is_small(leaf) else [leaf]
        return {field.name: entry for field, entry in zip(self.fields, entries, strict=True)}

    def _changed(self, run: Run[Direct], changing: dict[str, jax.Array]) -> Run[Direct]:
        """Return a run with some fields replaced."""
        fields = iter((self._flat(run) | changing).values())
        shapes, structure = jax.tree.flatten(_state(self.run))
        leaves = [
            jnp.stack([next(fields) for _ in range(leaf.size)]).reshape(leaf.shape) if _is_small(leaf) else next(fields)
            for leaf in shapes
        ]
        state = jax.tree.unflatten(structure, leaves)
        used = state.pop("used")
        return Run(**state, memory=run.memory._replace(used=used))


def _is_small(leaf: Any) -> bool:
    return len(leaf.shape) > 0 and leaf.size <= stablehlo.SMALL


def _state(run: Run[Direct]) -> PyTree:
    """Return what of a run can change, besides the table of its memory."""
    fields = {name: value for name, value in run._asdict().items() if name != "memory"}
    return {**fields, "used": run.memory.used}
