"""What searches asked a language model, what it gave, and what it cost."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

from jaxprl.runs.groups import Group
from jaxprl.runs.reading import number, whole


@dataclasses.dataclass
class LLMUse:
    """What a language model was asked and gave."""

    asked: int = 0
    """Answers asked for from a server; 0 if recorded ones were read."""
    looked_at: int = 0
    accepted: int = 0
    rejected: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Answers that gave no program, by reason."""
    requests: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """By outcome: answered, cached, or how they failed."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    """Whether some of the tokens are estimates."""
    cost: float | None = None
    """Dollars, None if no request has a price."""


def llm_use(group: Group) -> LLMUse | None:
    """Return the group's use of a language model, None if there was none."""
    use, counted = LLMUse(), set()
    for search in group.finished:
        counts = search.result.get("llm") if search.result else None
        if isinstance(counts, dict):
            counted.add(search.seed)
            use.looked_at += _number(counts.get("answers"))
            use.accepted += _number(counts.get("accepted"))
            reasons = counts.get("rejected")
            if isinstance(reasons, dict):
                use.rejected.update({str(reason): _number(number) for reason, number in reasons.items()})
    for run in group.runs:
        for row in run.answers:
            if row["seed"] not in counted:
                use.looked_at += 1
                use.accepted += bool(row.get("program"))
                if not row.get("program"):
                    use.rejected[str(row.get("reason"))] += 1
        for row in run.requests:
            _add_request(use, row)
    return use if use.looked_at or use.requests else None


def _add_request(use: LLMUse, row: dict[str, Any]) -> None:
    use.requests[str(row["outcome"])] += 1
    samples = row.get("samples")
    if isinstance(samples, list) and len(samples) == 2:
        use.asked += _number(samples[1]) - _number(samples[0])
    tokens = row.get("tokens")
    if isinstance(tokens, dict):
        use.prompt_tokens += _number(tokens.get("prompt"))
        use.completion_tokens += _number(tokens.get("completion"))
        use.estimated |= bool(tokens.get("estimated"))
    if number(row.get("cost")):
        use.cost = (use.cost or 0.0) + row["cost"]


def _number(value: Any) -> int:
    return value if whole(value) else 0
