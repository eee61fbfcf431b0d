"""The grammar of token text as array code: a pushdown automaton that says which token can come next.

The grammar is LL(1): what may come next follows from the symbol on top of a stack, and a token replaces that symbol by
what it leaves to be said. A *choice* is a token where the grammar leaves a choice; the others (`DEF run m( c( c) w(`
and the like) follow by themselves. The network of this package sees choices only, which halves its sequences; the
published one sees every token (`every_token`). The automaton is the same, with other tables.

A token is allowed only if the program can still be ended within the language's `max_tokens`. So whatever is drawn
under the mask ends in time and is a valid program.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl.language import COUNTS, Language

STATEMENT, CONDITION, COUNT = "<statement>", "<condition>", "<count>"
PADDING = "<pad>"
"""The token behind the end."""
_BOTTOM = 0
_BLOCKS = "mwire"


class Automaton(NamedTuple):
    """Where a program is, one per lane."""

    stack: jax.Array  # int32 [depth]: symbols to come, the next one on top; the bottom is never taken
    size: jax.Array  # int32: symbols on the stack
    least: jax.Array  # int32: tokens of the shortest program that it can become

    @property
    def ended(self) -> jax.Array:
        return self.size == 1


class Grammar:
    """Tables of the automaton of one language; equal arguments give the same object, so it can be a static argument."""

    @staticmethod
    @functools.cache
    def of(language: Language, *, every_token: bool = False) -> Grammar:
        """Return the grammar of a language; `every_token`: also tokens that follow by themselves are steps."""
        return Grammar(language, every_token)

    def __init__(self, language: Language, every_token: bool):
        self.language, self.every_token = language, every_token
        self.words = _words(language)
        self.id_of = {word: index for index, word in enumerate(self.words)}
        self.padding = self.id_of[PADDING]
        self.first = self.id_of["DEF"]
        self.steps = language.max_tokens - (0 if every_token else 3)
        """Steps of the longest sequence: tokens behind `DEF` and the padding that follows, or behind `DEF run m(`."""
        self.depth = language.max_tokens + 2
        rules = _rules(language)
        least = _least(rules)
        self.forced = np.array([word not in {w for rule in rules.values() for w in rule} for word in self.words])
        """Tokens that follow by themselves wherever they come, bool [V]."""
        symbols = ["<bottom>", *rules, *(w for w, forced in zip(self.words, self.forced, strict=True) if forced)]
        number = {symbol: index for index, symbol in enumerate(symbols)}
        longest = max(len(rest) for rule in rules.values() for rest in rule.values())
        shape = len(symbols), len(self.words)
        self.allowed = np.zeros(shape, bool)
        self.pushed = np.zeros((*shape, longest), np.int32)
        self.count = np.zeros(shape, np.int32)
        self.longer = np.zeros(shape, np.int32)

        def enter(symbol: str, word: str, rest: tuple[str, ...], longer: int) -> None:
            kept = [number[each] for each in rest if every_token or each in rules]
            place = number[symbol], self.id_of[word]
            self.allowed[place], self.count[place], self.longer[place] = True, len(kept), longer
            self.pushed[place][: len(kept)] = kept[::-1]

        for symbol, rule in rules.items():
            for word, rest in rule.items():
                enter(symbol, word, rest, 1 + sum(least.get(each, 1) for each in rest) - least[symbol])
        for symbol in symbols[1 + len(rules) :]:
            enter(symbol, symbol, (), 0)
        self.allowed[_BOTTOM, self.padding] = True
        self.pushed[_BOTTOM], self.count[_BOTTOM] = _BOTTOM, 1
        rest = ("run", "m(", STATEMENT, _rest("m"))
        self._start = [_BOTTOM, *(number[each] for each in rest[::-1] if every_token or each in rules)]
        self._least = 1 + sum(least.get(each, 1) for each in rest)

    def start(self) -> Automaton:
        """Return the automaton behind `DEF`, or behind `DEF run m(`, for one lane."""
        stack = np.zeros(self.depth, np.int32)
        stack[: len(self._start)] = self._start
        return Automaton(jnp.asarray(stack), jnp.int32(len(self._start)), jnp.int32(self._least))

    def mask(self, automaton: Automaton) -> jax.Array:
        """Return which tokens can come next, bool [V], for one lane; behind the end the padding."""
        top = automaton.stack[automaton.size - 1]
        fits = automaton.least + jnp.asarray(self.longer)[top] <= self.language.max_tokens
        return jnp.asarray(self.allowed)[top] & fits

    def advance(self, automaton: Automaton, token: jax.Array) -> Automaton:
        """Return the automaton behind a token that is allowed, for one lane."""
        top = automaton.stack[automaton.size - 1]
        pushed, count = jnp.asarray(self.pushed)[top, token], jnp.asarray(self.count)[top, token]
        place = jnp.arange(self.depth, dtype=jnp.int32) - (automaton.size - 1)
        new = pushed[jnp.clip(place, 0, pushed.shape[0] - 1)]
        return Automaton(
            stack=jnp.where(place < 0, automaton.stack, new),
            size=automaton.size - 1 + count,
            least=automaton.least + jnp.asarray(self.longer)[top, token],
        )


def masks(grammar: Grammar, tokens: jax.Array) -> jax.Array:
    """Return what was allowed at each step of sequences int32 [B, T], bool [T, B, V]."""
    start = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(tokens), *leaf.shape)), grammar.start())

    def step(automaton: Automaton, token: jax.Array):
        return jax.vmap(grammar.advance)(automaton, token), jax.vmap(grammar.mask)(automaton)

    return jax.lax.scan(step, start, tokens.T)[1]


def _rest(letter: str) -> str:
    return f"<rest of {letter}>"


def _words(language: Language) -> tuple[str, ...]:
    """Return the tokens of a language, in the order of the published vocabulary, padding last."""
    counts = [f"R={count}" for count in COUNTS]
    names = dict.fromkeys(text.split()[0] for text in language.perceptions)
    arguments = dict.fromkeys(word for words in language.arguments.values() for word in words)
    brackets = ["h(", "h)"] if arguments else []
    return (
        "DEF", "run", "m(", "m)", *language.actions, "r(", "r)", *counts, "REPEAT", "c(", "c)", "i(", "i)", "e(", "e)",
        "IF", "IFELSE", "ELSE", *names, *arguments, *brackets, "not", "w(", "w)", "WHILE", PADDING,
    )  # fmt: skip


def _rules(language: Language) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return, for every symbol with a choice, the tokens that it can begin with and what each leaves to be said."""
    test = ("c(", CONDITION, "c)")
    statement: dict[str, tuple[str, ...]] = dict.fromkeys(language.actions, ())
    statement |= {
        "WHILE": (*test, "w(", STATEMENT, _rest("w")),
        "IF": (*test, "i(", STATEMENT, _rest("i")),
        "IFELSE": (*test, "i(", STATEMENT, _rest("i"), "ELSE", "e(", STATEMENT, _rest("e")),
        "REPEAT": (COUNT, "r(", STATEMENT, _rest("r")),
    }
    rules = {STATEMENT: statement}
    for letter in _BLOCKS:
        more = {word: (*rest, _rest(letter)) for word, rest in statement.items()}
        rules[_rest(letter)] = {f"{letter})": (), **more}
    condition: dict[str, tuple[str, ...]] = {"not": test}
    for text in language.perceptions:
        name, *argument = text.split()
        condition[name] = ("h(", f"<argument of {name}>", "h)") if argument else ()
    rules[CONDITION] = condition
    rules[COUNT] = {f"R={count}": () for count in COUNTS}
    for name, arguments in language.arguments.items():
        rules[f"<argument of {name}>"] = dict.fromkeys(arguments, ())
    return rules


def _least(rules: dict[str, dict[str, tuple[str, ...]]]) -> dict[str, int]:
    """Return the fewest tokens that each symbol can become."""
    least = dict.fromkeys(rules, 10**6)
    for _ in rules:
        for symbol, rule in rules.items():
            shortest = min(1 + sum(least.get(each, 1) for each in rest) for rest in rule.values())
            least[symbol] = min(least[symbol], shortest)
    return least
