"""What the policy of HPRL is shown (`ppo.Observer`): how many programs have been run, or the state of Karel's world."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.types import PyTree
from jaxprl.worlds.karel import observe
from jaxprl.worlds.karel.layouts import EAST, border
from jaxprl.worlds.karel.world import KarelWorld

SIDE = 8
"""Rows and columns of the image of a step."""
_WALLS, _ONE_MARKER = 4, 6
"""Planes of `observe.planes`."""


@dataclasses.dataclass(frozen=True)
class StepObserver:
    """Shows the number of programs that have been run, and nothing of the world.

    The image is that of the published code: a walled grid, where as many cells as programs have been run are marked,
    column by column, in two planes: that of a robot which faces east, and that of cells with one marker. It is 8x8
    whatever the world's size is.
    """

    steps: int
    """Programs of an episode."""

    needs_state = False
    shape = (observe.PLANES, SIDE, SIDE)

    def image(self, observations: PyTree, step: jax.Array) -> jax.Array:
        del observations
        return jnp.asarray(self._pictures())[step][None]

    def images(self, observations: PyTree) -> jax.Array:
        del observations
        return jnp.asarray(self._pictures())[None]

    def _pictures(self) -> np.ndarray:
        """Return the images of all steps, float32 [T, planes, rows, columns]."""
        inner = SIDE - 2
        pictures = np.zeros((self.steps, *self.shape), np.float32)
        pictures[:, _WALLS] = border(SIDE, SIDE)
        for step in range(self.steps):
            for cell in range(step):
                column, row = divmod(cell, inner)
                pictures[step, [EAST, _ONE_MARKER], 1 + row, 1 + column] = 1
        return pictures


@dataclasses.dataclass(frozen=True)
class StateObserver:
    """Shows the state of the world in which the last program ended, as planes (`observe.planes`)."""

    world: KarelWorld

    needs_state = True

    @property
    def shape(self) -> tuple[int, int, int]:
        return observe.PLANES, self.world.height, self.world.width

    def image(self, observations: PyTree, step: jax.Array) -> jax.Array:
        del step
        return jax.vmap(lambda state: jnp.asarray(observe.planes(self.world, state)))(observations).astype(jnp.float32)

    def images(self, observations: PyTree) -> jax.Array:
        return jax.vmap(lambda states: self.image(states, jnp.int32(0)))(observations)
