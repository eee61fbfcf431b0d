"""Sample random programs and neighbours of programs as array code, thousands at once, each from a key of its own.

The grammar probabilities are renormalised over what is allowed at a place. Not allowed are a Concat as the first part
of a Concat, a Not below a Not, and a Not as the condition of an IfElse. The height of a node is the number of Program,
While, Repeat, If and IfElse nodes on its path from the root, itself included.

Growing: under a node of height >= 4 there are no more While, Repeat, If and IfElse. A Concat that is the s-th of its
chain may have a Concat as its second part only if s + 1 < 6. A program is accepted if its height is <= 4, its longest
sequence <= 6 and its number of tokens <= 45; otherwise it is drawn again. (The numbers are the limits of a Language.)

A random program grows from the Program node. For a neighbour of a program, one of its nodes is chosen uniformly, the
Program node excluded, and another one is grown in its place, filtered only by what the parent allows. The new node is
taken to have a height of (height of the old node) + (1 if the new node counts) and the chain position 1, and growth
under it counts from there. (Both are kept from the published system, since they shape the distribution.) Acceptance
goes by true heights; after a rejection a node is chosen afresh. A neighbour may equal its parent. A program that
exceeds the limits has neighbours that obey them.

These are the rules of LLM-GS. Carvalho et al. (2024) use others in the experiments that they publish: a new subtree is
small (`grow.Growth.small`). Whatever the new node is and wherever it stands, it is taken to have the height 1 and, if
it is a Concat, the chain position 0. Under a node of height >= 2 there are no more While, Repeat, If and IfElse, and a
Concat at position s may have a Concat as its second part only if s + 1 < 4. So below a new While there may be another
one but none below that; below a new Concat, which has height 1 without being counted, there may be a While but none
below that; a new Concat begins at most five statements; and other sequences have at most four. The type of the new node
and the acceptance are the same as above. Their random programs may have more than 45 tokens. The largest program of
height 4 and sequences of 6 has 21,678 nodes, but no engine runs more than `PROGRAM_NODES` = 512, and of the random
programs in Karel's language only one in a hundred million has more. It is drawn again.

Instead of being regrown, the chosen node may be exchanged for a part of other programs (`parts.py`).

Each step (`grow.py`) takes one open statement off a stack and draws its node, together with the condition or count that
belongs to it. A program that is rejected starts over. On a CPU one program is drawn after the other, by code of the C
compiler where there is one; on an NVIDIA GPU each by a thread of a kernel; and on other accelerators all in lockstep.
The resulting programs are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.codegen import launch
from jaxprl.codegen.compiler import Unavailable
from jaxprl.codegen.each import MOST, Each
from jaxprl.codegen.launch import Launcher
from jaxprl.codegen.stablehlo import Unsupported
from jaxprl.dsl import encode, grow
from jaxprl.dsl.encode import COUNT, PROGRAM
from jaxprl.dsl.grow import Growth
from jaxprl.dsl.language import Language
from jaxprl.dsl.parts import Flat, Parts, Step, exchange, flat
from jaxprl.dsl.spots import spots_of
from jaxprl.errors import UserError
from jaxprl.xla import guarded, has_whole_loops, jit

GENERATOR = "threefry2x32"
"""The random generator for which there is code besides that of XLA. It is the one that searches use."""


@guarded
def random_programs(
    language: Language, keys: jax.Array, width: int = encode.WIDTH, *, limited: bool = True
) -> jax.Array:
    """Sample one random program per key.

    Args:
      language: the language, with its probabilities and limits.
      keys: typed keys [B]. The program of a key does not depend on the other keys.
      width: the length N of a row of nodes.
      limited: whether the limits of the language hold. Otherwise a program may have any number of tokens; one with more
        than N nodes is drawn again.

    Returns:
      int32 [B, N]: the nodes of the programs (`encode.py`).

    Raises:
      UserError: the limits of the language exceed height 4 or sequences of 6.

    Example:
      >>> from jaxprl.worlds.karel.world import LANGUAGE
      >>> nodes = random_programs(LANGUAGE, jax.random.split(jax.random.key(0), 3))
      >>> print(encode.decode(np.asarray(nodes[0]), LANGUAGE))
      DEF run m( move pickMarker m)
    """
    way, growth = _way(language, width, keys), Growth(limited=limited)
    if way != "natively":
        return _random_programs(language, growth, keys, width, way)
    return jnp.asarray(_programs_drawer(language, growth, width).natively(len(keys), 0, [_data(keys)])[0])


@jit(per="language", static_argnames=("language", "growth", "width", "way"))
def _random_programs(language: Language, growth: Growth, keys: jax.Array, width: int, way: Compiled) -> jax.Array:
    """Do what `random_programs` does in one way."""
    if isinstance(way, str):
        return _replace_nodes(language, growth, *_seedling(width), keys[None], way)[0][0]

    return _programs_drawer(language, growth, width)(way, len(keys), 0, [jax.random.key_data(keys)])[0]


def _programs_drawer(language: Language, growth: Growth, width: int) -> Each:
    """Return what draws one random program for each key: what is the same for all need not be written down."""

    def of_one(i: jax.Array, _: jax.Array, data: jax.Array) -> list[jax.Array]:
        nodes, sizes, spots = _seedling(width)
        step = functools.partial(_step(language, growth), spots)
        return [_drawn(step, nodes, sizes, jnp.int32(0), _key_of(data, i))[0]]

    return Each("draw_program", of_one, ("keys",), ("new_nodes",), f"{language} {growth} {width}")


def _seedling(width: int) -> tuple[jax.Array, jax.Array, grow.Spots]:
    """Return a program of the Program node alone, with the empty place behind it, node 1, as the only spot.

    These are its nodes, int32 [1, N], the sizes of its subtrees, and its spots.
    """
    nodes = jnp.zeros((1, width), jnp.int32).at[0, 0].set(PROGRAM)
    one = jnp.ones((1, width), jnp.int32)
    spots = grow.Spots(one[:, 0], 0 * one, one, one, 0 * one, 0 * one, 4 * one, one == 1)
    return nodes, jnp.zeros_like(nodes), spots


@guarded
def neighbours(
    language: Language,
    programs: jax.Array,
    keys: jax.Array,
    *,
    small: bool = False,
    limited: bool = True,
    parts: Parts | None = None,
    share: float = 0,
) -> tuple[jax.Array, jax.Array]:
    """Sample neighbours of programs, one per key.

    Args:
      language: the language, with its probabilities and limits.
      programs: int32 [S, N], the nodes of S programs.
      keys: typed keys [S, B]. The neighbour of a key depends on that key, its program and the parts only.
      small: whether the new subtrees are small wherever they stand (`grow.Growth.small`).
      limited: whether the limits of the language hold. Otherwise a neighbour with more than N nodes loses the last
        ones.
      parts: the parts of other programs that a node may be exchanged for; None for none.
      share: the probability with which it is, from 0 to 1.

    Returns:
      The nodes of the neighbours, int32 [S, B, N], and what was changed in the programs, int32 [S, B, 2]: the node
      whose subtree was replaced, and the size of that subtree. For a count that was replaced, these are the REPEAT in
      front of it and 2.

    Raises:
      UserError: the limits of the language exceed height 4 or sequences of 6.

    Example:
      >>> from jaxprl.dsl.text import from_text
      >>> from jaxprl.worlds.karel.world import LANGUAGE
      >>> program = encode.encode(from_text("DEF run m( move turnLeft m)", LANGUAGE), LANGUAGE)
      >>> keys = jax.random.split(jax.random.key(3), (1, 8))
      >>> nodes, changed = neighbours(LANGUAGE, jnp.asarray(program)[None], keys)
      >>> nodes.shape, changed.shape
      ((1, 8, 64), (1, 8, 2))
      >>> print(encode.decode(np.asarray(nodes[0, 0]), LANGUAGE), changed[0, 0])  # node 3, turnLeft, was replaced
      DEF run m( move IF c( frontIsClear c) i( move move turnLeft i) move move turnRight pickMarker m) [3 1]
    """
    rows = () if parts is None else (parts.size.reshape(-1),)
    way = _way(language, programs.shape[1], programs, *rows, keys)
    growth = Growth(small, limited, None if parts is None else share)
    if way != "natively":
        return _neighbours(language, growth, programs, keys, way, parts)
    nodes = np.asarray(programs)
    *spots, sizes = _spots_finder(language, growth).natively(len(nodes), 0, [nodes])
    table = () if parts is None else map(np.asarray, flat(parts))
    arrays = [_data(keys).reshape(-1, 2), nodes, sizes, *spots, *table]
    found = _neighbours_drawer(language, growth).natively(keys.size, keys.shape[1], arrays)
    new, changed = (jnp.asarray(rows.reshape(*keys.shape, -1)) for rows in found)
    return new, changed


@jit(per="language", static_argnames=("language", "growth", "way"))
def _neighbours(
    language: Language,
    growth: Growth,
    programs: jax.Array,
    keys: jax.Array,
    way: Compiled,
    parts: Parts | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Do what `neighbours` does in one way."""
    if isinstance(way, str):
        spots, sizes = jax.vmap(functools.partial(spots_of, language, growth))(programs)
    else:
        *leaves, sizes = _spots_finder(language, growth)(way, len(programs), 0, [programs])
        spots = grow.Spots(*leaves)
    table = None if parts is None else flat(parts)
    return _replace_nodes(language, growth, programs, sizes, spots, keys, way, table)


def _spots_finder(language: Language, growth: Growth) -> Each:
    """Return what finds the spots of each of several programs, and the sizes of its subtrees."""

    def of_one(i: jax.Array, _: jax.Array, programs: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(spots_of(language, growth, encode.take(programs, i)))

    return Each("spots", of_one, ("programs",), (*grow.Spots._fields, "sizes"), f"{language} {growth}")


def _replace_nodes(
    language: Language,
    growth: Growth,
    programs: jax.Array,
    sizes: jax.Array,
    spots: grow.Spots,
    keys: jax.Array,
    way: Compiled,
    table: Flat | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return programs that differ from given ones in one replaced node, and which node that is.

    Args:
      language: the language.
      growth: the rules of growing.
      programs: int32 [S, N].
      sizes: int32 [S, N], the sizes of their subtrees.
      spots: their spots.
      keys: typed keys [S, B].
      way: how to draw them.
      table: the parts that a node may be exchanged for; None for none.

    Returns:
      The new programs, int32 [S, B, N], and the changes, int32 [S, B, 2], as in `neighbours`.
    """
    (s, n), b = programs.shape, keys.shape[1]
    owner = jnp.repeat(jnp.arange(s, dtype=jnp.int32), b)
    step = functools.partial(_step(language, growth, table), spots)
    if way == "one by one":
        one = functools.partial(_drawn, step, programs, sizes)
        nodes, changed = jax.lax.map(lambda pair: one(*pair), (owner, keys.reshape(-1)))
    elif way == "in lockstep":  # every lane has the same number of steps; those that are done ignore the rest
        lanes = jax.vmap(functools.partial(_start, n))(keys.reshape(-1))
        lanes = jax.lax.while_loop(
            lambda lanes: ~jnp.all(lanes.done), lambda lanes: jax.vmap(step)(owner, lanes), lanes
        )
        nodes, changed = jax.vmap(functools.partial(_spliced, programs, sizes))(owner, lanes)
    else:
        arrays = [jax.random.key_data(keys).reshape(-1, 2), programs, sizes, *spots, *(table or ())]
        nodes, changed = _neighbours_drawer(language, growth)(way, s * b, b, arrays)
    return nodes.reshape(s, b, n), changed.reshape(s, b, 2)


def _neighbours_drawer(language: Language, growth: Growth) -> Each:
    """Return what draws one neighbour for each key; the number that all share is that of the keys of a program.

    If nodes may be exchanged for parts, these follow the spots.
    """
    leaves, columns = len(grow.Spots._fields), () if growth.share is None else Flat._fields

    def of_one(
        i: jax.Array, each: jax.Array, data: jax.Array, programs: jax.Array, sizes: jax.Array, *rest: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        table = Flat(*rest[leaves:]) if columns else None
        step = functools.partial(_step(language, growth, table), grow.Spots(*rest[:leaves]))
        return _drawn(step, programs, sizes, i // each, _key_of(data, i))

    names = ("keys", "programs", "sizes", *grow.Spots._fields, *(f"part_{column}" for column in columns))
    return Each("draw", of_one, names, ("new_nodes", "changed"), f"{language} {growth}")


def _drawn(
    step: Callable[[jax.Array, grow.Lane], grow.Lane],
    programs: jax.Array,
    sizes: jax.Array,
    owner: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Do what `_replace_nodes` does for one key, from the program number `owner`, step by step."""
    start = _start(programs.shape[1], key)
    lane = jax.lax.while_loop(lambda lane: ~lane.done, functools.partial(step, owner), start)
    return _spliced(programs, sizes, owner, lane)


def _step(language: Language, growth: Growth, table: Flat | None = None) -> Step:
    if language.max_height > 4 or language.max_sequence > 6:
        raise UserError("sampling goes up to height 4 and sequences of 6 (open spots are kept in eight bytes)")
    regrow = functools.partial(grow.step, grow.Tables.of(language), language, growth)
    return regrow if table is None else functools.partial(exchange, regrow, language, growth, table)


def _start(n: int, key: jax.Array) -> grow.Lane:
    zero = jnp.int32(0)
    return grow.Lane(
        key, draws=zero, spot=zero, nodes=jnp.zeros(n + grow.SCRATCH, jnp.int32), size=zero, tokens=zero, height=zero,
        chain=zero, stack=jnp.zeros(2, jnp.uint32), done=jnp.bool_(False),
    )  # fmt: skip


def _spliced(programs: jax.Array, sizes: jax.Array, owner: jax.Array, lane: grow.Lane) -> tuple[jax.Array, jax.Array]:
    """Return the new program of a lane, int32 [N], and what was changed, int32 [2].

    The new program is the old one up to the spot, then what has grown, then the old one from the end of the replaced
    subtree on. Example: in [P C a b] with spot 2 (a, of size 1), [W x y] has grown: [P C W x y b].
    """
    program, old_size, index = programs[owner], sizes[owner, lane.spot], jnp.arange(programs.shape[1])
    behind = program.at[index - lane.size + old_size].get(mode="fill", fill_value=0)
    inside = lane.nodes.at[index - lane.spot].get(mode="clip")
    nodes = jnp.where(index < lane.spot, program, jnp.where(index < lane.spot + lane.size, inside, behind))
    # Whoever runs the neighbour sees a REPEAT and its count as one, so a change of the count begins at the REPEAT, the
    # node in front of it.
    of_repeat = ((program[lane.spot] & 15) == COUNT).astype(jnp.int32)
    return nodes, jnp.stack([lane.spot - of_repeat, old_size + of_repeat])


def _key_of(data: jax.Array, index: jax.Array) -> jax.Array:
    """Return one of the keys whose data are uint32 [.., 2]."""
    return jax.random.wrap_key_data(encode.take(data, index), impl=GENERATOR)


def _data(keys: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(keys))


Compiled = Literal["one by one", "in lockstep"] | Launcher
"""How array code draws programs: one after the other, all in lockstep, or by kernels."""
Way = Literal["natively"] | Compiled
"""How programs are drawn: by code of the C compiler, or by array code."""


def _way(language: Language, width: int, *arrays: jax.Array) -> Way:
    """Return the fastest way here to draw programs of a width; the last of the arrays are the keys."""
    fits = max(*(array.shape[0] for array in arrays), arrays[-1].size) <= MOST
    if fits and str(jax.random.key_impl(arrays[-1])) == GENERATOR:
        try:
            return launch.here()
        except Unavailable:
            traced = any(isinstance(array, jax.core.Tracer) for array in arrays)
            if not traced and jax.default_backend() == "cpu" and _is_native(language, width):
                return "natively"
    return "one by one" if has_whole_loops() else "in lockstep"


@functools.cache
def _is_native(language: Language, width: int) -> bool:
    """Return whether programs can be drawn by code of the C compiler; then it is compiled."""
    nodes, data = np.zeros((1, width), np.int32), np.zeros((0, 2), np.uint32)
    nodes[0, :2] = PROGRAM, encode.ACTION
    try:
        _programs_drawer(language, Growth(), width).natively(0, 0, [data])
        *spots, sizes = _spots_finder(language, Growth()).natively(1, 0, [nodes])
        _neighbours_drawer(language, Growth()).natively(0, 1, [data, nodes, sizes, *spots])
    except (Unavailable, Unsupported):
        return False
    return True
