"""Outcomes of runs: how a run ended, the columns that the interpreters fill, and exact mean returns.

Axis letters: P programs, E layouts.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.errors import UserError
from jaxprl.worlds.task import Layout


class End(enum.IntFlag):
    """How a run ended. A run can be terminated and crashed by the same call.

    Example:
      >>> end = End.TERMINATED | End.CRASHED
      >>> end.letters, end.in_words
      ('TC', 'terminated, crashed')
    """

    RUNNING = 0
    """The run has not ended yet."""
    TERMINATED = 1
    """The task ended the run."""
    CRASHED = 2
    """The run reached the call limit, a WHILE came to a state that it had been in before, or, in some worlds, an action
    crashed."""
    FINISHED = 4
    """The program ran off its end."""
    DROPPED = 8
    """The run was given up before its end, since nothing depends on it any more."""

    @property
    def letters(self) -> str:
        """T terminated, C crashed, TC both, E ran off the end of the program; empty where the run has not ended."""
        return "".join(letter for end, letter, _ in _SPELLINGS if end in self)

    @property
    def in_words(self) -> str:
        """The end as people say it; empty where the run has not ended."""
        return ", ".join(words for end, _, words in _SPELLINGS if end in self)


_SPELLINGS = (
    (End.TERMINATED, "T", "terminated"),
    (End.CRASHED, "C", "crashed"),
    (End.FINISHED, "E", "end of the program"),
)
_LETTERS = np.array([End(code).letters for code in range(2 * End.DROPPED)])

# For array code, which computes with plain integers.
RUNNING, TERMINATED, CRASHED, FINISHED, DROPPED = (
    End.RUNNING.value, End.TERMINATED.value, End.CRASHED.value, End.FINISHED.value, End.DROPPED.value
)  # fmt: skip

Array = np.ndarray | jax.Array
A = TypeVar("A", np.ndarray, jax.Array)


class Columns(NamedTuple, Generic[A]):
    """What is kept of runs: int32 arrays of one shape, all of numpy or all of JAX."""

    units: A  # sum of the rewards, in units of the layout
    calls: A  # actions and perceptions
    actions: A
    end: A  # codes of `End`


class HasColumns(Protocol):
    """Runs that have these columns, among other things."""

    @property
    def units(self) -> Array: ...
    @property
    def calls(self) -> Array: ...
    @property
    def actions(self) -> Array: ...
    @property
    def end(self) -> Array: ...


COLUMNS = len(Columns._fields)


def pack(runs: HasColumns) -> jax.Array:
    """Return the columns of runs of shape [...] as rows int32 [..., COLUMNS], the form in which engines write them."""
    return jnp.stack([runs.units, runs.calls, runs.actions, runs.end], axis=-1)


def unpack(rows: A) -> Columns[A]:
    """Return the columns [...] of rows [..., COLUMNS]."""
    return Columns(*(rows[..., column] for column in range(COLUMNS)))


@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes:
    """The outcomes of P programs on E layouts (`evaluate`).

    Example:
      >>> from jaxprl.dsl.parse import parse
      >>> from jaxprl.vm.evaluate import evaluate
      >>> from jaxprl.worlds.make import make
      >>> task = make("Harvester")
      >>> texts = "DEF run m( pickMarker m)", "DEF run m( WHILE c( markersPresent c) w( pickMarker move w) m)"
      >>> outcomes = evaluate(task, [parse(text, task) for text in texts], layout_seeds=range(3))
      >>> outcomes.calls.tolist(), outcomes.ends.tolist()
      ([[1, 1, 1], [16, 13, 16]], [['E', 'E', 'E'], ['E', 'E', 'E']])
      >>> outcomes.returns.round(3).tolist(), outcomes.mean_returns.round(3).tolist()
      ([[0.028, 0.028, 0.028], [0.139, 0.111, 0.139]], [0.028, 0.13])
    """

    units: np.ndarray  # int32 [P, E]: returns in units of the layout; `layout_units` of them make a return of 1
    calls: np.ndarray  # int32 [P, E]: actions and perceptions
    actions: np.ndarray  # int32 [P, E]
    end: np.ndarray  # int32 [P, E]: codes of `End`
    layout_units: np.ndarray  # int32 [E]

    @property
    def columns(self) -> Columns[np.ndarray]:
        """The four columns alone, arrays [P, E]."""
        return Columns(self.units, self.calls, self.actions, self.end)

    @property
    def returns(self) -> np.ndarray:
        """Return of every run, float64 [P, E]; at most 1."""
        return self.units / self.layout_units

    @property
    def mean_returns(self) -> np.ndarray:
        """Mean return of every program over the layouts, float64 [P].

        The mean is computed as a fraction and rounded once, whatever units the layouts have. So programs with equal
        mean returns have equal floats.
        """
        distinct, which = np.unique(self.layout_units, return_inverse=True)
        sums = [self.units[:, which == i].sum(axis=1, dtype=np.int64) for i in range(len(distinct))]
        common = math.lcm(*distinct.tolist())
        weights = np.array([common // each for each in distinct.tolist()], object)  # Python integers do not overflow
        totals = np.stack(sums, axis=1).astype(object) @ weights
        return np.array([total / (common * len(which)) for total in totals], np.float64)

    @property
    def ends(self) -> np.ndarray:
        """How every run ended, as `End.letters`: strings [P, E]."""
        return _LETTERS[self.end]

    @property
    def complete(self) -> np.ndarray:
        """Whether all runs of a program have ended, bool [P]; engines drop runs that nothing depends on."""
        return ((self.end != RUNNING) & (self.end != DROPPED)).all(axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Proceeded:
    """How P runs ended, and where (`proceed`).

    Example:
      >>> from jaxprl.dsl.parse import parse
      >>> from jaxprl.vm.proceed import proceed
      >>> from jaxprl.worlds.make import make
      >>> task = make("StairClimber")
      >>> climb = parse("DEF run m( WHILE c( noMarkersPresent c) w( turnLeft move turnRight move w) m)", task)
      >>> found = proceed(task, [climb, climb], task.layouts([0, 1]))
      >>> found.outcomes.units.tolist(), found.returns.tolist(), found.ends.tolist()
      ([2, 8], [1.0, 1.0], ['T', 'T'])
      >>> found.layouts.state.cell.shape
      (2,)
    """

    outcomes: Columns[np.ndarray]
    """The units, the calls, the actions and the code of the end (`End`) of every run, int32 [P] each."""
    layouts: Layout
    """P stacked layouts, numpy arrays: the state and the progress in which each run ended, and its units as before."""

    @property
    def returns(self) -> np.ndarray:
        """Return of every run, float64 [P]: what it added to those before it."""
        return self.outcomes.units / self.layouts.units

    @property
    def ends(self) -> np.ndarray:
        """How every run ended, as `End.letters`: strings [P]."""
        return _LETTERS[self.outcomes.end]


MOST_SCORE = 2**31 - 1
"""The largest score, since searches keep scores as int32."""


def score_to_beat(score: A, margin: A) -> A:
    """Return the score that a neighbour has to beat.

    Args:
      score: the parent's score, int32.
      margin: how much lower it may be, int32, not negative.

    Returns:
      The difference, int32, but at least -(2**31 - 1): the lowest int32 stands for a score that is not known.
    """
    maximum = np.maximum if isinstance(score, np.ndarray) else jnp.maximum
    return maximum(score, margin - MOST_SCORE) - margin


class Scale(NamedTuple):
    """Exact arithmetic of mean returns: a mean return is `score / denominator`, both integers.

    Layouts may have different units. On two layouts with 2 and 3 units per return of 1, a program that gets 1 unit on
    each has the mean return (1/2 + 1/3) / 2 = 5/12.

    Example:
      >>> import numpy as np
      >>> from jaxprl.worlds.task import Layout
      >>> scale = Scale.of(Layout(state=(), progress=(), units=np.array([2, 3])))
      >>> int(scale.scores(np.array([1, 1]))), scale.denominator
      (5, 12)
    """

    weights: np.ndarray  # int64 [E]: score of one unit on each layout
    denominator: int  # score of a mean return of 1

    @classmethod
    def of(cls, layouts: Layout) -> Scale:
        """Return the scale of E layouts.

        Raises:
          UserError: scores on these layouts do not fit an int32.
        """
        units = np.asarray(layouts.units, np.int64)
        common = math.lcm(*units.tolist())
        if common * len(units) > MOST_SCORE:
            some = ", ".join(map(str, np.unique(units)[:8]))
            raise UserError(
                f"{len(units)} layouts whose units ({some}, ..) have {common:,} as their least common multiple: times "
                f"the number of layouts it may be {MOST_SCORE:,} at most; take fewer layouts or units that go together"
            )
        return cls(common // units, common * len(units))

    @property
    def most(self) -> int:
        """Score of a return of 1 on one layout."""
        return self.denominator // len(self.weights)

    def scores(self, units: np.ndarray) -> np.ndarray:
        """Return the scores int64 [...] of returns in units, int32 [..., E]."""
        return units.astype(np.int64) @ self.weights
