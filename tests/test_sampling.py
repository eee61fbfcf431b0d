"""Random programs and neighbours: their distributions, their limits, and that a key decides alone."""

import collections
import functools

import golden
import jax
import numpy as np
import pytest
import scipy.stats

from jaxprl.dsl import ast, encode
from jaxprl.dsl.language import COUNTS
from jaxprl.dsl.sample import neighbours, random_programs
from jaxprl.dsl.text import condition_text, parse, to_text, token_count
from jaxprl.worlds.karel.world import LANGUAGE

SAMPLES = 20_000
SIGNIFICANCE = 1e-3
GOLDEN = golden.load("grammar")["karel"]
PARENTS = {parent["name"]: parent for parent in GOLDEN["neighbours"]}
KINDS = {
    "Action": encode.ACTION, "BoolFeature": encode.PERCEPTION, "Concatenate": encode.CONCAT,
    "ConstInt": encode.COUNT, "ITE": encode.IFELSE, "If": encode.IF, "Not": encode.NOT, "Program": encode.PROGRAM,
    "Repeat": encode.REPEAT, "While": encode.WHILE,
}  # fmt: skip


def keys(seed, count=SAMPLES):
    return jax.random.split(jax.random.key(seed), count)


@functools.cache
def sampled():
    """Return random programs as nodes int32 [SAMPLES, N]."""
    return np.asarray(random_programs(LANGUAGE, keys(1)))


@functools.cache
def neighbours_of(text, count=SAMPLES):
    """Return neighbours of a program, as nodes int32 [count, N]."""
    nodes = encode.encode(parse(text, LANGUAGE), LANGUAGE)
    return np.asarray(neighbours(LANGUAGE, nodes[None], keys(2, count)[None]))[0]


@functools.cache
def decoded(nodes):
    return encode.decode(np.frombuffer(nodes, np.int32), LANGUAGE)


def programs_of(nodes):
    return [decoded(row.tobytes()) for row in nodes]


def p_value(expected, found):
    """Return the chance of two histograms as different as these from one distribution; rare cells are pooled."""
    cells = sorted({*expected, *found})
    table = np.array([[histogram.get(cell, 0) for cell in cells] for histogram in (expected, found)])
    rare = table.sum(axis=0) < 20
    pooled = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    return scipy.stats.chi2_contingency(pooled).pvalue


def histogram(values):
    return {str(value): count for value, count in collections.Counter(values).items()}


def values_of(nodes, kind, names):
    return histogram(names[value] for value in (nodes >> encode.KIND_BITS)[nodes & 15 == kind])


def root_child(nodes):
    names = {kind: name for name, kind in KINDS.items()}
    return histogram(names[kind] for kind in (nodes[:, 1] & 15).tolist())


STATISTICS = {
    "token_length": lambda nodes: histogram(map(token_count, programs_of(nodes))),
    "max_height": lambda nodes: histogram(ast.height(program.body) for program in programs_of(nodes)),
    "max_sequence": lambda nodes: histogram(ast.longest_sequence(program.body) for program in programs_of(nodes)),
    "n_nodes": lambda nodes: histogram(np.count_nonzero(nodes, axis=1).tolist()),
    "root_child_type": root_child,
    "action_counts": lambda nodes: values_of(nodes, encode.ACTION, LANGUAGE.action_names),
    "bool_feature_counts": lambda nodes: values_of(nodes, encode.PERCEPTION, LANGUAGE.perception_names),
    "const_int_counts": lambda nodes: values_of(nodes, encode.COUNT, COUNTS),
}


@pytest.mark.parametrize("statistic", STATISTICS)
def test_random_programs_are_distributed_as_published(statistic):
    found = STATISTICS[statistic](sampled())
    assert sum(found.values()) >= (SAMPLES if len(found) < 20 else 1_000)
    assert p_value(GOLDEN[statistic], found) > SIGNIFICANCE


def test_node_types_are_distributed_as_published():
    # The nodes of one program depend on each other, so it is the means per program that are compared.
    names = sorted(KINDS.keys() - {"Program", "ConstInt"})
    kinds = sampled() & 15
    found = np.stack([(kinds == KINDS[name]).sum(axis=1) for name in names], axis=1)
    expected = np.array([GOLDEN["node_type_counts"][name] for name in names]) / GOLDEN["n"]
    difference = found.mean(axis=0) - expected
    covariance = np.cov(found.T) * (1 / len(found) + 1 / GOLDEN["n"])
    statistic = difference @ np.linalg.solve(covariance, difference)
    assert scipy.stats.chi2.sf(statistic, len(names)) > SIGNIFICANCE
    assert ((kinds == encode.COUNT).sum(axis=1) == (kinds == encode.REPEAT).sum(axis=1)).all()
    assert ((kinds == encode.PROGRAM).sum(axis=1) == 1).all()


def test_distinct_random_programs_are_as_many_as_published():
    assert len(set(programs_of(sampled()))) == pytest.approx(GOLDEN["distinct_programs"], rel=0.04)


@pytest.mark.parametrize("name", PARENTS)
def test_neighbours_are_distributed_as_published(name):
    parent = PARENTS[name]
    assert parent["n"] == SAMPLES
    found = collections.Counter(map(to_text, programs_of(neighbours_of(parent["program"]))))

    lengths = collections.Counter()
    for text, count in found.items():
        lengths[str(len(text.split()))] += count
    assert p_value(parent["token_length"], lengths) > SIGNIFICANCE

    same = {"same": found[parent["program"]], "other": SAMPLES - found[parent["program"]]}
    identical = parent["identical_to_parent"]
    assert p_value({"same": identical, "other": SAMPLES - identical}, same) > SIGNIFICANCE

    frequent = dict(parent["top20"])
    ours = {text: found[text] for text in frequent}
    rest = [SAMPLES - sum(histogram.values()) for histogram in (frequent, ours)]
    assert p_value({**frequent, "": rest[0]}, {**ours, "": rest[1]}) > SIGNIFICANCE
    assert len(found) == pytest.approx(parent["distinct"], rel=0.04)


def allowed(program):
    """Return whether a program is one that sampling may make: in its size and in its words."""
    texts = set(LANGUAGE.perception_names)

    def plain(condition):
        return isinstance(condition, ast.Perception) and condition_text(condition) in texts

    for statement in ast.statements(program.body):
        match statement:
            case ast.IfElse(condition=condition) if not plain(condition):
                return False
            case ast.While(condition=condition) | ast.If(condition=condition):
                if not plain(condition.condition if isinstance(condition, ast.Not) else condition):
                    return False
            case ast.Repeat(count=count) if count not in COUNTS:
                return False
    return within_limits(program)


def within_limits(program):
    return (
        token_count(program) <= LANGUAGE.max_tokens
        and ast.height(program.body) <= LANGUAGE.max_height
        and ast.longest_sequence(program.body) <= LANGUAGE.max_sequence
    )


def test_random_programs_are_within_the_limits():
    assert all(map(allowed, set(programs_of(sampled()))))


@pytest.mark.parametrize("name", PARENTS)
def test_neighbours_are_within_the_limits(name):
    assert all(map(allowed, set(programs_of(neighbours_of(PARENTS[name]["program"])))))


def nodes_are_well_formed(nodes):
    """Return whether the nodes are those of the program they decode to: nothing behind it, nothing missing."""
    return all((encode.encode(decoded(row.tobytes()), LANGUAGE, len(row)) == row).all() for row in nodes)


LARGE = {
    "57 tokens": next(row.program for row in golden.returns("DoorKey") if len(row.program.split()) == 57),
    "a sequence of 116": " ".join(["DEF run m(", *["move"] * 116, "m)"]),
    "120 tokens in a nest of 28": "DEF run m( "
    + "REPEAT R=2 r( " * 28
    + "move turnLeft move turnLeft"
    + " r)" * 28
    + " m)",
    "256 tokens": " ".join(["DEF run m(", *["IF c( frontIsClear c) i( move i)"] * 36, "m)"]),
    "a long condition": "DEF run m( IF c( " + "not c( " * 40 + "frontIsClear" + " c)" * 40 + " c) i( move i) m)",
    "words that are not sampled": "DEF run m( WHILE c( and c( frontIsClear c) c( or c( True c) c( leftIsClear c) c) c) "
    "w( REPEAT R=-7 r( move r) REPEAT R=99999999 r( turnLeft r) w) m)",
}


@pytest.mark.parametrize("name", LARGE)
def test_neighbours_of_programs_that_are_not_sampled(name):
    found = neighbours_of(LARGE[name], 500)
    assert nodes_are_well_formed(found)
    programs = programs_of(found)
    assert all(map(within_limits, programs))
    assert len(set(programs)) > 20


def test_nodes_are_well_formed():
    assert nodes_are_well_formed(sampled()[:2_000])
    assert nodes_are_well_formed(neighbours_of(PARENTS["seeder"]["program"])[:2_000])


def test_a_random_program_depends_on_its_key_alone():
    some = keys(1)[np.array([17, 3, 40])]
    assert np.asarray(random_programs(LANGUAGE, some)).tolist() == sampled()[[17, 3, 40]].tolist()


def test_a_neighbour_depends_on_its_parent_and_key_alone():
    texts = [PARENTS[name]["program"] for name in ("seeder", "single_move")]
    parents = encode.encode_all([parse(text, LANGUAGE) for text in texts], LANGUAGE)
    some = keys(2)[np.array([[9, 100, 7], [7, 8, 9]])]
    found = np.asarray(neighbours(LANGUAGE, parents, some))
    assert found[0].tolist() == neighbours_of(texts[0])[[9, 100, 7]].tolist()
    assert found[1].tolist() == neighbours_of(texts[1])[[7, 8, 9]].tolist()


@functools.cache
def most_nodes(tokens, height, length):
    """Return the most nodes that a body of at most `length` statements has, `height` structures above it being
    allowed below, in at most `tokens` tokens."""
    if tokens < 1 or length < 1:
        return float("-inf")
    single = [1]
    if height > 0:
        # Nodes and tokens of a structure without its bodies, with the longest condition it may have.
        for nodes, own in [(2, 6), (3, 9), (2, 4)]:
            single.append(nodes + most_nodes(tokens - own, height - 1, LANGUAGE.max_sequence))
        for first in range(1, tokens - 9):
            bodies = [most_nodes(part, height - 1, LANGUAGE.max_sequence) for part in (first, tokens - 9 - first)]
            single.append(2 + sum(bodies))
    most = max(single)
    if length > 1:
        for first in range(1, tokens):
            most = max(most, 1 + most_nodes(first, height, 1) + most_nodes(tokens - first, height, length - 1))
    return most


def test_every_program_within_the_limits_fits_an_array():
    frame = len(["DEF", "run", "m(", "m)"])
    most = 1 + most_nodes(LANGUAGE.max_tokens - frame, LANGUAGE.max_height - 1, LANGUAGE.max_sequence)
    assert max(np.count_nonzero(sampled(), axis=1)) <= most <= encode.WIDTH
