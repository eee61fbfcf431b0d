"""The automaton allows exactly the programs that fit; sequences and nodes are two texts of one thing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Growth

from jaxprl.dsl import ast, encode, text
from jaxprl.dsl.sample import random_programs
from jaxprl.latent import sequences
from jaxprl.latent.grammar import Grammar, masks
from jaxprl.worlds.karel.world import LANGUAGE as KAREL
from jaxprl.worlds.minigrid.world import LANGUAGE as MINIGRID

GRAMMARS = [Grammar.of(language, every_token=every) for language in (KAREL, MINIGRID) for every in (False, True)]
each_grammar = pytest.mark.parametrize(
    "grammar",
    [
        pytest.param(
            each,
            id=f"{each.language.name}-{each.every_token}",
            marks=[pytest.mark.full] * (each.every_token and each.language is MINIGRID),
        )
        for each in GRAMMARS
    ],
)


@functools.partial(jax.jit, static_argnums=0)
def _sampled(grammar: Grammar, keys: jax.Array) -> jax.Array:
    """Sequences drawn uniformly under the mask, int32 [B, T]."""

    def draw(key):
        def step(automaton, key):
            token = jax.random.categorical(key, jnp.where(grammar.mask(automaton), 0.0, -jnp.inf)).astype(jnp.int32)
            return grammar.advance(automaton, token), token

        return jax.lax.scan(step, grammar.start(), jax.random.split(key, grammar.steps))[1]

    return jax.vmap(draw)(keys)


def _tokens(grammar: Grammar, program: ast.Program) -> list[str]:
    """The sequence of a program, from its text."""
    words = str(program).split()[1:]
    return (
        words
        if grammar.every_token
        else [word for word in words if word not in grammar.id_of or not grammar.forced[grammar.id_of[word]]]
    )


to_nodes = jax.jit(jax.vmap(sequences.to_nodes, (None, 0)), static_argnums=0)
from_nodes = jax.jit(jax.vmap(sequences.from_nodes, (None, 0)), static_argnums=0)


@each_grammar
def test_what_is_drawn_under_the_mask_is_a_program_that_fits(grammar):
    drawn = np.asarray(_sampled(grammar, jax.random.split(jax.random.key(0), 300)))
    nodes, room = (np.asarray(part) for part in to_nodes(grammar, drawn))
    assert np.asarray(drawn == grammar.id_of["m)"]).any(axis=1).all()
    lengths = set()
    for row, program_nodes, fits in zip(drawn, nodes, room, strict=True):
        words = [grammar.words[token] for token in row if token != grammar.padding]
        if fits:
            program = encode.decode(program_nodes, grammar.language)
            assert _tokens(grammar, program) == words
            assert text.from_text(str(program), grammar.language) == program
            assert text.token_count(program) <= 45
            lengths.add(text.token_count(program))
        else:  # more nodes than there is room for: only long runs of actions
            assert len(words) > 30
    assert room.mean() > 0.9
    assert {5, 45} <= lengths


@each_grammar
@settings(max_examples=40)
@given(data=st.data())
def test_every_program_that_fits_is_allowed_token_by_token(grammar, data):
    growth = Growth(lambda n: data.draw(st.integers(0, n - 1)), grammar.language, counts=range(20), depth=3)
    program = growth.program()
    words = _tokens(grammar, program)
    known = all(word in grammar.id_of for word in str(program).split())
    automaton = _start(grammar)
    for word in words:
        if word not in grammar.id_of or not _mask(grammar, automaton)[grammar.id_of[word]]:
            break
        automaton = _advance(grammar, automaton, jnp.int32(grammar.id_of[word]))
    said = bool(automaton.ended)
    assert said == (known and text.token_count(program) <= 45)


_start = functools.cache(lambda grammar: grammar.start())
_mask = jax.jit(lambda grammar, automaton: grammar.mask(automaton), static_argnums=0)
_advance = jax.jit(lambda grammar, automaton, token: grammar.advance(automaton, token), static_argnums=0)


@each_grammar
def test_sequences_and_nodes_are_inverses_and_say_what_the_text_says(grammar):
    programs = random_programs(grammar.language, jax.random.split(jax.random.key(1), 300))
    drawn, length, fine = from_nodes(grammar, programs)
    assert fine.all()
    for row, nodes, count in zip(np.asarray(drawn), np.asarray(programs), np.asarray(length), strict=True):
        words = [grammar.words[token] for token in row[:count]]
        assert words == _tokens(grammar, encode.decode(nodes, grammar.language))
        assert (row[count:] == grammar.padding).all()
    back, room = to_nodes(grammar, drawn)
    assert room.all()
    np.testing.assert_array_equal(back, programs)
    chosen = np.take_along_axis(np.asarray(masks(grammar, drawn)), np.asarray(drawn).T[..., None], axis=2)
    assert chosen.all()


@pytest.mark.parametrize(
    "program",
    [
        "DEF run m( WHILE c( and c( frontIsClear c) c( leftIsClear c) c) w( move w) m)",
        "DEF run m( WHILE c( True c) w( move w) m)",
        "DEF run m( REPEAT R=20 r( move r) m)",
        "DEF run m( REPEAT R=-1 r( move r) m)",
        "DEF run m( " + "move " * 42 + "m)",
        "DEF run m( " + "move " * 60 + "m)",
    ],
)
def test_programs_that_have_no_sequence_are_told(program):
    nodes = encode.encode(text.from_text(program, KAREL), KAREL, 128)
    _, _, fine = from_nodes(GRAMMARS[0], nodes[None])
    assert not fine[0]


def test_long_programs_that_fit_have_a_sequence():
    nodes = encode.encode(text.from_text("DEF run m( " + "move " * 41 + "m)", KAREL), KAREL, 128)
    drawn, length, fine = from_nodes(GRAMMARS[0], nodes[None])
    assert fine[0]
    assert length[0] == 42
    assert not to_nodes(GRAMMARS[0], drawn)[1][0]  # 82 nodes
