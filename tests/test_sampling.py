"""Random programs and neighbours: their distributions, their limits, and that a key decides alone."""

import collections
import dataclasses
import functools

import golden
import jax
import numpy as np
import pytest
import questions
import scipy.stats
from compiled import HAS_CPP_COMPILER
from distributions import SIGNIFICANCE, p_value

from jaxprl.codegen.launch import Emulated
from jaxprl.dsl import ast, encode
from jaxprl.dsl.grow import Growth
from jaxprl.dsl.language import COUNTS, Language
from jaxprl.dsl.sample import _neighbours, _random_programs, neighbours, random_programs
from jaxprl.dsl.text import from_text, token_count
from jaxprl.worlds.karel.world import LANGUAGE as KAREL
from jaxprl.worlds.minigrid.world import LANGUAGE as MINIGRID

NEIGHBOURS = 20_000
KINDS = {
    "Action": encode.ACTION, "BoolFeature": encode.PERCEPTION, "Concatenate": encode.CONCAT,
    "ConstInt": encode.COUNT, "ITE": encode.IFELSE, "If": encode.IF, "Not": encode.NOT, "Program": encode.PROGRAM,
    "Repeat": encode.REPEAT, "While": encode.WHILE,
}  # fmt: skip


PERCEPTIONS = "BoolFeature", "MinigridObjectFeatureNode", "MinigridColorFeatureNode"
"""Published names of what is one kind of node here."""


def keys(seed, count):
    return jax.random.split(jax.random.key(seed), count)


@dataclasses.dataclass(frozen=True, eq=False)
class Domain:
    language: Language
    golden: dict
    """What the published implementation sampled."""

    @functools.cached_property
    def parents(self):
        """Texts of the programs with published neighbours, the shortest first."""
        return sorted((parent["program"] for parent in self.golden["neighbours"]), key=len)

    @functools.cached_property
    def sampled(self):
        """Random programs as nodes int32 [n, N], as many as published."""
        return np.asarray(random_programs(self.language, keys(1, self.golden["n"])))

    @functools.cache  # noqa: B019  (a domain lives as long as the tests)
    def changes_of(self, text, count=NEIGHBOURS):
        """Return a program as nodes int32 [N], neighbours of it int32 [count, N], and what was changed [count, 2]."""
        nodes = encode.encode(from_text(text, self.language), self.language)
        found, changed = neighbours(self.language, nodes[None], keys(2, count)[None])
        return nodes, np.asarray(found)[0], np.asarray(changed)[0]

    def neighbours_of(self, text, count=NEIGHBOURS):
        """Return neighbours of a program, as nodes int32 [count, N]."""
        return self.changes_of(text, count)[1]

    def programs(self, nodes):
        return [decoded(self.language, row.tobytes()) for row in nodes]


@functools.cache
def decoded(language, nodes):
    return encode.decode(np.frombuffer(nodes, np.int32), language)


DOMAINS = [Domain(language, golden.load("grammar")[language.name]) for language in (KAREL, MINIGRID)]
in_both_domains = pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.language.name)
for_all_parents = pytest.mark.parametrize(
    ("domain", "parent"),
    [
        pytest.param(
            domain, parent, id=f"{domain.language.name}-{parent['name']}",
            marks=[] if parent["program"] in (domain.parents[0], domain.parents[-1]) else [pytest.mark.full],
        )
        for domain in DOMAINS
        for parent in domain.golden["neighbours"]
    ],
)  # fmt: skip
"""The shortest and the longest of each domain; the others where everything is tested."""


def histogram(values):
    return {str(value): count for value, count in collections.Counter(values).items()}


def values_of(nodes, kind, names):
    return histogram(names[value] for value in (nodes >> encode.KIND_BITS)[nodes & 15 == kind])


def root_child(nodes):
    names = {kind: name for name, kind in KINDS.items()}
    return histogram(names[kind] for kind in (nodes[:, 1] & 15).tolist())


STATISTICS = {
    "token_length": lambda language, nodes, programs: histogram(map(token_count, programs)),
    "max_height": lambda language, nodes, programs: histogram(ast.height(program.body) for program in programs),
    "max_sequence": lambda language, nodes, programs: histogram(
        ast.longest_sequence(program.body) for program in programs
    ),
    "n_nodes": lambda language, nodes, programs: histogram(np.count_nonzero(nodes, axis=1).tolist()),
    "root_child_type": lambda language, nodes, programs: root_child(nodes),
    "action_counts": lambda language, nodes, programs: values_of(nodes, encode.ACTION, language.action_names),
    "bool_feature_counts": lambda language, nodes, programs: values_of(
        nodes, encode.PERCEPTION, language.perception_names
    ),
    "const_int_counts": lambda language, nodes, programs: values_of(nodes, encode.COUNT, COUNTS),
}


@in_both_domains
@pytest.mark.parametrize("statistic", STATISTICS)
def test_random_programs_are_distributed_as_published(domain, statistic):
    found = STATISTICS[statistic](domain.language, domain.sampled, domain.programs(domain.sampled))
    assert sum(found.values()) >= 1_000
    assert p_value(domain.golden[statistic], found) > SIGNIFICANCE


def published_node_types(domain):
    """Return how often each kind of node was sampled, all perceptions taken together."""
    counts = dict(domain.golden["node_type_counts"])
    counts["BoolFeature"] = sum(counts.pop(name, 0) for name in PERCEPTIONS)
    assert counts.keys() == KINDS.keys()
    return counts


@in_both_domains
def test_node_types_are_distributed_as_published(domain):
    # The nodes of one program depend on each other, so it is the means per program that are compared.
    names = sorted(KINDS.keys() - {"Program", "ConstInt"})
    kinds = domain.sampled & 15
    published = published_node_types(domain)
    found = np.stack([(kinds == KINDS[name]).sum(axis=1) for name in names], axis=1)
    expected = np.array([published[name] for name in names]) / domain.golden["n"]
    difference = found.mean(axis=0) - expected
    covariance = np.cov(found.T) * (1 / len(found) + 1 / domain.golden["n"])
    statistic = difference @ np.linalg.solve(covariance, difference)
    assert scipy.stats.chi2.sf(statistic, len(names)) > SIGNIFICANCE
    assert ((kinds == encode.COUNT).sum(axis=1) == (kinds == encode.REPEAT).sum(axis=1)).all()
    assert ((kinds == encode.PROGRAM).sum(axis=1) == 1).all()


@in_both_domains
def test_distinct_random_programs_are_as_many_as_published(domain):
    found = set(domain.programs(domain.sampled))
    assert len(found) == pytest.approx(domain.golden["distinct_programs"], rel=0.04)


@for_all_parents
def test_neighbours_are_distributed_as_published(domain, parent):
    assert parent["n"] == NEIGHBOURS
    found = collections.Counter(map(str, domain.programs(domain.neighbours_of(parent["program"]))))

    lengths = collections.Counter()
    for text, count in found.items():
        lengths[str(len(text.split()))] += count
    assert p_value(parent["token_length"], lengths) > SIGNIFICANCE

    same = {"same": found[parent["program"]], "other": NEIGHBOURS - found[parent["program"]]}
    identical = parent["identical_to_parent"]
    assert p_value({"same": identical, "other": NEIGHBOURS - identical}, same) > SIGNIFICANCE

    frequent = dict(parent["top20"])
    ours = {text: found[text] for text in frequent}
    rest = [NEIGHBOURS - sum(histogram.values()) for histogram in (frequent, ours)]
    assert p_value({**frequent, "": rest[0]}, {**ours, "": rest[1]}) > SIGNIFICANCE
    assert len(found) == pytest.approx(parent["distinct"], rel=0.04)


def allowed(program, language):
    """Return whether a program is one that sampling may make: in its size and in its words."""

    def plain(condition):
        return isinstance(condition, ast.Perception) and language.perceptions[condition.name] > 0

    for statement in ast.statements(program.body):
        match statement:
            case ast.Action(name=name) if not language.actions[name] > 0:
                return False
            case ast.IfElse(condition=condition) if not plain(condition):
                return False
            case ast.While(condition=condition) | ast.If(condition=condition):
                if not plain(condition.condition if isinstance(condition, ast.Not) else condition):
                    return False
            case ast.Repeat(count=count) if count not in COUNTS:
                return False
    return within_limits(program, language)


def within_limits(program, language):
    return (
        token_count(program) <= language.max_tokens
        and ast.height(program.body) <= language.max_height
        and ast.longest_sequence(program.body) <= language.max_sequence
    )


@in_both_domains
def test_random_programs_are_within_the_limits(domain):
    assert all(allowed(program, domain.language) for program in set(domain.programs(domain.sampled)))


@for_all_parents
def test_neighbours_are_within_the_limits(domain, parent):
    found = domain.neighbours_of(parent["program"])
    assert all(allowed(program, domain.language) for program in set(domain.programs(found)))


def nodes_are_well_formed(nodes, language):
    """Return whether the nodes are those of the program they decode to: nothing behind it, nothing missing."""
    return all((encode.encode(decoded(language, row.tobytes()), language, len(row)) == row).all() for row in nodes)


KAREL_LARGE = {
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
MINIGRID_LARGE = {
    "254 tokens": " ".join(["DEF run m(", *["WHILE c( front_object_color h( red h) c) w( left w)"] * 25, "m)"]),
    "46 tokens": " ".join(
        ["DEF run m(", *["IF c( not c( front_object_type h( box h) c) c) i( drop forward i)"] * 3, "m)"]
    ),
    "a long condition": "DEF run m( IF c( "
    + "and c( front_object_type h( door h) c) c( " * 20
    + "is_carrying_object"
    + " c)" * 20
    + " c) i( toggle i) m)",
    "words that are not sampled": "DEF run m( WHILE c( or c( front_object_type h( key h) c) "
    "c( front_object_color h( grey h) c) c) w( IFELSE c( not c( front_object_type h( wall h) c) c) i( forward i) "
    "ELSE e( left e) w) m)",
}
LARGE = [
    pytest.param(domain, text, id=f"{domain.language.name}-{name}")
    for domain, texts in zip(DOMAINS, [KAREL_LARGE, MINIGRID_LARGE], strict=True)
    for name, text in texts.items()
]


@pytest.mark.parametrize(("domain", "text"), LARGE)
def test_neighbours_of_programs_that_are_not_sampled(domain, text):
    found = domain.neighbours_of(text, 500)
    assert nodes_are_well_formed(found, domain.language)
    programs = domain.programs(found)
    assert all(within_limits(program, domain.language) for program in programs)
    assert len(set(programs)) > 20


@in_both_domains
def test_nodes_are_well_formed(domain):
    assert nodes_are_well_formed(domain.sampled[:2_000], domain.language)
    assert nodes_are_well_formed(domain.neighbours_of(domain.parents[-1])[:2_000], domain.language)


@in_both_domains
def test_a_random_program_depends_on_its_key_alone(domain):
    some = keys(1, domain.golden["n"])[np.array([17, 3, 40])]
    assert np.asarray(random_programs(domain.language, some)).tolist() == domain.sampled[[17, 3, 40]].tolist()


@in_both_domains
def test_a_neighbour_depends_on_its_parent_and_key_alone(domain):
    texts = [domain.parents[-1], domain.parents[0]]
    parents = encode.encode_all([from_text(text, domain.language) for text in texts], domain.language)
    some = keys(2, NEIGHBOURS)[np.array([[9, 100, 7], [7, 8, 9]])]
    found, changed = map(np.asarray, neighbours(domain.language, parents, some))
    assert found[0].tolist() == domain.neighbours_of(texts[0])[[9, 100, 7]].tolist()
    assert found[1].tolist() == domain.neighbours_of(texts[1])[[7, 8, 9]].tolist()
    assert changed[0].tolist() == domain.changes_of(texts[0])[2][[9, 100, 7]].tolist()
    assert changed[1].tolist() == domain.changes_of(texts[1])[2][[7, 8, 9]].tolist()


def check_changes(nodes, found, changed):
    """Check that parent and neighbours are the same outside the subtree that is said to have been replaced."""
    (ends, _), used = questions.tree(nodes), np.count_nonzero(nodes)
    for row, (first, size) in zip(found, changed.tolist(), strict=True):
        count = first + 2 if nodes[first] & 15 == encode.REPEAT and size == 2 else None
        assert 1 <= first < used
        assert count or ends[first] == first + size
        new_end = count or questions.tree(row)[0][first]
        assert (row[:first] == nodes[:first]).all()
        assert row[np.arange(new_end, np.count_nonzero(row))].tolist() == nodes[first + size : used].tolist()
        assert not count or row[first] == nodes[first]


@for_all_parents
def test_what_was_changed(domain, parent):
    nodes, found, changed = domain.changes_of(parent["program"])
    check_changes(nodes, found[:2_000], changed[:2_000])
    spots = {first + size - 1 if nodes[first] & 15 == encode.REPEAT and size == 2 else first for first, size in changed}
    assert spots == set(range(1, np.count_nonzero(nodes)))
    kept = (found == nodes).all(axis=1)
    assert kept.any()
    assert not kept.all()


@pytest.mark.parametrize(("domain", "text"), LARGE)
def test_what_was_changed_in_programs_that_are_not_sampled(domain, text):
    check_changes(*domain.changes_of(text, 500))


def in_both_domains_but(spared):
    """As `in_both_domains`; one of them, which another test has, only where everything is tested."""
    marks = [[pytest.mark.full] * (domain.language is spared) for domain in DOMAINS]
    cases = [
        pytest.param(domain, marks=mark, id=domain.language.name) for domain, mark in zip(DOMAINS, marks, strict=True)
    ]
    return pytest.mark.parametrize("domain", cases)


WAYS = "one by one", "in lockstep", *([Emulated()] if HAS_CPP_COMPILER else [])


@in_both_domains_but(KAREL)
@pytest.mark.parametrize(("limited", "width"), [(True, encode.WIDTH), (False, 2 * encode.WIDTH)])
def test_the_same_programs_are_drawn_in_every_way(domain, limited, width):
    growth = Growth(limited=limited)
    expected = np.asarray(random_programs(domain.language, keys(3, 400), width, limited=limited))
    for way in WAYS:
        found = np.asarray(_random_programs(domain.language, growth, keys(3, 400), width, way))
        assert found.tolist() == expected.tolist()
    assert len(np.unique(expected, axis=0)) > 100


@in_both_domains_but(MINIGRID)
@pytest.mark.parametrize("small", [False, True])
def test_the_same_neighbours_are_drawn_in_every_way(domain, small):
    large = next(text for each, text in (param.values for param in LARGE) if each is domain)
    texts = [domain.parents[0], domain.parents[-1], large]
    parents = encode.encode_all([from_text(text, domain.language) for text in texts], domain.language)
    some = jax.random.split(jax.random.key(4), (len(texts), 200))
    expected = [np.asarray(part) for part in neighbours(domain.language, parents, some, small=small)]
    for way in WAYS:
        found = _neighbours(domain.language, Growth(small=small), parents, some, way)
        for part, column in zip(expected, found, strict=True):
            assert np.asarray(column).tolist() == part.tolist()
    assert len(np.unique(expected[0].reshape(-1, parents.shape[1]), axis=0)) > 100


@functools.cache
def most_nodes(language, tokens, height, length):
    """Return the most nodes that a body of at most `length` statements has, `height` structures above it being
    allowed below, in at most `tokens` tokens."""
    if tokens < 1 or length < 1:
        return float("-inf")
    single = [1]
    if height > 0:
        # Nodes and tokens of a structure without its bodies; the shortest perception leaves most room for others.
        shortest = min(len(name.split()) for name in language.perception_names)
        for nodes, own in [(2, 5 + shortest), (3, 8 + shortest), (2, 4)]:
            single.append(nodes + most_nodes(language, tokens - own, height - 1, language.max_sequence))
        rest = tokens - 8 - shortest
        for first in range(1, rest):
            parts = first, rest - first
            single.append(2 + sum(most_nodes(language, part, height - 1, language.max_sequence) for part in parts))
    most = max(single)
    if length > 1:
        for first in range(1, tokens):
            pair = most_nodes(language, first, height, 1), most_nodes(language, tokens - first, height, length - 1)
            most = max(most, 1 + sum(pair))
    return most


@in_both_domains
def test_every_program_within_the_limits_fits_an_array(domain):
    language = domain.language
    frame = len(["DEF", "run", "m(", "m)"])
    most = 1 + most_nodes(language, language.max_tokens - frame, language.max_height - 1, language.max_sequence)
    assert max(np.count_nonzero(domain.sampled, axis=1)) <= most <= encode.WIDTH
