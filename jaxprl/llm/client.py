"""A client for any server with OpenAI's chat-completions interface, hosted or local. Every answer is cached.

    client = Client(Settings("llama3", "http://localhost:11434/v1"), Cache(Path("answers.sqlite")))
    replies = client.ask(messages, 48, name="seed 0, round 0")

Samples that the cache has are taken from it. The others are requested from the server: in one request if the server
returns that many choices, otherwise in several requests at the same time. A bad server raises no error. Each request
that fails is a row of the log with one of the names in `source.FAILURES`, and the run continues with the answers that
arrived.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

from jaxprl.llm.cache import Cache, Row, request_key
from jaxprl.llm.calls import Calls, Server
from jaxprl.llm.failure import Failure
from jaxprl.llm.money import Budget
from jaxprl.llm.replay import read_samples
from jaxprl.llm.settings import Parameters, Settings
from jaxprl.llm.source import Hopeless, Messages, Reply
from jaxprl.llm.transport import Transport
from jaxprl.output import say
from jaxprl.types import JSON

_HELP = {
    "no key": "set OPENAI_API_KEY; a local server (--base-url) needs no key, recorded answers neither (--llm recorded)",
    "unknown host": "is --base-url right?",
    "misconfigured": "correct or unset the environment variable",
    "untrusted": "name your own certificate authority in SSL_CERT_FILE, a file (REQUESTS_CA_BUNDLE is not read)",
    "connection": "does the server speak http:// rather than https://?",
    "refused": "is OPENAI_API_KEY the key of this server, and good for this model?",
    "not found": "has the server a model of that name, and is --base-url right (mostly it ends in /v1)?",
    "bad request": "the server does not take what it is asked",
    "not json": "let the server, or what stands before it, answer in one piece",
    "out of quota": "the account needs money",
}


class Client:
    """A source of answers that asks a server (`source.Source`).

    The log receives rows from the thread that calls `ask`; no row ever contains the API key. Before each attempt of a
    request there is a row with the request's id as `begun` and, as `reserved`, the dollars that the request can have
    cost by the end of this attempt. When a request is over, there is a row with these fields, among others:

    - `outcome`: "answered", one of `source.FAILURES` with a `detail`, or "cached" (one row for all samples that the
      cache had).
    - `sent`: the parameters that were sent; `changed`: those that the model refused.
    - `tokens`: the tokens, and whether they are estimated.
    - `cost`: dollars, or None without a price. The sum of all costs is what the budget has spent.

    Args:
      settings: the server and the model.
      cache: where answers are stored.
      budget: the price of tokens and the spending limit; by default neither.
      log: receives the rows.
      should_stop: is called ten times a second; `ask` raises Interrupted soon after it returns True.

    Raises:
      UserError: if there is a spending limit but no `max_tokens`, since a request could then cost any sum.
    """

    def __init__(
        self,
        settings: Settings,
        cache: Cache,
        *,
        budget: Budget | None = None,
        log: Callable[[JSON], None] = lambda row: None,
        should_stop: Callable[[], bool] = lambda: False,
    ):
        self.settings, self.cache, self.log = settings, cache, log
        self.budget = budget or Budget()
        self.failures: collections.Counter[str] = collections.Counter()
        """What has failed so far, by the names of `source.FAILURES`."""
        self.trouble = ""
        """The last failure in words."""
        self._warned = False
        """Whether the user was warned of answers from another server."""
        self.budget.check(settings.max_tokens)
        self._parameters = Parameters(settings)
        self._transport = Transport(settings)
        self._server = Server(settings, self._parameters, self._transport, cache, self.budget, log, should_stop)

    def close(self) -> None:
        """Close open connections."""
        self._transport.close()

    @property
    def address(self) -> str:
        """The address that is asked, in words, with the proxy if there is one."""
        return self._transport.address

    def ask(self, messages: Messages, count: int, *, name: str) -> list[Reply]:
        """Return the first `count` samples of a request (see `Source.ask`). Only one call may run at a time.

        Args:
          messages: the chat messages.
          count: number of samples.
          name: the name of the request within the run.

        Returns:
          The replies; fewer than `count` if the server, the deadline or the spending limit does not allow more, or if
          samples are empty.

        Raises:
          Hopeless: if there is no answer and trying again cannot help.
          Interrupted: as soon as `should_stop` returns True.
        """
        request = {**self.settings.request(), "messages": [dict(message) for message in messages]}
        rows = self.cache.rows(request, name)
        samples = read_samples(rows, count, renew=True)
        if samples.replies or samples.empty:
            answers = len(samples.replies)
            self.log({"name": name, "request": request_key(request), "outcome": "cached", "answers": answers})
        self._warn_of_other_servers(rows)
        if samples.missing:
            self._transport.prepare()
            calls = self._run_calls(request, samples.missing, name)
            samples = read_samples(self.cache.rows(request, name), count, calls.rows)
            if calls.lasting and not samples.replies:
                raise self._hopeless(calls.lasting)
        if samples.empty:
            self.failures["empty answer"] += samples.empty.total()
            if not samples.replies:
                self.trouble = f"empty answer: the choices had no text ({'; '.join(samples.empty)})"
        return samples.replies

    def _run_calls(self, request: JSON, missing: Sequence[int], name: str) -> Calls:
        """Request the missing samples, and count what fails."""
        calls = Calls(self._server, request, name)
        try:
            calls.run(missing)
        finally:
            self.failures += calls.failures
            self.trouble = calls.trouble or self.trouble
        return calls

    def _warn_of_other_servers(self, rows: Sequence[Row]) -> None:
        """Warn once if cached answers came from another address, since models of the same name can differ."""
        others = {row.base_url for row in rows} - {None, self.settings.base_url.rstrip("/")}
        if others and not self._warned:
            self._warned = True
            say(
                f"WARNING: cache {self.cache.path} has answers of model {self.settings.model!r} from "
                f"{', '.join(sorted(map(str, others)))}, which are taken; another cache (--answers) asks "
                f"{self.settings.base_url} anew"
            )

    def _hopeless(self, failure: Failure) -> Hopeless:
        where = f"model {self.settings.model!r} at {self.settings.base_url}"
        return Hopeless(f"{where}: {failure}; {failure.advice or _HELP[failure.reason]}")
