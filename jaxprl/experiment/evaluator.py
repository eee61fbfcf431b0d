"""Evaluates what the searches of a run ask for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.errors import UserError
from jaxprl.search.protocol import Candidates, Improvements, Neighbourhoods, Search, State
from jaxprl.search.rounds import Rounds
from jaxprl.vm.device import several_rounds
from jaxprl.vm.engines import check_engine, expected_engine
from jaxprl.vm.evaluate import evaluate, first_better, prepare, scores
from jaxprl.vm.outcomes import Outcomes, Proceeded, Scale
from jaxprl.vm.proceed import proceed
from jaxprl.worlds.task import Layout, PythonTask, Task

MOST_WORKERS = 1024


class Evaluator:
    """Evaluates programs of one task on the layouts of a run."""

    def __init__(
        self,
        task: Task | PythonTask,
        layout_seeds: tuple[int, ...],
        *,
        workers: int | None = None,
        engine: str | None = None,
    ):
        """Make the layouts.

        Args:
          task: the task.
          layout_seeds: seeds of the E layouts.
          workers: threads that evaluate; None for one per core.
          engine: the engine that runs programs; None for the fastest one that there is.

        Raises:
          UserError: the number of workers is out of range, or the layouts' units have no common scale.
        """
        if workers is not None and not 1 <= workers <= MOST_WORKERS:
            raise UserError(f"devices {workers}: it goes from 1 to {MOST_WORKERS} threads")
        check_engine(task, engine)
        self.task, self.workers, self.engine = task, workers, engine
        self.expected = engine or expected_engine()
        self.layouts: Layout = task.layouts(layout_seeds)
        if isinstance(task, Task):
            self.layouts = jax.tree.map(jnp.asarray, self.layouts)  # once, not for every question
        self.scale = Scale.of(self.layouts)

    def prepare(self) -> None:
        """Begin to compile what the first question will need; the searches are compiled meanwhile."""
        prepare(self.task, self.layouts, engine=self.engine)

    @property
    def goal(self) -> int:
        """Score of return 1."""
        return self.scale.denominator

    def mean_return(self, score: int) -> float:
        """Return the mean return that a score stands for."""
        return score / self.scale.denominator

    def evaluate(self, programs: np.ndarray) -> Outcomes:
        """Return the outcomes of programs, nodes int32 [P, N], on the layouts."""
        return evaluate(self.task, programs, self.layouts, workers=self.workers, engine=self.engine)

    def evaluate_on(self, programs: np.ndarray, layouts: Layout) -> Outcomes:
        """Return the outcomes of programs, nodes int32 [P, N], on other layouts."""
        return evaluate(self.task, programs, layouts, workers=self.workers, engine=self.engine)

    def proceed(self, programs: np.ndarray, layouts: Layout) -> Proceeded:
        """Return what programs, nodes int32 [P, N], do from P starts on, each on its own."""
        assert isinstance(self.task, Task)
        return proceed(self.task, programs, layouts, workers=self.workers, engine=self.engine)

    def several(self, search: Search, state: State, width: int) -> tuple[State, Rounds] | None:
        """Do several rounds of searches on a GPU, if that can be done (`search.rounds.Device`)."""
        if self.expected != "cuda" or isinstance(self.task, PythonTask):
            return None
        return several_rounds(self.task, self.layouts, self.scale, search, state, width)

    def answer(self, question: Neighbourhoods | Candidates) -> Improvements | np.ndarray:
        """Answer a question of the searches, of numpy arrays (`search.driver.drive`)."""
        if isinstance(question, Candidates):
            programs, wanted = map(np.asarray, question)
            return scores(self.task, programs, wanted, self.layouts, workers=self.workers, engine=self.engine)
        return first_better(self.task, question, self.layouts, workers=self.workers, engine=self.engine)
