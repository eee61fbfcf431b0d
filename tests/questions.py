"""Questions about neighbourhoods, and their answers by evaluating everything."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import strategies

from jaxprl.dsl import ast, encode, sample
from jaxprl.dsl.language import Language
from jaxprl.search.protocol import Improvements, Neighbourhoods
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.outcomes import Scale

BLOCK = 32
"""Programs that are evaluated together: so many whatever the question, so that one size is compiled."""


def answered(task: Any, layouts: Any, question: Any) -> Improvements:
    """Return the answer to a question from the complete returns of all its programs."""
    scale = Scale.of(layouts)
    searches, many, width = question.programs.shape
    programs = np.concatenate([question.parents, np.asarray(question.programs).reshape(-1, width)])
    scores = scale.scores(evaluate(task, programs, layouts, block=BLOCK).units)
    parents, near = scores[:searches], scores[searches:].reshape(searches, many)
    wanted = np.arange(many) < question.counts[:, None]
    if question.margins is None:
        beats = wanted & (near > parents[:, None])
    else:
        differs = (np.asarray(question.programs) != np.asarray(question.parents)[:, None]).any(axis=-1)
        beats = wanted & differs & (near > parents[:, None] - np.asarray(question.margins, np.int64))
    first = np.where(beats.any(axis=1), beats.argmax(axis=1), -1)
    better = np.where(first >= 0, near[np.arange(searches), first], 0)
    return Improvements(*(column.astype(np.int32) for column in (parents, first, better)))


def check(found: Improvements, truth: Improvements, question: Neighbourhoods) -> None:
    """Check what an answer says of the searches of which something is wanted."""
    asked = question.counts >= 0
    assert found.score[asked].tolist() == truth.score[asked].tolist()
    assert found.first[asked].tolist() == truth.first[asked].tolist()
    improves = asked & (truth.first >= 0)
    assert found.better[improves].tolist() == truth.better[improves].tolist()


def whole(parents: np.ndarray, programs: np.ndarray, changed: np.ndarray) -> Neighbourhoods:
    """Return the question which neighbour is the first better one, for every search."""
    counts = np.full(len(parents), programs.shape[1], np.int32)
    return Neighbourhoods(parents, programs, changed, counts)


def widened(question: Neighbourhoods, many: int) -> Neighbourhoods:
    """Return the question with room for more neighbours, none of which is wanted."""
    extra = (0, 0), (0, many - question.programs.shape[1]), (0, 0)
    return question._replace(programs=np.pad(question.programs, extra), changed=np.pad(question.changed, extra))


def single(question: Neighbourhoods) -> Neighbourhoods:
    """Return the question whether a neighbour is better, for every neighbour by itself."""
    many = question.programs.shape[1]
    found = whole(
        question.parents.repeat(many, axis=0),
        question.programs.reshape(-1, 1, question.programs.shape[2]),
        question.changed.reshape(-1, 1, 2),
    )
    return found if question.margins is None else found._replace(margins=question.margins.reshape(-1, 1))


def sampled(language: Language, parents: np.ndarray, many: int, seed: int = 0) -> Neighbourhoods:
    """Return the question about neighbours that a search would draw."""
    keys = jax.random.split(jax.random.key(seed), (len(parents), many))
    return whole(parents, *map(np.asarray, sample.neighbours(language, parents, keys)))


def tree(nodes: np.ndarray) -> tuple[list[int], list[int]]:
    """Return for every node where its subtree ends and its parent, worked out one node after the other."""
    used = np.count_nonzero(nodes)
    end, parent = [0] * used, [0] * used

    def walk(place: int) -> int:
        following = place + 1
        for _ in range(encode.ARITY[nodes[place] & 15]):
            parent[following] = place
            following = walk(following)
        end[place] = following
        return following

    walk(0)
    return end, parent


CONDITIONS = (encode.PERCEPTION, encode.CONSTANT, encode.NOT, encode.AND, encode.OR)


def mutated(rng: np.random.Generator, language: Language, parents: np.ndarray, many: int, **limits) -> Neighbourhoods:
    """Return the question about neighbours with anything that text can spell in the place of one node."""
    found = [[_mutant(rng, language, parent, **limits) for _ in range(many)] for parent in parents]
    programs, changed = (np.array([[pair[i] for pair in row] for row in found], np.int32) for i in range(2))
    return whole(parents, programs, changed)


def _mutant(rng: np.random.Generator, language: Language, nodes: np.ndarray, **limits) -> tuple[np.ndarray, list[int]]:
    end, parent = tree(nodes)
    growth = strategies.Growth(lambda n: int(rng.integers(n)), language, **limits)
    spot = int(rng.integers(1, np.count_nonzero(nodes)))
    kind, above = nodes[spot] & 15, nodes[parent[spot]] & 15
    action = ast.Action(language.action_names[0])
    while True:
        if kind == encode.COUNT:
            new = [encode.COUNT | growth.pick(growth.counts) << encode.KIND_BITS]
        elif kind in CONDITIONS:
            branch = ast.Program((ast.If(growth.condition(2), (action,)),))
            new = [node for node in encode.encode(branch, language).tolist() if node][2:-1]
        else:
            body = growth.body(2)
            if above == encode.CONCAT and spot == parent[spot] + 1:
                body = body[:1]
            new = [node for node in encode.encode(ast.Program(body), language).tolist() if node][1:]
        row = [*nodes[:spot], *new, *nodes[end[spot] :]]
        if np.count_nonzero(row) <= len(nodes):
            break
    of_repeat = int(kind == encode.COUNT)
    row = np.pad(np.array(row, np.int32), (0, len(nodes)))[: len(nodes)]
    return row, [spot - of_repeat, int(end[spot]) - spot + of_repeat]
