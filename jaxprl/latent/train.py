"""Training of the program VAE: one jitted step that makes its own data; all state is a pytree.

The data of a step and its noise follow from the seed and the number of the step, so a training that goes on from a
checkpoint is the training that nothing interrupts.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprl.latent import data, sequences, vae
from jaxprl.latent.grammar import Grammar, masks
from jaxprl.worlds.task import Task

PACKING = ((5, 256), (2, 240), (2, 208), (3, 168), (4, 136), (4, 104), (4, 72), (5, 36), (5, 12))
"""For 256 programs: rows enough for the lengths that training programs have; a longer one than its row is left out."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train; the published numbers where there are any."""

    seed: int = 0
    batch: int = 256
    draws: int = 832
    """Programs drawn for a batch: some 40 % are distinct and have all their branches exercised."""
    runs: int = 2
    """Runs of each program, of the ten, that the behaviour network imitates."""
    run_steps: int = 20
    """Actions of them."""
    learning_rate: float = 1e-3
    warm_up: int = 300
    full_rate: int = 8000
    """Step from which on the rate falls with the square root of the step: no end has to be known beforehand."""
    average: float = 0.999
    """Decay of the running mean of the parameters, which is what is evaluated and shipped."""
    sizes: vae.Sizes = vae.SIZES

    def packing(self) -> vae.Packing | None:
        return PACKING if self.batch == 256 else None


class State(NamedTuple):
    """All that a training is."""

    step: jax.Array  # int32: steps done
    params: Any
    average: Any  # running mean of params
    optimizer: Any  # optax's state


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Return Adam behind a gradient clip, its rate as the recipe says."""

    def rate(step: jax.Array) -> jax.Array:
        step = step.astype(jnp.float32)
        rising = (step + 1) / recipe.warm_up
        falling = jnp.sqrt(recipe.full_rate / jnp.maximum(step, 1.0))
        return recipe.learning_rate * jnp.minimum(1.0, jnp.minimum(rising, falling))

    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def start(recipe: Recipe, grammar: Grammar) -> State:
    """Return the state before the first step."""
    params = vae.init(grammar, jax.random.fold_in(jax.random.key(recipe.seed), 2**31 - 1), recipe.sizes)
    return State(jnp.int32(0), params, jax.tree.map(jnp.copy, params), optimizer(recipe).init(params))


def batch_of(recipe: Recipe, grammar: Grammar, task: Task, key: jax.Array) -> vae.Batch:
    """Return the batch of a key."""
    drawn = data.draw(task, key, recipe.draws, runs=recipe.runs, steps=recipe.run_steps)
    (chosen,) = jnp.nonzero(drawn.wanted, size=recipe.batch, fill_value=0)
    there = jnp.arange(recipe.batch) < jnp.sum(drawn.wanted)
    tokens, length, fine = jax.vmap(functools.partial(sequences.from_nodes, grammar))(drawn.programs[chosen])
    runs = jax.tree.map(lambda leaf: leaf[chosen], drawn.executions)
    weight = (there & fine).astype(jnp.float32)
    order = jnp.argsort(-length, stable=True)
    tokens, length, weight, runs = jax.tree.map(lambda leaf: leaf[order], (tokens, length, weight, runs))
    packing = recipe.packing()
    if packing is not None:
        tokens = tokens[:, : sum(steps for steps, _ in packing)]
        room = sum(jnp.where(jnp.arange(recipe.batch) < rows, steps, 0) for steps, rows in packing)
        weight = jnp.where(length <= room, weight, 0.0)
    return vae.Batch(tokens, length, masks(grammar, tokens), weight, runs.action, runs.seen, runs.length)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 4), donate_argnums=3)
def advance(recipe: Recipe, grammar: Grammar, task: Task, state: State, steps: int) -> tuple[State, dict]:
    """Return the state after `steps` more steps, and the means of what was measured in them."""
    packing = recipe.packing()

    def one(state: State, _):
        key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
        data_key, noise_key = jax.random.split(key)
        batch = batch_of(recipe, grammar, task, data_key)
        grade = jax.value_and_grad(vae.loss, has_aux=True)
        (loss, parts), gradient = grade(state.params, batch, noise_key, grammar, packing)
        with jax.numpy_dtype_promotion("standard"):  # optax takes a float to an integer power
            updates, optimizer_state = optimizer(recipe).update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(recipe.average, (1 + state.step) / (10 + state.step)).astype(jnp.float32)
        average = optax.incremental_update(params, state.average, 1 - decay)
        parts = parts | {"loss": loss, "gradient": optax.global_norm(gradient), "rows": jnp.sum(batch.weight)}
        return State(state.step + 1, params, average, optimizer_state), parts

    state, parts = jax.lax.scan(one, state, length=steps)
    return state, jax.tree.map(jnp.mean, parts)
