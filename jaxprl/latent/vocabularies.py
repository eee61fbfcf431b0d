"""The orders in which published program VAEs number the tokens of Karel's language.

The weights of a model do not say which row belongs to which token. Read in another order, they decode every latent to a
valid program, but not to the one that was encoded.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from jaxprl import files
from jaxprl.dsl.language import COUNTS
from jaxprl.errors import UserError
from jaxprl.latent.grammar import PADDING

_COUNTS = tuple(f"R={count}" for count in COUNTS)


class Vocabulary(NamedTuple):
    """The tokens of a model, in its order."""

    name: str
    source: str  # who numbered the tokens so
    tokens: tuple[str, ...]


LEAPS = Vocabulary(
    "leaps",
    "Trivedi et al. 2021, Learning to Synthesize Programs as Interpretable and Generalizable Policies",
    (
        "DEF", "run", "m(", "m)", "move", "turnRight", "turnLeft", "pickMarker", "putMarker", "r(", "r)", *_COUNTS,
        "REPEAT", "c(", "c)", "i(", "i)", "e(", "e)", "IF", "IFELSE", "ELSE", "frontIsClear", "leftIsClear",
        "rightIsClear", "markersPresent", "noMarkersPresent", "not", "w(", "w)", "WHILE", PADDING,
    ),
)  # fmt: skip
CARVALHO = Vocabulary(
    "carvalho",
    "Carvalho et al. 2024, Reclaiming the Source of Programmatic Policies",
    (
        "DEF", "run", "m(", "m)", "WHILE", "c(", "c)", "w(", "w)", "IF", "i(", "i)", "IFELSE", "ELSE", "e(", "e)",
        "REPEAT", "r(", "r)", "not", "move", "turnLeft", "turnRight", "pickMarker", "putMarker", "frontIsClear",
        "leftIsClear", "rightIsClear", "markersPresent", "noMarkersPresent", *_COUNTS, PADDING,
    ),
)  # fmt: skip
KNOWN = (LEAPS, CARVALHO)
"""The orders that are tried on a model."""
_MOST_BYTES = 2**16
"""The largest file of tokens that is read."""


def named(text: str) -> Vocabulary:
    """Return the vocabulary that a text names.

    Args:
      text: the name of a known order, or a file with the tokens in their order: a JSON list, or one token a line.

    Raises:
      UserError: there is no such order or file, or the file holds no tokens.

    Example:
      >>> named("carvalho").tokens[:5]
      ('DEF', 'run', 'm(', 'm)', 'WHILE')
    """
    for vocabulary in KNOWN:
        if text == vocabulary.name:
            return vocabulary
    file, names = files.expanded(text), ", ".join(vocabulary.name for vocabulary in KNOWN)
    if not file.exists():
        raise UserError(f"vocabulary {text!r}: neither a known order ({names}) nor a file")
    if file.is_file() and file.stat().st_size > _MOST_BYTES:
        raise UserError(f"vocabulary {text}: a file of more than {_MOST_BYTES:,} bytes")
    tokens = _tokens(files.read_text(file, "vocabulary"))
    if not tokens:
        raise UserError(f"vocabulary {text}: expected the tokens in their order, a JSON list or one a line")
    return Vocabulary(file.name, f"the file {text}", tokens)


def _tokens(content: str) -> tuple[str, ...]:
    """Return the tokens in a file's text, or none if it holds something else."""
    if content.lstrip()[:1] not in ("[", "{"):  # which begin no token
        return tuple(line.strip() for line in content.splitlines() if line.strip())
    try:
        tokens = json.loads(content)
    except (ValueError, RecursionError):
        return ()
    is_list = isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)
    return tuple(tokens) if is_list else ()
