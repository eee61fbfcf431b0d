"""Neighbours in which a node is exchanged for a part of other programs, in plain Python, one after the other.

Programs are nested tuples: ("WHILE", condition, body), ("CONCAT", first, rest), ("move",) and so on.
"""

import collections
import functools

import numpy as np

from jaxprl.dsl import ast
from jaxprl.dsl.text import from_text, token_count
from jaxprl.worlds.karel.world import LANGUAGE as KAREL


def tree_of(node):
    match node:
        case ast.Program(body):
            return "PROGRAM", tree_of(body)
        case (only,):
            return tree_of(only)
        case (first, *rest):
            return "CONCAT", tree_of(first), tree_of(tuple(rest))
        case ast.While(condition, body):
            return "WHILE", tree_of(condition), tree_of(body)
        case ast.If(condition, body):
            return "IF", tree_of(condition), tree_of(body)
        case ast.IfElse(condition, body, other):
            return "IFELSE", tree_of(condition), tree_of(body), tree_of(other)
        case ast.Repeat(count, body):
            return "REPEAT", (count,), tree_of(body)
        case ast.Not(condition):
            return "not", tree_of(condition)
        case ast.And(left, right):
            return "and", tree_of(left), tree_of(right)
        case ast.Or(left, right):
            return "or", tree_of(left), tree_of(right)
        case ast.Constant(value):
            return (str(value),)
    return (node.name,)


SPELLINGS = {
    "PROGRAM": "DEF run m( {} m)",
    "CONCAT": "{} {}",
    "WHILE": "WHILE c( {} c) w( {} w)",
    "IF": "IF c( {} c) i( {} i)",
    "IFELSE": "IFELSE c( {} c) i( {} i) ELSE e( {} e)",
    "REPEAT": "REPEAT R={} r( {} r)",
    "not": "not c( {} c)",
    "and": "and c( {} c) c( {} c)",
    "or": "or c( {} c) c( {} c)",
}


def spelled(tree):
    head, *children = tree
    return SPELLINGS.get(head, str(head)).format(*map(spelled, children))


STRUCTURES = "WHILE", "IF", "IFELSE", "REPEAT"


def kind_of(tree):
    head = tree[0]
    if isinstance(head, int):
        return "count"
    if head == "CONCAT":
        return "sequence"
    return "statement" if head in (*STRUCTURES, *KAREL.actions) else "condition"


def subtrees(tree, path=()):
    """Every node below a tree with its path, each with what is below it."""
    for place, child in enumerate(tree[1:], 1):
        yield (*path, place), child
        yield from subtrees(child, (*path, place))


def at(tree, path):
    return functools.reduce(lambda node, place: node[place], path, tree)


def put(tree, path, new):
    if not path:
        return new
    place = path[0]
    return *tree[:place], put(tree[place], path[1:], new), *tree[place + 1 :]


def pool_for(tree, path, given):
    """The parts that may come to a place."""
    kinds = {kind_of(at(tree, path))}
    if kinds & {"statement", "sequence"}:
        is_first = at(tree, path[:-1])[0] == "CONCAT" and path[-1] == 1
        kinds = {"statement"} if is_first else {"statement", "sequence"}
    return [part for part in given if kind_of(part) in kinds]


@functools.cache
def within_limits(text, language=KAREL):
    program = from_text(text, language)
    return (
        token_count(program) <= language.max_tokens
        and ast.height(program.body) <= language.max_height
        and ast.longest_sequence(program.body) <= language.max_sequence
    )


def pick(rng, weights):
    names = list(weights)
    chances = np.array([weights[name] for name in names])
    return names[rng.choice(len(names), p=chances / chances.sum())]


def grown_condition(rng, plain):
    perception = (pick(rng, KAREL.perceptions),)
    return perception if plain or rng.random() >= 0.1 else ("not", perception)


def grown_statement(rng, height, position, free=False):
    """A statement below nodes of a height; a Concat here would be number `position` of its chain."""
    weights = {"While": 0.15, "Repeat": 0.03, "Concat": 0.5, "If": 0.08, "IfElse": 0.04, "Action": 0.2}
    if height >= 4 and not free:
        weights |= dict.fromkeys(("While", "Repeat", "If", "IfElse"), 0)
    if position >= 6:
        weights["Concat"] = 0
    head = pick(rng, weights)
    if head == "Action":
        return (pick(rng, KAREL.actions),)
    if head == "Concat":
        return "CONCAT", grown_statement(rng, height, 6), grown_statement(rng, height, position + 1)
    operand = (int(rng.integers(20)),) if head == "Repeat" else grown_condition(rng, head == "IfElse")
    bodies = [grown_statement(rng, height + 1, 1) for _ in range(1 + (head == "IfElse"))]
    return head.upper(), operand, *bodies


def regrown(rng, tree, path):
    above = at(tree, path[:-1])[0]
    kind = kind_of(at(tree, path))
    if kind == "count":
        return (int(rng.integers(20)),)
    if kind == "condition":
        return grown_condition(rng, above in ("not", "IFELSE"))
    height = 1 + sum(at(tree, path[:n])[0] in STRUCTURES for n in range(1, len(path) + 1))
    return grown_statement(rng, height, 6 if above == "CONCAT" and path[-1] == 1 else 1, free=True)


def neighbour(rng, tree, given, share):
    paths = [path for path, _ in subtrees(tree)]
    while True:
        path = paths[rng.integers(len(paths))]
        pool = pool_for(tree, path, given)
        exchanges = rng.random() < share and pool
        new = pool[rng.integers(len(pool))] if exchanges else regrown(rng, tree, path)
        found = spelled(put(tree, path, new))
        if within_limits(found):
            return found


def chances_of_parts(tree, given):
    """The exact distribution of neighbours with a share of 1, where every kind has a part."""
    chances = collections.Counter()
    places = list(subtrees(tree))
    for path, _ in places:
        pool = pool_for(tree, path, given)
        assert pool
        for part in pool:
            found = spelled(put(tree, path, part))
            if within_limits(found):
                chances[found] += 1 / len(places) / len(pool)
    total = sum(chances.values())
    return {text: chance / total for text, chance in chances.items()}
