"""How searches have used a language model: requests, answers, tokens and cost."""

from __future__ import annotations

import collections
import dataclasses

from jaxprl.report.groups import Group
from jaxprl.report.reading import number, whole
from jaxprl.types import JSON


@dataclasses.dataclass
class LLMUse:
    """How the searches of a group have used a language model."""

    asked: int = 0
    """How many answers were requested from a server; 0 if recorded answers were read."""
    looked_at: int = 0
    """How many answers were read."""
    accepted: int = 0
    """How many of these gave a program."""
    rejected: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """How many gave none, by reason."""
    finish_reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Why the model stopped, in the server's words."""
    requests: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """How many requests there were, by outcome: answered, cached, or the kind of failure."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    """Whether some of the numbers of tokens are estimates."""
    cost: float | None = None
    """Cost in dollars, or None if no request has a price."""


def llm_use(group: Group) -> LLMUse | None:
    """Sum up how the searches of a group have used a language model. None if they have not."""
    use, counted = LLMUse(), set()
    for search in group.finished:
        counts = search.result.get("llm") if search.result else None
        if isinstance(counts, dict):
            counted.add(search.seed)
            use.looked_at += _number(counts.get("answers"))
            use.accepted += _number(counts.get("accepted"))
            use.rejected.update(_counts(counts.get("rejected")))
            use.finish_reasons.update(_counts(counts.get("finish_reasons")))
    for run in group.runs:
        for row in run.answers:
            if row["seed"] not in counted:
                use.looked_at += 1
                use.accepted += bool(row.get("program"))
                if row.get("finish"):
                    use.finish_reasons[str(row["finish"])] += 1
                if not row.get("program"):
                    use.rejected[str(row.get("reason"))] += 1
        for row in run.requests:
            _add_request(use, row)
    return use if use.looked_at or use.requests else None


def _add_request(use: LLMUse, row: JSON) -> None:
    """Add a request to the sums."""
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


def _counts(value: object) -> dict[str, int]:
    """Return named counts from a file, or none if the value is not that."""
    return {str(name): _number(count) for name, count in value.items()} if isinstance(value, dict) else {}


def _number(value: object) -> int:
    """Return an integer from a file, or 0 if the value is not one."""
    return value if whole(value) else 0
