"""The grammar of token text as array code: a pushdown automaton that computes which tokens can come next.

The grammar is LL(1): the tokens that can come next depend only on the symbol on top of a stack, and a token replaces
this symbol by the symbols that have to follow it. For example, `WHILE` replaces `<statement>` by

    c( <condition> c) w( <statement> <rest of w>

A *choice* is a token where the grammar allows more than one; the other tokens (`DEF run m( c( c) w(` and the like) are
*forced*. The networks of this package read and write choices only, which halves the length of their sequences, and the
stack leaves out the forced symbols. The published network sees every token (`every_token`). Both use the same
automaton, with different tables.

A token is allowed only if the program can still end within the language's `max_tokens`. So whatever is drawn under the
mask ends in time and is a valid program.

Axis letters: B sequences, T steps, V tokens of the vocabulary.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl.language import Language
from jaxprl.xla import guarded

STATEMENT, CONDITION, COUNT = "<statement>", "<condition>", "<count>"
PADDING = "<pad>"
"""The token that follows the end of a program."""
_BOTTOM = 0
"""The symbol at the bottom of the stack."""
_NEVER = 10**4
"""More tokens than any program has."""
_BLOCKS = "mwire"
"""The letters of the brackets around blocks."""

_Rules = dict[str, dict[str, tuple[str, ...]]]
"""The grammar: symbol -> token that it can begin with -> symbols and tokens that have to follow this token."""


class Automaton(NamedTuple):
    """The state of the automaton for one sequence."""

    stack: jax.Array  # uint8 [depth]: symbols that have to follow, the next one on top; the bottom stays
    size: jax.Array  # int32: number of symbols on the stack
    least: jax.Array  # int32: tokens of the shortest program that the sequence can become

    @property
    def ended(self) -> jax.Array:
        """Whether the sequence is complete, bool."""
        return self.size == 1


class Grammar:
    """The tables of the automaton of one language. They have a row per symbol and a column per token.

    `Grammar.of` returns the same object for equal arguments, so a grammar can be a static argument of jitted functions.
    """

    @staticmethod
    @functools.cache
    def of(language: Language, *, every_token: bool = False) -> Grammar:
        """Return the grammar of a language.

        Args:
          language: the language.
          every_token: whether forced tokens are steps of the sequences, too.

        Example:
          >>> import jaxprl
          >>> grammar = Grammar.of(jaxprl.make("DoorKey").language)
          >>> len(grammar.words), grammar.steps
          (51, 42)
        """
        return Grammar(language, every_token)

    def __init__(self, language: Language, every_token: bool):
        self.language, self.every_token = language, every_token
        self.words = _words(language)
        self.id_of = {word: index for index, word in enumerate(self.words)}
        self.padding = self.id_of[PADDING]
        self.first = self.id_of["DEF"]
        self.steps = language.max_tokens - (0 if every_token else 3)
        """Steps of the longest sequence. With every token it begins behind `DEF` and ends with one token of padding;
        otherwise it begins behind `DEF run m(`."""
        rules = _rules(language)
        least = _least(rules)
        self.forced = np.array([word not in {w for rule in rules.values() for w in rule} for word in self.words])
        """Which tokens are forced wherever they occur, bool [V]."""
        symbols = ["<bottom>", *rules, *(w for w, forced in zip(self.words, self.forced, strict=True) if forced)]
        number = {symbol: index for index, symbol in enumerate(symbols)}
        longest = max(len(rest) for rule in rules.values() for rest in rule.values())
        shape = len(symbols), len(self.words)
        self.allowed = np.zeros(shape, bool)
        """Whether a symbol can begin with a token."""
        self.pushed = np.zeros((*shape, longest), np.uint8)
        """The symbols that the token pushes onto the stack, the deepest one first."""
        self.count = np.zeros(shape, np.int32)
        """How many symbols it pushes."""
        self.longer = np.full(shape, _NEVER, np.int32)
        """By how many tokens it makes the shortest program longer, `_NEVER` if it is not allowed. A <statement> takes
        one token or more: `move` takes one, so the program grows by 0; the shortest WHILE takes 7, so it grows by 6."""

        def enter(symbol: str, word: str, rest: tuple[str, ...], longer: int) -> None:
            """Fill in the tables for a token that replaces a symbol by `rest`."""
            kept = [number[each] for each in rest if every_token or each in rules]
            place = number[symbol], self.id_of[word]
            self.allowed[place], self.count[place], self.longer[place] = True, len(kept), longer
            self.pushed[place][: len(kept)] = kept[::-1]

        for symbol, rule in rules.items():
            for word, rest in rule.items():
                enter(symbol, word, rest, 1 + sum(least.get(each, 1) for each in rest) - least[symbol])
        for symbol in symbols[1 + len(rules) :]:
            enter(symbol, symbol, (), 0)
        self.allowed[_BOTTOM, self.padding], self.longer[_BOTTOM, self.padding] = True, 0
        self.pushed[_BOTTOM], self.count[_BOTTOM] = _BOTTOM, 1
        rest = ("run", "m(", STATEMENT, _rest("m"))
        self._start = [_BOTTOM, *(number[each] for each in rest[::-1] if every_token or each in rules)]
        self._least = 1 + sum(least.get(each, 1) for each in rest)
        self.depth = len(self._start) + self._growth(language.max_tokens - self._least)
        """Room on the stack."""

    def _growth(self, tokens: int) -> int:
        """Return by how many symbols the stack can grow at most while the shortest program gets `tokens` longer."""
        costs = {int(longer): 0 for longer in np.unique(self.longer[self.allowed])}
        for longer in costs:
            costs[longer] = int((self.count[self.allowed & (self.longer == longer)] - 1).max())
        most = [max(0, costs[0])]  # what costs nothing can happen once on top of everything else
        for room in range(1, tokens + 1):
            most.append(max([most[room - 1], *(most[room - n] + gain for n, gain in costs.items() if 0 < n <= room)]))
        return most[tokens]

    @guarded
    def start(self) -> Automaton:
        """Return the automaton before the first step of a sequence."""
        stack = np.zeros(self.depth, np.uint8)
        stack[: len(self._start)] = self._start
        return Automaton(jnp.asarray(stack), jnp.int32(len(self._start)), jnp.int32(self._least))

    @guarded
    def mask(self, automaton: Automaton) -> jax.Array:
        """Return which tokens can come next in a sequence.

        For example, if `least` is two below `max_tokens`, a block can continue with `move`, which makes the program one
        token longer, but not with WHILE, which makes it at least seven tokens longer. A closing bracket is counted
        already, so it is always allowed after a statement.

        Args:
          automaton: the state for one sequence.

        Returns:
          bool [V]. After the end of the program it is the padding alone.
        """
        top = automaton.stack[automaton.size - 1]
        return jnp.asarray(self.longer)[top] <= self.language.max_tokens - automaton.least

    @guarded
    def advance(self, automaton: Automaton, token: jax.Array) -> Automaton:
        """Return the automaton after a token.

        Args:
          automaton: the state for one sequence.
          token: int32, a token that is allowed.
        """
        top = automaton.stack[automaton.size - 1]
        pushed, count = jnp.asarray(self.pushed)[top, token], jnp.asarray(self.count)[top, token]
        # `place` is the place of each stack entry among the new symbols, which begin where the top was. If 2 symbols
        # replace the top of 3, it is -2, -1, 0, 1, 2, ...: two entries stay, and the new size is 4.
        place = jnp.arange(self.depth, dtype=jnp.int32) - (automaton.size - 1)
        stack = automaton.stack
        for number in range(pushed.shape[0]):  # a chain of selections is much faster than a gather
            stack = jnp.where(place == number, pushed[number], stack)
        return Automaton(
            stack=stack,
            size=automaton.size - 1 + count,
            least=automaton.least + jnp.asarray(self.longer)[top, token],
        )


@guarded
def masks(grammar: Grammar, tokens: jax.Array) -> jax.Array:
    """Return the tokens that were allowed at each step of complete sequences.

    Args:
      grammar: the grammar.
      tokens: int32 [B, T].

    Returns:
      bool [T, B, V].
    """
    start = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(tokens), *leaf.shape)), grammar.start())

    def step(automaton: Automaton, token: jax.Array):
        return jax.vmap(grammar.advance)(automaton, token), jax.vmap(grammar.mask)(automaton)

    return jax.lax.scan(step, start, tokens.T)[1]


def _rest(letter: str) -> str:
    """Return the symbol for what can follow a statement in a block: another statement, or the closing bracket."""
    return f"<rest of {letter}>"


def _words(language: Language) -> tuple[str, ...]:
    """Return the tokens of a language in the order of the published vocabulary, which ends with the padding."""
    counts = [f"R={count}" for count in language.counts]
    names = dict.fromkeys(text.split()[0] for text in language.perceptions)
    arguments = dict.fromkeys(word for words in language.arguments.values() for word in words)
    brackets = ["h(", "h)"] if arguments else []
    return (
        "DEF", "run", "m(", "m)", *language.actions, "r(", "r)", *counts, "REPEAT", "c(", "c)", "i(", "i)", "e(", "e)",
        "IF", "IFELSE", "ELSE", *names, *arguments, *brackets, "not", "w(", "w)", "WHILE", PADDING,
    )  # fmt: skip


def _rules(language: Language) -> _Rules:
    """Return the rules of a language, for every symbol that is not a token itself."""
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
    rules[COUNT] = {f"R={count}": () for count in language.counts}
    for name, arguments in language.arguments.items():
        rules[f"<argument of {name}>"] = dict.fromkeys(arguments, ())
    return rules


def _least(rules: _Rules) -> dict[str, int]:
    """Return the fewest tokens that each symbol can become."""
    least = dict.fromkeys(rules, 10**6)
    for _ in rules:  # each round gets at least one more symbol right
        for symbol, rule in rules.items():
            shortest = min(1 + sum(least.get(each, 1) for each in rest) for rest in rule.values())
            least[symbol] = min(least[symbol], shortest)
    return least
