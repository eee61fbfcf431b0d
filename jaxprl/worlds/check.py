"""Check that a task keeps the contracts of `task.py`, and describe what is wrong before a search runs into it.

The rules of a task whose world is array code are traced once, without being compiled, to check the structure of what
they return. Then random actions are run on a few layouts, in plain Python and, for an array task, in one jitted step
too. Both have to agree, no return may exceed 1, and a task that claims to be quiet has to be quiet. Actions that never
did anything and perceptions that never changed are reported as notes.
"""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Hashable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl.language import Language
from jaxprl.errors import UserError
from jaxprl.types import PyTree
from jaxprl.worlds.plain import plain_layout
from jaxprl.worlds.task import Layout, PythonTask, Task
from jaxprl.xla import guarded

SEEDS = (0, 1, 2, 3, 1_000_000)
"""The seeds of the layouts that are tried. Searches use the first ones, final tests those from the last one on."""
RUNS, STEPS = 10, 100
"""The number of runs of random actions on each layout, and the number of actions in a run."""
COMPARED = 40
"""The number of actions on each layout, from the first one on, for which arrays are compared with plain Python."""
SURE = 100
"""The number of uses of an action after which it is noted that it never did anything."""
MOST_UNITS = 2**31 // 32 - 1
"""The largest number of units of a layout. The sum over 32 layouts fits an int32."""
MOST_POSES = 2**22
"""The largest number of poses. Together with the number of a WHILE, a pose fits an int32."""
DTYPES = tuple(np.dtype(kind) for kind in (np.bool_, np.uint8, np.int32, np.uint32))
"""The dtypes that the leaves of a layout may have."""
WORDS = ("map", "agent", "goal", "returns")
"""The keys that `Task.words` may have."""


def check(task: Task | PythonTask) -> list[str]:
    """Try a task out.

    Args:
      task: the task.

    Returns:
      Notes on what may be a mistake, a sentence each.

    Raises:
      UserError: the task certainly has a mistake, which the message describes. If the task raised an exception, that is
        the cause of the error.

    Example:
      >>> from jaxprl.worlds.make import make
      >>> check(make("Seeder"))
      []
    """
    with _reporting(f"task {task.name!r}"):
        _check_values(task)
        return _PythonTrial(task).notes() if isinstance(task, PythonTask) else _ArrayTrial(task).notes()


class _Mistake(Exception):
    """A description of a mistake, to which `check` adds the name of the task."""


@contextlib.contextmanager
def _reporting(where: str) -> Iterator[None]:
    """Turn a `_Mistake` within the block into a UserError whose message says where it was made."""
    try:
        yield
    except _Mistake as error:
        raise UserError(f"{where}: {error}") from error.__cause__


@contextlib.contextmanager
def _calling(what: str) -> Iterator[None]:
    """Turn any exception of the task's own code, which the block runs, into a `_Mistake` in `what`."""
    try:
        yield
    except _Mistake:
        raise
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise _Mistake(
            f"{what} asks for the value of an array: on arrays there is no if, and, or, not, in, range, int(..) or "
            "list[..]; see jaxprl/worlds/ops.py"
        ) from error
    except Exception as error:
        raise _Mistake(f"{what} raises {type(error).__name__}: {' '.join(str(error).split())}") from error


def _expect(condition: bool, mistake: str) -> None:
    """Raise a `_Mistake` with this description unless a condition holds."""
    if not condition:
        raise _Mistake(mistake)


def _check_values(task: Task | PythonTask) -> None:
    """Check the fields of a task that are neither rules nor layouts."""
    _expect(isinstance(task.name, str) and bool(task.name.strip()), "its name is no text")
    rules = "act", "perceive", "key", "pose", "language", "poses", "call_limit", "terminated_hides_crash"
    lacking = [name for name in rules if isinstance(task, Task) and not hasattr(task.world, name)]
    _expect(not lacking, f"its world lacks {', '.join(lacking)} (jaxprl/worlds/task.py, World)")
    _expect(isinstance(task.language, Language), f"its language is a {type(task.language).__name__}, not a Language")
    _expect(
        isinstance(task.words, dict) and all(isinstance(text, str) for text in task.words.values()),
        f"words is {task.words!r}; it is a dictionary of texts for {', '.join(WORDS)}",
    )
    strange = sorted(map(str, {*task.words} - {*WORDS}))
    _expect(not strange, f"words has {', '.join(strange)}; prompts use {', '.join(WORDS)}")
    _expect(
        type(task.budget) is int and 1 <= task.budget < 2**30, f"budget {task.budget!r}; it goes from 1 to {2**30 - 1}"
    )
    if isinstance(task, Task):
        _expect(type(task.quiet) is bool, f"quiet is {task.quiet!r}; it is True or False")
        with _calling("hash(world)"):
            hash(task)
        limit, poses = task.world.call_limit, task.world.poses
        _expect(type(limit) is int and limit > 0, f"call_limit is {limit!r}; it is a whole number above 0")
        _expect(type(poses) is int and 0 < poses <= MOST_POSES, f"poses is {poses!r}; it goes from 1 to {MOST_POSES}")


class _Uses:
    """Counts how often actions were tried, and collects which of them did something and what perceptions returned."""

    def __init__(self) -> None:
        self.tried: collections.Counter[str] = collections.Counter()
        self.effective: set[str] = set()
        self.seen: dict[str, set[bool]] = {}

    def acted(self, action: str, effect: bool) -> None:
        """Record a use of an action, and whether it had any effect."""
        self.tried[action] += 1
        if effect:
            self.effective.add(action)

    def notes(self, task: Task | PythonTask) -> list[str]:
        """Return at most one note: which actions did nothing, and which perceptions were always the same."""
        total, idle = sum(self.tried.values()), {word for word, times in self.tried.items() if times >= SURE}
        notable = {"did nothing": sorted(idle - self.effective)}
        if total >= SURE * len(task.language.actions):
            for value in (False, True):
                notable[f"always {value}"] = [word for word, values in self.seen.items() if values == {value}]
        parts = [f"{what}: {', '.join(words)}" for what, words in notable.items() if words]
        return [f"task {task.name!r}, in {total:,} random actions: {'; '.join(parts)}"] if parts else []


class _ArrayTrial:
    """The trial of a task whose world is array code. Creating it checks the layouts and traces the rules."""

    @guarded
    def __init__(self, task: Task):
        self.task, self.world, self.uses = task, task.world, _Uses()
        _expect(not task.quiet or hasattr(task.world, "glide"), "the task is quiet, but its world has no glide(..)")
        self.layouts = {seed: self.layout(seed) for seed in SEEDS}
        first = self.layouts[SEEDS[0]]
        for seed, layout in self.layouts.items():
            _same_form(f"the layout of seed {seed}", layout, f"that of seed {SEEDS[0]}", first)
        state, progress, _ = jax.tree.map(jnp.asarray, first)
        self.trace(state, progress)
        self.step = jax.jit(self.steps_of)

    def layout(self, seed: int) -> Layout:
        """Return the layout of a seed after checking its leaves."""
        with _calling(f"generate({seed})"):
            layout, again = self.task.layout(seed), self.task.layout(seed)
        _expect(isinstance(layout, Layout), f"generate({seed}) gives a {type(layout).__name__}, not a Layout")
        for path, leaf in jax.tree_util.tree_leaves_with_path(layout):
            name = f"the layout of seed {seed}: {_name(path)}"
            _expect(
                isinstance(leaf, np.ndarray | np.generic) and leaf.dtype in DTYPES and leaf.ndim <= 1,
                f"{name} is {_described(leaf)}; it is a numpy scalar or one-dimensional array of bool, uint8, int32 "
                "or uint32, like np.int32(0)",
            )
        units = layout.units
        _expect(
            isinstance(units, np.ndarray | np.generic) and units.dtype == np.int32 and units.ndim == 0,
            f"the layout of seed {seed}: units is {_described(units)}; it is a np.int32",
        )
        _expect(
            1 <= int(units) <= MOST_UNITS,
            f"the layout of seed {seed}: units is {units}; 1 to {MOST_UNITS:,} are allowed",
        )
        _same_form(f"generate({seed})", again, "another call of it", layout)
        same = all(map(np.array_equal, jax.tree.leaves(layout), jax.tree.leaves(again)))
        _expect(same, f"generate({seed}) gives another layout each time; draw from np.random.default_rng(seed)")
        return layout

    def trace(self, state: PyTree, progress: PyTree) -> None:
        """Check the structure, shapes and dtypes of what the rules return on arrays."""
        number, truth = jnp.int32(1), jnp.bool_(False)
        with _calling("act(state, action, at_limit)"):
            pair = jax.eval_shape(self.world.act, state, number, truth)
            _expect(type(pair) is tuple and len(pair) == 2, "act(..) does not give a pair: state, event")
            new_state, event = pair
            _same_form("the state from act(..)", new_state, "the one before", state)
        if hasattr(self.world, "crashed"):
            with _calling("crashed(event)"):
                crashed = jax.eval_shape(self.world.crashed, event)
                _expect(_is(crashed, np.bool_), f"crashed(..) gives {_described(crashed)}, not a bool")
        if self.task.quiet:
            with _calling("glide(state, action)"):
                glided = jax.eval_shape(self.world.glide, state, number)
                pair = type(glided) is tuple and len(glided) == 2
                _expect(pair and _is(glided[1], np.bool_), "glide(..) does not give a pair: state, a bool")
                _same_form("the state from glide(..)", glided[0], "the one before", state)
        with _calling("perceive(state, perception)"):
            sensed = jax.eval_shape(self.world.perceive, state, number)
            _expect(_is(sensed, np.bool_), f"perceive(..) gives {_described(sensed)}, not a bool")
        with _calling("key(state)"):
            key = jax.eval_shape(self.world.key, state)
            _expect(
                type(key) is tuple and len(key) == 2 and _is(key[0], np.integer), "key(..) does not give (pose, hash)"
            )
            words = jax.tree.leaves(key[1])
            whole = key[1] is None or (len(words) == 2 and all(_is(word, np.uint32) for word in words))
            described = ", ".join(map(_described, words)) or "nothing"
            _expect(whole, f"key(..) gives a hash of {described}; it is two uint32 or None")
        with _calling("reward(world, progress, state, event)"):
            result = jax.eval_shape(lambda *args: self.task.reward(self.world, *args), progress, new_state, event)
            _expect(
                type(result) is tuple and len(result) == 4,
                "reward(..) does not give state, progress, units, terminated",
            )
            _same_form("the state from reward(..)", result[0], "the one before", state)
            _same_form("the progress from reward(..)", result[1], "the one before", progress)
            _expect(
                _is(result[2], np.integer), f"reward(..) gives units of {_described(result[2])}; they are whole numbers"
            )
            _expect(_is(result[3], np.bool_), f"reward(..) gives terminated as {_described(result[3])}, not as a bool")

    def steps_of(self, state: PyTree, progress: PyTree, action: jax.Array) -> tuple[PyTree, ...]:
        """Return what an action leads to on arrays: the step, all perceptions (bool [perceptions]), whether it only
        changes a pose (False if the task is not quiet), and the pose."""
        quiet = self.world.glide(state, action)[1] if self.task.quiet else jnp.bool_(False)
        step = self.task.step(state, progress, action, jnp.bool_(False))
        codes = jnp.arange(len(self.task.language.perceptions), dtype=jnp.int32)
        sensed = jax.lax.map(lambda code: self.world.perceive(step.state, code), codes)
        return *step, sensed, quiet, self.world.key(step.state)[0]

    @guarded
    def notes(self) -> list[str]:
        """Do all runs and return the notes on them."""
        for seed in SEEDS:
            for number in range(RUNS):
                self.run(seed, number)
        return self.uses.notes(self.task)

    def run(self, seed: int, number: int) -> None:
        """Take random actions on a layout in plain Python, and the first `COMPARED` of them on arrays too."""
        names = self.task.language.action_names
        state, progress, most = plain_layout(self.layouts[seed])
        arrays: tuple[PyTree, ...] = jax.tree.map(jnp.asarray, self.layouts[seed])[:2]
        rng, total, path = np.random.default_rng([seed, number]), 0, f"random actions on the layout of seed {seed}"
        for index, code in enumerate(rng.integers(1, len(names) + 1, STEPS).tolist()):
            before = state, progress
            quiet = False
            if self.task.quiet:
                with _calling(f"{path}, in plain Python: glide"):
                    glided, quiet = self.world.glide(state, code)
            with _calling(f"{path}, in plain Python: act, reward, perceive or key"):
                state, progress, units, ended, crashed = self.task.step(state, progress, code, False)
                sensed = [self.world.perceive(state, code) for code in range(len(self.task.language.perceptions))]
                key = self.world.key(state)
                _expect(isinstance(key, Hashable), f"key(..) gives {key!r} in plain Python, which cannot be hashed")
            if self.task.quiet:
                idle = (state, progress, units, ended, crashed) == (glided, before[1], 0, False, False)
                same = idle if quiet else glided == before[0]
                _expect(same, f"{path}: {names[code - 1]} does not do what glide(..) says, or the task is not quiet")
            self.uses.acted(names[code - 1], (state, progress) != before or any((units, ended, crashed)))
            for word, value in zip(self.task.language.perception_names, sensed, strict=True):
                self.uses.seen.setdefault(word, set()).add(bool(value))
            total += units
            _expect(
                total <= most,
                f"{path}: after {index + 1} of them a return of {total} / {most}; returns go up to 1 at any time",
            )
            if number * STEPS + index < COMPARED:
                with _calling(f"{path}, on arrays: act, reward, perceive or key"):
                    arrays = self.step(*arrays[:2], jnp.int32(code))
                self.compare(
                    f"{path}: after {index + 1} of them, {names[code - 1]} the last,",
                    (state, progress, units, ended, crashed, tuple(sensed), quiet), arrays,
                )  # fmt: skip
            if ended or crashed:
                return

    def compare(self, where: str, ours: tuple, arrays: tuple) -> None:
        """Check that plain Python led to the same values as `steps_of` did on arrays."""
        *result, pose = jax.device_get(arrays)
        _expect(
            0 <= int(pose) < self.world.poses, f"{where} the pose of key(..) is {pose}, not below {self.world.poses}"
        )
        state, progress, _ = plain_layout(Layout(result[0], result[1], np.int32(0)))
        rest = (*(each.item() for each in result[2:5]), tuple(result[5].tolist()), result[6].item())
        parts = "the state", "the progress", "units", "terminated", "crashed", "perceptions", "what glide(..) says"
        for part, one, other in zip(parts, ours, (state, progress, *rest), strict=True):
            _expect(
                one == other, f"{where} {part} differs: {_short(one)} in plain Python and {_short(other)} on arrays"
            )


class _PythonTrial:
    """The trial of a task whose world is not array code."""

    def __init__(self, task: PythonTask):
        self.task, self.uses = task, _Uses()
        units = task.units
        _expect(type(units) is int and 1 <= units <= MOST_UNITS, f"units is {units!r}; 1 to {MOST_UNITS:,} are allowed")

    def notes(self) -> list[str]:
        """Do all runs, the first one of each layout twice, and return the notes on them."""
        for seed in SEEDS:
            runs = [self.run(seed, number) for number in (0, *range(RUNS))]
            _expect(
                runs[0] == runs[1],
                f"random actions on the layout of seed {seed} go otherwise the second time; all that is random in an "
                "environment follows from its seed",
            )
        return self.uses.notes(self.task)

    def run(self, seed: int, number: int) -> list[tuple[int, float, bool, dict[str, bool]]]:
        """Take random actions on a layout; return the key's hash, reward, termination and perceptions after each."""
        names, record, total = self.task.language.action_names, [], 0.0
        path = f"random actions on the layout of seed {seed}"
        with _calling(f"environment({seed})"):
            environment = self.task.environment(seed)
        lacking = [
            name
            for name in ("act", "perceive", "key", "pose", "call_limit", "terminated_hides_crash")
            if not hasattr(environment, name)
        ]
        _expect(not lacking, f"its environment lacks {', '.join(lacking)} (jaxprl/worlds/task.py, PythonEnvironment)")
        rng = np.random.default_rng([seed, number])
        with _calling(f"{path}: key"):
            before = environment.key()
        for index, code in enumerate(rng.integers(len(names), size=STEPS).tolist()):
            with _calling(f"{path}: {names[code]}"):
                reward, ended = environment.act(names[code], at_limit=False)
                total += float(reward)
            sensed = {}
            for word in self.task.language.perceptions:
                with _calling(f"{path}: {word}"):
                    sensed[word] = environment.perceive(word)
                _expect(isinstance(sensed[word], bool), f"{word} gives {sensed[word]!r}, not a bool")
                self.uses.seen.setdefault(word, set()).add(sensed[word])
            with _calling(f"{path}: key"):
                key = environment.key()
                record.append((hash(key), float(reward), bool(ended), sensed))
            self.uses.acted(names[code], key != before or bool(reward) or bool(ended))
            before = key
            _expect(
                math.isfinite(total) and total < 1 + 0.5 / self.task.units,
                f"{path}: after {index + 1} of them a return of {total:g}; returns go up to 1: scale the rewards",
            )
            if ended:
                break
        return record


def _same_form(what: str, tree: PyTree, other: str, expected: PyTree) -> None:
    """Check that two pytrees have the same structure, and leaves of the same shapes, either bools or integers."""
    one: PyTree = jax.tree.structure(tree)
    two: PyTree = jax.tree.structure(expected)
    _expect(one == two, f"{what} is {_short(one)}, {other} {_short(two)}")
    leaves = zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(expected), strict=True)
    for (path, leaf), like in leaves:
        same = np.shape(leaf) == np.shape(like) and (leaf.dtype == np.bool_) == (like.dtype == np.bool_)
        whole = leaf.dtype == np.bool_ or jnp.issubdtype(leaf.dtype, jnp.integer)
        _expect(same and whole, f"{what}: {_name(path)} is {_described(leaf)}, in {other} {_described(like)}")


def _is(leaf: PyTree, kind: type) -> bool:
    """Return whether a leaf is a scalar array of a kind of dtype."""
    return getattr(leaf, "shape", None) == () and jnp.issubdtype(leaf.dtype, kind)


def _name(path: tuple) -> str:
    """Return the path to a leaf as text, like `state.cell`."""
    return jax.tree_util.keystr(path).removeprefix(".") or "it"


def _described(leaf: PyTree) -> str:
    """Return the type of a leaf as text, like `float32 [12]`, `int32` or `a Python list`."""
    if not hasattr(leaf, "dtype"):
        return f"a Python {type(leaf).__name__}"
    return f"{leaf.dtype} {list(leaf.shape)}" if leaf.shape else str(leaf.dtype)


def _short(value: object) -> str:
    """Return a value as text on one line, shortened to at most 120 characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= 120 else f"{text[:117]}..."
