"""Trains the program VAE: a jitted step that generates its own data, with all state in one pytree.

The data and the noise of a step depend only on the seed and on the number of the step. So a training that continues
from a checkpoint gives the same result as one that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprl.latent import data, sequences, vae
from jaxprl.latent.grammar import Grammar, masks
from jaxprl.latent.kinds import KINDS, LEAPS, Kind, Name, Sizes
from jaxprl.types import PyTree
from jaxprl.worlds.seeds import checked_seed
from jaxprl.worlds.task import Task
from jaxprl.xla import guarded, jit

PACKING: dict[Name, vae.Packing] = {
    "leaps": ((5, 256), (2, 240), (2, 208), (3, 168), (4, 136), (4, 104), (4, 72), (5, 36), (5, 12)),
    "hprl": ((3, 256), (2, 248), (1, 224), (2, 192), (2, 160), (3, 136), (3, 104), (4, 64), (5, 28), (12, 6)),
}
"""The packing of a batch of 256 programs, by kind of program space. It has enough rows for the usual lengths of
training programs; a program that is longer than its row does not count."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training; the published values where there are any.

    Raises:
      UserError: the seed is not an integer from 0 to 2**32 - 1.
    """

    seed: int = 0
    """The seed of data, noise and initial parameters, an integer from 0 to 2**32 - 1."""
    batch: int = 256
    """Programs per step."""
    draws: int = 832
    """Programs that are drawn for a batch. Of them 35 to 40 % are distinct and have all their branches exercised."""
    runs: int = 2
    """Runs of each program, out of ten, that the behaviour network imitates."""
    run_steps: int = 20
    """The first actions of these runs that it imitates."""
    learning_rate: float = 1e-3
    """The highest learning rate."""
    warm_up: int = 300
    """Steps over which the learning rate rises linearly."""
    full_rate: int = 8000
    """The step from which the learning rate falls with the square root of the step, so that the length of the training
    need not be known in advance."""
    average: float = 0.999
    """Decay of the running average of the parameters; the average is what is evaluated and shipped."""
    sizes: Sizes = LEAPS.sizes
    """The sizes of the networks."""
    space_kind: Name = LEAPS.name
    """The name of the kind of program space."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", checked_seed(self.seed))

    @classmethod
    def of(cls, kind: Kind, *, seed: int = 0) -> Recipe:
        """Return the recipe for a kind of program space."""
        return cls(seed=seed, sizes=kind.sizes, space_kind=kind.name)

    @property
    def kind(self) -> Kind:
        """The kind of program space."""
        return KINDS[self.space_kind]

    def packing(self) -> vae.Packing | None:
        """Return the packing of a batch, if there is one for its size."""
        return PACKING[self.space_kind] if self.batch == 256 else None


class State(NamedTuple):
    """The whole state of a training."""

    step: jax.Array  # int32: number of steps taken
    params: vae.Params
    average: vae.Params  # running average of params
    optimizer: PyTree  # the state of the optax optimizer


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Return the optimizer: Adam on clipped gradients, with the recipe's learning rates."""

    def rate(step: jax.Array) -> jax.Array:
        step = step.astype(jnp.float32)
        rising = (step + 1) / recipe.warm_up
        falling = jnp.sqrt(recipe.full_rate / jnp.maximum(step, 1.0))
        return recipe.learning_rate * jnp.minimum(1.0, jnp.minimum(rising, falling))

    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


@guarded
def start(recipe: Recipe, grammar: Grammar) -> State:
    """Return the state of a training before the first step."""
    params = vae.init(grammar, jax.random.fold_in(jax.random.key(recipe.seed), 2**31 - 1), recipe.sizes, recipe.kind)
    return State(jnp.int32(0), params, jax.tree.map(jnp.copy, params), optimizer(recipe).init(params))


@guarded
def batch_of(recipe: Recipe, grammar: Grammar, task: Task, key: jax.Array) -> vae.Batch:
    """Draw a batch.

    Args:
      recipe: the hyperparameters.
      grammar: the grammar of the sequences.
      task: the task whose world the programs run in (`data.RANDOM_STATES`).
      key: a JAX random key.

    Returns:
      The batch, longest programs first. If too few of the drawn programs are usable, the rest has weight 0.
    """
    drawn = data.draw(task, key, recipe.draws, runs=recipe.runs, steps=recipe.run_steps, kind=recipe.kind)
    (chosen,) = jnp.nonzero(drawn.wanted, size=recipe.batch, fill_value=0)
    enough = jnp.arange(recipe.batch) < jnp.sum(drawn.wanted)
    tokens, length, fine = jax.vmap(functools.partial(sequences.from_nodes, grammar))(drawn.programs[chosen])
    runs = jax.tree.map(lambda leaf: leaf[chosen], drawn.executions)
    weight = (enough & fine).astype(jnp.float32)
    order = jnp.argsort(-length, stable=True)
    tokens, length, weight, runs = jax.tree.map(lambda leaf: leaf[order], (tokens, length, weight, runs))
    packing = recipe.packing()
    if packing is not None:
        tokens = tokens[:, : sum(steps for steps, _ in packing)]
        room = sum(jnp.where(jnp.arange(recipe.batch) < rows, steps, 0) for steps, rows in packing)
        weight = jnp.where(length <= room, weight, 0.0)
    return vae.Batch(tokens, length, masks(grammar, tokens), weight, runs.action, runs.seen, runs.length)


@jit(per=("recipe", "grammar", "task"), static_argnames=("recipe", "grammar", "task", "steps"), donate_argnames="state")
def advance(recipe: Recipe, grammar: Grammar, task: Task, state: State, steps: int) -> tuple[State, dict]:
    """Take training steps.

    Args:
      recipe: the hyperparameters.
      grammar: the grammar of the sequences.
      task: the task whose world the programs run in (`data.RANDOM_STATES`).
      state: the state; its buffers are donated.
      steps: number of steps.

    Returns:
      The state after them, and the means of the measurements over these steps by name: the loss and its parts, the norm
      of the gradient, and the rows that counted.
    """
    packing = recipe.packing()

    def one(state: State, _: None) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
        data_key, noise_key = jax.random.split(key)
        batch = batch_of(recipe, grammar, task, data_key)
        grade = jax.value_and_grad(vae.loss, has_aux=True)
        (loss, parts), gradient = grade(state.params, batch, noise_key, grammar, packing, recipe.kind)
        with jax.numpy_dtype_promotion("standard"):  # optax takes a float to an integer power
            updates, optimizer_state = optimizer(recipe).update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(recipe.average, (1 + state.step) / (10 + state.step)).astype(jnp.float32)
        average = optax.incremental_update(params, state.average, 1 - decay)
        parts = parts | {"loss": loss, "gradient": optax.global_norm(gradient), "rows": jnp.sum(batch.weight)}
        return State(state.step + 1, params, average, optimizer_state), parts

    state, parts = jax.lax.scan(one, state, length=steps)
    return state, jax.tree.map(jnp.mean, parts)
