"""Shown code with smaller searches, as the default tests run it; as it is shown it runs where everything is tested."""

import re

SEARCHES = r"seeds=(range\(\d+\)|\([\d, ]+\)), budget=[\d_]+"
SMALL = "seeds=(0, 1), budget=200, layouts=range(4)"
"""As in the tests of whole runs: what is compiled for them serves here."""


def smaller(code: str) -> str:
    """Return the code with searches of other sizes."""
    return re.sub(SEARCHES, SMALL, code)
