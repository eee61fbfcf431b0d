"""Measures the quality of a learned program space: reconstruction, validity, variety and smoothness."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.errors import UserError
from jaxprl.latent import data, sequences, vae
from jaxprl.latent.free_run import free_run
from jaxprl.latent.grammar import Grammar, masks
from jaxprl.latent.kinds import LEAPS, Kind
from jaxprl.latent.space import LatentSpace
from jaxprl.types import JSON
from jaxprl.vm.evaluate import evaluate
from jaxprl.worlds.make import make
from jaxprl.worlds.task import Task
from jaxprl.xla import guarded, jit

SIGMAS = (0.1, 0.25, 0.5, 1.0)
"""Standard deviations of the noise that smoothness is measured with."""
SMOOTHNESS_TASKS = ("StairClimber", "Maze", "Harvester", "DoorKey")
"""Tasks on which smoothness is measured."""
MOST_PROGRAMS = 2**14
"""The most programs that a report looks at. It does so in one call, and memory grows with their number."""


class Reconstruction(TypedDict):
    """The shares of what is reconstructed."""

    tokens: float
    """Share of tokens that are right under teacher forcing."""
    programs: float
    """Share of programs that the decoder gives back from the mean of their latent."""


@jit(per=("grammar", "kind"), static_argnames=("grammar", "kind"))
def _reconstruct(
    grammar: Grammar, params: vae.Params, programs: jax.Array, kind: Kind
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Encode programs int32 [P, N] and decode the latents of their means.

    Returns:
      Which tokens are right under teacher forcing, bool [P, T]; which tokens belong to a program, bool [P, T]; and
      which programs the decoder gives back by itself, bool [P].
    """
    tokens, length, fine = jax.vmap(functools.partial(sequences.from_nodes, grammar))(programs)
    latent = kind.latent_of(vae.encode(params, tokens, length)[0])
    scores = vae.logits(params, latent, vae.inputs_of(grammar, tokens))
    guessed = jnp.argmax(jnp.where(masks(grammar, tokens), scores, -jnp.inf), axis=-1).T
    counted = jnp.arange(tokens.shape[1])[None, :] < length[:, None]
    written, _ = free_run(grammar, params, latent)
    return guessed == tokens, counted, fine & jnp.all(written == tokens, axis=1)


def reconstruction(grammar: Grammar, params: vae.Params, programs: np.ndarray, kind: Kind = LEAPS) -> Reconstruction:
    """Measure how well a model reconstructs programs.

    Args:
      grammar: the grammar of the model's sequences.
      params: the parameters of the model.
      programs: int32 [P, N], nodes.
      kind: the kind of the model's program space.

    Returns:
      The shares of right tokens and of programs that come back.
    """
    right, counted, whole = (np.asarray(part) for part in _reconstruct(grammar, params, programs, kind))
    return {"tokens": float(right[counted].mean()), "programs": float(whole.mean())}


@guarded
def full_report(grammar: Grammar, task: Task, params: vae.Params, *, programs: int, kind: Kind = LEAPS) -> JSON:
    """Measure everything that is reported of a model.

    Args:
      grammar: the grammar of the model's sequences.
      task: the task that training data was generated with (`data.RANDOM_STATES`).
      params: the parameters of the model, with the behaviour network.
      programs: number of held-out programs, and of latents that are drawn, 1 to `MOST_PROGRAMS`.
      kind: the kind of the model's program space.

    Returns:
      The report, which `in_words` prints.

    Raises:
      UserError: the number of programs is out of range.
    """
    if not 1 <= programs <= MOST_PROGRAMS:
        raise UserError(f"{programs} programs: a report looks at 1 to {MOST_PROGRAMS}")
    held_out = data.held_out_programs(task, 0, programs, kind)
    space = LatentSpace(grammar, params, kind=kind.name)
    draws = jax.random.normal(jax.random.key(0), (programs, space.size))
    decoded, valid = (np.asarray(part) for part in space.decode(space.latent_of(draws)))
    distinct = len(np.unique(decoded[valid], axis=0))
    return {
        "held_out_programs": programs,
        "reconstruction": reconstruction(grammar, params, held_out, kind),
        "reconstruction_by_length": _by_length(grammar, params, held_out, kind),
        "behaviour_accuracy": behaviour_accuracy(grammar, task, params, kind=kind),
        "draws": programs,
        "valid": float(valid.mean()),
        "distinct": distinct / max(int(valid.sum()), 1),
        "smoothness": {name: smoothness(space, name) for name in SMOOTHNESS_TASKS},
    }


def _by_length(grammar: Grammar, params: vae.Params, programs: np.ndarray, kind: Kind) -> dict[str, float]:
    """Return the share of programs that come back, by the length of their sequence."""
    _, counted, whole = (np.asarray(part) for part in _reconstruct(grammar, params, programs, kind))
    length = counted.sum(axis=1)
    bounds = [(1, 5), (6, 10), (11, 15), (16, 20), (21, grammar.steps)]
    parts = {f"{low}-{high}": whole[(length >= low) & (length <= high)] for low, high in bounds}
    return {name: float(part.mean()) for name, part in parts.items() if len(part)}


@guarded
def behaviour_accuracy(
    grammar: Grammar, task: Task, params: vae.Params, draws: int = 2**15, kind: Kind = LEAPS
) -> float:
    """Measure how well the behaviour network predicts the actions of held-out programs.

    Args:
      grammar: the grammar of the model's sequences.
      task: the task that training data was generated with.
      params: the parameters of the model, with the behaviour network.
      draws: number of programs that are drawn; those that are held out count.
      kind: the kind of the model's program space.

    Returns:
      The share of actions that it predicts from the means of the programs' latents.
    """
    drawn = _held_out_behaviour(task, kind, draws)
    wanted = np.asarray(drawn.wanted)
    programs = np.asarray(drawn.programs)[wanted]
    tokens, length, _ = jax.vmap(functools.partial(sequences.from_nodes, grammar))(programs)
    latent = kind.latent_of(vae.encode(params, tokens, length)[0])
    runs = jax.tree.map(lambda leaf: leaf[wanted], drawn.executions)
    scores = vae.behaviour_logits(params, latent, runs.action, runs.seen)
    right = np.asarray(jnp.argmax(scores, axis=-1)).transpose(1, 2, 0) == np.asarray(runs.action)
    counted = np.arange(right.shape[2]) < np.asarray(runs.length)[..., None]
    return float(right[counted].mean())


@jit(per=("task", "kind"), static_argnames=("task", "kind", "draws"))
def _held_out_behaviour(task: Task, kind: Kind, draws: int) -> data.Draw:
    """Draw programs, and run those that are held out."""
    return data.draw(task, jax.random.key(1), draws, held_out=True, runs=2, steps=20, kind=kind)


@guarded
def smoothness(space: LatentSpace, task_name: str, points: int = 256) -> dict[str, dict[str, float]]:
    """Measure how similarly the programs of z and z + sigma e behave on a task, for actions z and e from N(0, I).

    Args:
      space: the program space.
      task_name: the name of the task.
      points: number of pairs for each sigma.

    Returns:
      For each of `SIGMAS`, as a string: the mean absolute difference of their returns, the correlation of their
      returns, and the share of pairs that decode to the same program.
    """
    task = make(task_name)
    layouts = task.layouts(range(32))
    key = jax.random.key(0)
    z = jax.random.normal(key, (points, space.size))
    noise = jax.random.normal(jax.random.fold_in(key, 1), z.shape)
    actions = jnp.concatenate([z[None], z[None] + jnp.array(SIGMAS)[:, None, None] * noise[None]])
    programs, valid = (np.asarray(part) for part in space.decode(space.latent_of(actions)))
    programs = np.where(valid[..., None], programs, programs[valid][0])
    outcomes = evaluate(task, programs.reshape(-1, programs.shape[-1]), layouts)
    returns = outcomes.mean_returns.reshape(len(SIGMAS) + 1, points)
    measured = {}
    for sigma, moved, decoded, fine in zip(SIGMAS, returns[1:], programs[1:], valid[1:], strict=True):
        both = valid[0] & fine
        start, end = returns[0][both], moved[both]
        spread = min(start.std(), end.std())
        measured[str(sigma)] = {
            "difference": float(np.abs(start - end).mean()),
            "correlation": float(np.corrcoef(start, end)[0, 1]) if spread > 0 else float("nan"),
            "same_program": float((decoded[both] == programs[0][both]).all(axis=1).mean()),
        }
    return measured


def in_words(origin: JSON, metrics: Path) -> str:
    """Write a report as text: the origin of the model, the numbers and the learning curve.

    Args:
      origin: the fields of a `space.Origin` with a report.
      metrics: the file `metrics.jsonl` of the training.
    """
    report = origin["report"]
    lines = [
        f"{origin['command']}",
        f"seed {origin['seed']}, {origin['steps']:,} steps, {origin['seconds']:,} s on {origin['device']}",
        "",
        f"held-out programs: {report['held_out_programs']:,}",
        f"  tokens right (teacher forcing)      {report['reconstruction']['tokens']:.4f}",
        f"  programs back whole (free running)  {report['reconstruction']['programs']:.4f}",
        *(
            f"    of {name} choices".ljust(38) + f"{share:.4f}"
            for name, share in report["reconstruction_by_length"].items()
        ),
        f"  actions right (behaviour network)   {report['behaviour_accuracy']:.4f}",
        f"draws from N(0, I): {report['draws']:,}",
        f"  valid {report['valid']:.4f}, distinct of these {report['distinct']:.4f}",
        "",
        "smoothness of z -> z + sigma e: mean |difference| of returns (correlation)",
        "  " + "sigma".ljust(14) + "".join(str(sigma).ljust(16) for sigma in SIGMAS),
    ]
    for task, row in report["smoothness"].items():
        cells = [f"{row[str(s)]['difference']:.3f} ({row[str(s)]['correlation']:.2f})" for s in SIGMAS]
        lines.append("  " + task.ljust(14) + "".join(cell.ljust(16) for cell in cells))
    return "\n".join([*lines, "", *_curve(metrics), ""])


def _curve(metrics: Path, width: int = 50) -> list[str]:
    """Return the learning curve of the held-out reconstruction as at most 20 lines of text."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows = [row for row in rows if "held_out" in row]
    shown = rows[:: max(1, -(-len(rows) // 20))]
    return [
        f"step {row['step']:>8,}  loss {row['loss']:.3f}  {row['held_out']:.3f} {'#' * round(width * row['held_out'])}"
        for row in shown
    ]
