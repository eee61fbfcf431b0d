"""Names for variables and rules in the text of a kernel, from the lines of Python that they come from."""

from __future__ import annotations

import functools
import linecache
import re
from typing import Any

_FRAME = re.compile(r'"([^"()]+)"\("([^"]+)":(\d+)')
_ASSIGNED = re.compile(r"\s*(?:self\.)?([a-z_][a-z_0-9]*)(?:: [^=]+)? = ")
_HELPERS = re.compile(r"ops\.py|/jax/|numpy")
_ACCESSORS = {"take", "_at", "_word"}
"""Functions that read an entry: what they return has the name that their caller gives it."""


def _frames(place: Any) -> list[tuple[str, str, int]]:
    """Return the functions, files and lines of a place, the innermost first.

    Helpers such as `ops.where` and `take` are left out.
    """
    return [
        (name, file, int(line))
        for name, file, line in _FRAME.findall(str(place))
        if not _HELPERS.search(file) and name not in _ACCESSORS
    ]


@functools.lru_cache(4096)
def _variable(text: str) -> str | None:
    for _, file, line in _frames(text)[:1]:
        found = _ASSIGNED.match(linecache.getline(file, line))
        name = found.group(1).strip("_") if found else ""
        return name if name.isidentifier() and not name.endswith("_t") else None  # those with _t are types
    return None


def variable(place: Any) -> str | None:
    """Return the name of the variable that a line of Python sets; None if it sets none."""
    return _variable(str(place)) if place is not None else None


def rule(place: Any) -> str | None:
    """Return the name of the function that an operation comes from; None if it is not known."""
    frames = _frames(place) if place is not None else []
    return frames[0][0].replace(".<locals>", "") if frames else None


def function(place: Any) -> str | None:
    """Return the last word of the name of the function that an operation comes from; None if it is not one."""
    name = (rule(place) or "").rpartition(".")[2].strip("_").lower()
    return name if name.isidentifier() and not name.endswith("_t") else None


def plain(text: str) -> str | None:
    """Return an expression that is just a name, without a number behind it; None for any other one."""
    return re.sub(r"_\d+$", "", text) if re.fullmatch(r"[a-z_]\w*", text) and text not in ("true", "false") else None
