"""What servers say instead of an answer, and the way to them: addresses, proxies, certificates, headers."""

import itertools
import json
import socket
import time

import pytest
from llm_server import CERTIFICATE, EXPIRED, NOT_YET_VALID, Reply, answer, completion, error, serving

from jaxprl.errors import UserError
from jaxprl.llm.cache import Cache
from jaxprl.llm.client import Client
from jaxprl.llm.settings import Settings
from jaxprl.llm.source import FAILURES

MESSAGES = [{"role": "user", "content": "Write a program."}]
VARIABLES = (
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID",
    "OPENAI_CUSTOM_HEADERS", "OPENAI_BASE_URL", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def client(tmp_path):
    """`client(url)` makes a client whose log is `client.rows`."""
    made = []

    def make(url, **settings):
        rows = []
        given = {"backoff": 0.01, "retries": 2, "deadline": 20.0, **settings}
        one = Client(Settings("m", url, **given), Cache(tmp_path / "answers.sqlite"), log=rows.append)
        one.rows = rows
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def asked(client, count=1, name="a"):
    """The texts of the answers, or what the error says if there is no hope of any."""
    try:
        return [reply.text for reply in client.ask(MESSAGES, count, name=name)]
    except UserError as caught:
        return str(caught)


def in_choice(error, **message):
    return {"choices": [{"index": 0, "error": error, "finish_reason": "error", "message": {"content": "", **message}}]}


NOT_JSON = "<html><head><title>503 Service Unavailable</title></head><body>nginx</body></html>"
PASSING = [
    (200, {"error": "The model has crashed"}, "The model has crashed"),
    (200, {"error": {"message": "Provider returned error", "code": 502}}, "502: Provider returned error"),
    (200, {"error": {"message": "Slow down", "code": "429"}}, "Slow down"),
    (200, {"error": {"message": "Slow down", "code": "rate_limit_exceeded"}}, "Slow down"),
    (200, {"object": "error", "message": "engine is busy", "code": 503}, "engine is busy"),
    (200, {"detail": "worker died"}, "worker died"),
    (200, in_choice({"code": 502, "message": "Provider overloaded"}), "Provider overloaded"),
    (
        200,
        in_choice({"code": "502", "message": "half", "metadata": {"raw": "upstream"}}, content="def"),
        "half (upstream)",
    ),
    (200, in_choice("provider timed out"), "provider timed out"),
    (200, in_choice(None), "finish_reason error"),
    (200, {**completion(""), "error": {"message": "cut"}}, "cut"),
    (500, {"error": "llama runner process has terminated"}, "llama runner process has terminated"),
    (500, {"error": "Incomplete generation", "error_type": "incomplete_generation"}, "Incomplete generation"),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "529: Overloaded"),
    (503, [{"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}], "overloaded"),
    (502, NOT_JSON, "502: 503 Service Unavailable"),
    (502, "upstream connect error", "upstream connect error"),
    (500, "", "no message"),
]
LASTING = [
    (200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}, "Unexpected endpoint", "not found"),
    (200, {"error": {"message": "No auth", "code": 401}}, "No auth", "refused"),
    (200, {"error": {"message": "More credits", "code": "402"}}, "More credits", "out of quota"),
    (200, {"error": {"message": "Pay", "code": "insufficient_quota"}}, "Pay", "out of quota"),
    (200, in_choice({"code": 400, "message": "context length exceeded"}), "context length exceeded", "bad request"),
    (402, {"error": {"message": "No balance", "type": "unknown_error"}}, "No balance", "out of quota"),
    (404, {"object": "error", "message": "No model `m`", "code": 404}, "404: No model `m`", "not found"),
    (404, {"detail": "Not Found"}, "404: Not Found", "not found"),
    (404, "404 page not found", "404 page not found", "not found"),
    (401, {"statusCode": 401, "message": "Access denied"}, "Access denied", "refused"),
    (401, "<h1>Authorization Required</h1>", "Authorization Required", "refused"),
    (422, {"detail": [{"loc": ["body", "a"], "msg": "Field required"}]}, "body.a: Field required", "bad request"),
    (400, {"errors": [{"code": 7, "message": "No such gateway"}], "success": False}, "No such gateway", "bad request"),
    (400, {"error": "Failed to load model"}, "Failed to load model", "bad request"),
    (400, {"error": {"code": "DeploymentNotFound"}}, "400: DeploymentNotFound", "bad request"),
    (429, {"error": {"code": "1113", "message": "Insufficient balance, please recharge"}}, "recharge", "out of quota"),
    (429, {"error": "Your team has used all available credits or reached its monthly spending limit."}, "team",
     "out of quota"),
    (400, error("Your credit balance is too low to access the Anthropic API."), "too low", "out of quota"),
    (400, {"error": {"message": "Max budget: 1", "type": "budget_exceeded"}}, "Max budget", "out of quota"),
    (400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.",
                      "status": "INVALID_ARGUMENT"}}], "API key not valid", "refused"),
    (403, {"error": {"code": 403, "message": "m requires moderation. Your input was flagged"}}, "flagged",
     "bad request"),
    (403, error("Country, region, or territory not supported", code="unsupported_country_region_territory"),
     "serve the region", "refused"),
    (429, error("Request too large for m on tokens per min (TPM): Limit 1, Requested 2."), "large", "bad request"),
]  # fmt: skip


def reply(status, body):
    return Reply(body.encode() if isinstance(body, str) else body, status)


@pytest.mark.parametrize(("status", "body", "words"), PASSING)
def test_errors_that_pass_are_tried_again_and_said_in_the_servers_words(client, status, body, words):
    with serving(lambda request, number: reply(status, body) if number == 0 else answer(request)) as server:
        one = client(server.url)
        assert asked(one) == ["answer 0"]
        [row] = [row for row in one.rows if "outcome" in row]
        assert (row["attempts"], sum(row["retried"].values())) == (2, 1)
    with serving(lambda request, number: reply(status, body)) as server:
        one = client(
            server.url, retries=0, deadline=0.3 if words == "Slow down" else 20.0
        )  # a rate limit is waited out
        assert asked(one, name="b") == []
        assert words in one.trouble
        assert set(one.failures) <= set(FAILURES) - {"empty answer"}


@pytest.mark.parametrize(("status", "body", "words", "reason"), LASTING)
def test_errors_that_stay_are_not_tried_again(client, status, body, words, reason):
    with serving(lambda request, number: reply(status, body)) as server:
        said = asked(client(server.url))
        assert f"{reason}: " in said
        assert words in said
        assert ("OPENAI_API_KEY" in said) == (reason == "refused" and "region" not in said)
        assert len(server.requests) == 1


def test_what_an_error_is_about_can_be_in_its_code_alone(client):
    body = {"error": {"message": "Filtered", "code": "content_filter"}}
    with serving(lambda request, number: reply(400, body)) as server:
        assert "Filtered" in asked(client(server.url), 2)
        assert len(server.requests) == 1  # it is not about n


def test_an_error_among_answers_is_asked_for_again(client):
    def script(request, number):
        body = answer(request)
        if number == 0:
            body["choices"][1] |= {"error": {"code": 502, "message": "oh"}, "finish_reason": "error"}
        return body

    with serving(script) as server:
        one = client(server.url)
        assert asked(one, 4) == ["answer 0", "answer 2", "answer 3", "answer 0"]
        assert [request.get("n", 1) for request in server.requests] == [4, 1]
        assert [row["retried"] for row in one.rows if "outcome" in row] == [{"server error": 1}, {}]
        asked(one, 4, name="b")
        assert server.requests[-1]["n"] == 4  # the server is not taken to have a limit of three


def test_a_parameter_that_an_error_with_status_200_refuses_is_dropped(client):
    def script(request, number):
        told = {"code": 400, "message": "Provider returned error", "metadata": {"raw": "Unsupported parameter: 'seed'"}}
        return {"error": told} if "seed" in request else answer(request)

    with serving(script) as server:
        assert asked(client(server.url, seed=3), 2) == ["answer 0", "answer 1"]
        assert len(server.requests) == 2


OUTSIDE = [
    (422, {"error": "Input validation error: `top_p` must be > 0.0 and < 1.0", "error_type": "validation"}, "top_p"),
    (400, error("<400> InternalError.Algo.InvalidParameter: Range of top_p should be (0.0, 1.0)"), "top_p"),
    (400, error("invalid temperature: only 0.6 is allowed for this model"), "temperature"),
    (400, error("Invalid value for 'temperature'."), "temperature"),
    (400, error("Not so.", param="temperature"), "temperature"),
    (400, error("thinking: `temperature` may only be set to 1 when thinking is enabled"), "temperature"),
    (400, error("No.", param="top_p"), "top_p"),
    (422, {"detail": [{"loc": ["body", "seed"], "msg": "Input should be less than or equal to 9"}]}, "seed"),
    (400, error("n must be between 1 and 1", param="n"), "n"),
    (429, error("Request too large for m (TPM): Limit 30000, Requested 49200. Tokens must be reduced"), "n"),
    (413, error("Request too large for m in organization o on tokens per minute (TPM)", code="tokens"), "n"),
]


@pytest.mark.parametrize(("status", "body", "parameter"), OUTSIDE)
def test_a_parameter_whose_value_is_refused_is_dropped(client, status, body, parameter):
    def script(request, number):
        return reply(status, body) if parameter in request else answer(request)

    with serving(script) as server:
        one = client(server.url, seed=3, max_tokens=9)
        assert asked(one, 2) == ["answer 0", "answer 0" if parameter == "n" else "answer 1"]
        assert list(one.rows[-1]["changed"]) == [parameter]
        assert len(server.requests) == (3 if parameter == "n" else 2)


def test_a_stream_that_was_not_asked_for(client):
    chunk = b'data: {"choices":[{"delta":{"content":"Hm"}}]}\n\n'
    headers = {"Content-Type": "text/event-stream"}
    for begin in (b"", b": hello\n\n", b"event: message\n", b"\n"):
        with serving(lambda request, number, begin=begin: Reply(begin + chunk * 9, headers=headers)) as server:
            said = asked(client(server.url))
            assert "it streams, though it was not asked to" in said
            assert len(server.requests) == 1
    for begin in (b"", chunk):
        body = begin + b'data: {"error":{"message":"overloaded, sorry"}}\n\ndata: [DONE]\n'
        with serving(lambda request, number, body=body: Reply(body, headers=headers)) as server:
            one = client(server.url, retries=1)
            assert asked(one) == []
            assert "overloaded, sorry" in one.trouble
            assert len(server.requests) == 2


def test_tokens_of_thoughts_that_only_the_total_counts(client):
    for more, tokens in (({"total_tokens": 530}, 520), ({"total_tokens": 30}, 20), ({"total_tokens": True}, 20)):
        body = completion("a")
        body["usage"] |= more
        with serving(lambda request, number, body=body: body) as server:
            one = client(server.url)
            asked(one, name=str(more))
            assert one.rows[-1]["tokens"] == {"prompt": 10, "completion": tokens, "estimated": False}


@pytest.mark.parametrize(
    ("more", "url", "words"),
    [
        (EXPIRED, "127.0.0.1", ("has expired", "clock")),
        (NOT_YET_VALID, "127.0.0.1", ("not valid yet", "clock")),
        (None, "localhost", ("another name", "--base-url")),
    ],
)
def test_what_is_wrong_with_a_certificate(client, monkeypatch, tmp_path, more, url, words):
    with serving(lambda request, number: answer(request), encrypted=True, certificate=more or CERTIFICATE) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
        (tmp_path / "own.pem").write_text(more or CERTIFICATE)
        said = asked(client(server.url.replace("127.0.0.1", url)))
        assert "untrusted: " in said
        assert all(word in said for word in words)
        assert "SSL_CERT_FILE" not in said


CALL = [{"type": "function", "function": {"name": "run", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"message": {"content": "", "reasoning": "Hm"}}, "text only in reasoning"),
        ({"message": {"content": None, "reasoning_content": "Hm"}}, "text only in reasoning_content"),
        ({"message": {"content": "\n\n", "thinking": "Hm"}}, "text only in thinking"),
        ({"message": {"refusal": "I won't"}}, "text only in refusal"),
        ({"message": {"content": None, "tool_calls": CALL}}, "text only in tool_calls"),
        ({"message": {"content": [{"type": "refusal", "refusal": "No"}]}}, "text only in a part of type refusal"),
        ({"message": {"content": [{"type": "thinking", "text": "Hm"}]}}, "text only in a part of type thinking"),
        ({"text": "def run(): pass"}, "text only in text"),
        ({"message": {"content": "", "reasoning": "", "tool_calls": []}}, "no text (finish_reason stop)"),
    ],
)  # fmt: skip
def test_where_the_text_is_instead_of_the_answer(client, choice, words):
    for finish in ("stop", "length"):
        with serving(
            lambda request, number, finish=finish: {"choices": [{**choice, "finish_reason": finish}]}
        ) as server:
            one = client(server.url)
            assert asked(one, name=finish) == []
            assert one.failures == {"empty answer": 1}
            assert words.replace("stop)", finish) in one.trouble
            assert ("--max-tokens was too small" in one.trouble) == (finish == "length")
            [row] = [row for row in one.rows if row.get("outcome") == "answered"]
            assert list(row["without_text"].values()) == [1]


def test_parts_of_a_content_are_put_together_without_thoughts(client):
    parts = ["a", {"type": "text", "text": "b"}, {"type": "reasoning", "text": "Hm"}, {"text": "Hm", "thought": True}]
    with serving(lambda request, number: completion([*parts, {"type": "output_text", "text": "c"}])) as server:
        assert asked(client(server.url)) == ["abc"]


LOADING = [
    Reply({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, 503),
    Reply({"error": "Model m is currently loading", "estimated_time": 20.0}, 503),
    Reply({"detail": "The model is not ready yet"}, 503),
    Reply(b"starting up", 502),
    Reply({"error": {"code": 503, "message": "Loading model"}}),
    Reply(b"<title>Service Unavailable</title>", 503, headers={"Retry-After": "0"}),
    Reply({"message": "Loading model"}, 503, headers={"Retry-After": "3600"}),
    Reply({"status": "loading"}, 202),
    Reply({"status": "loading model"}),
    Reply({"error": "Model is loading, please wait"}, 400),
    Reply({"error": "Model is loading, please wait"}, 424),
    Reply(error("Model m is loading"), 404),
    Reply(error("litellm.ServiceUnavailableError: ServiceUnavailableError: OpenAIException - Loading model"), 503),
    Reply(error("Error code: 503 - {'error': {'code': 503, 'message': 'Loading model'}}"), 500),
    Reply({"error": "Error: Model is still loading"}, 500),
    Reply({"detail": "Cannot serve requests yet: model is loading"}, 503),
    *(
        Reply({"error": words}, 503)
        for words in (
            "Model is being downloaded", "pulling model weights", "Model is waking up", "Deployment is provisioning",
            "Model is not available yet", "Server initialization in progress", "Model warmup", "Model is warming",
            "Server is in startup", "waiting for server to start up", "Waiting for the model to be loaded",
            "Service not healthy yet", "Preparing model",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("reply", LOADING)
def test_a_server_that_loads_its_model_is_waited_for(client, capsys, reply):
    with serving(lambda request, number: reply if number < 4 else answer(request)) as server:
        one = client(server.url, retries=1)
        assert asked(one) == ["answer 0"]
        assert len(server.requests) == 5
    said = capsys.readouterr().err
    assert said.count("the server is not ready") + said.count("the server is busy") == 1
    assert "--deadline" in said


def test_a_server_that_loads_its_model_is_waited_for_until_the_deadline(client):
    import openai  # noqa: F401  the second that its import takes is not what is measured

    with serving(lambda request, number: LOADING[0]) as server:
        one = client(server.url, retries=0, deadline=0.8)
        begin = time.monotonic()
        assert asked(one) == []
        assert 0.4 < time.monotonic() - begin < 2
        assert one.failures == {"server error": 1}
        assert "Loading model" in one.trouble
        assert "deadline of 0.8 s" in one.trouble


@pytest.mark.parametrize(
    "words",
    [
        "overloaded", "Error loading model", "failed while loading the model", "Error: Could not load the model",
        "Exception while loading model", "CUDA error while loading: out of memory", "unable to start the engine yet",
    ],
)  # fmt: skip
def test_a_server_that_does_not_load_its_model_is_given_up_earlier(client, words):
    with serving(lambda request, number: Reply(error(words), 503)) as server:
        assert asked(client(server.url, retries=1)) == []
        assert len(server.requests) == 2


@pytest.mark.parametrize("wait", [{}, {"Retry-After": "0"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}])
def test_a_rate_limit_is_waited_out_with_fewer_requests_at_once(client, capsys, wait):
    moments, refused = [0.0], []

    def script(request, number):
        if request.get("n", 1) > 1:
            return Reply(error("Only one completion choice is allowed"), 400)
        now = time.monotonic()
        if now - moments[-1] < 0.03:
            refused.append(now)
            return Reply(error("slow down"), 429, headers=wait)
        moments.append(now)
        return answer(request)

    with serving(script) as server:
        one = client(server.url, retries=0, backoff=0.04)
        assert asked(one, 20) == ["answer 0"] * 20
        assert not one.failures
        [*_, last] = [row for row in one.rows if "outcome" in row]
        assert last["status"] == 200
        assert len(refused) < 60
    assert capsys.readouterr().err.count("the server is busy (status 429: slow down)") == 1


def test_the_waits_for_a_rate_limit_grow_and_end_at_the_deadline(client):
    import openai  # noqa: F401  the second that its import takes is not what is measured

    limited = Reply(error("slow down"), 429, headers={"Retry-After": "0"})
    with serving(lambda request, number: limited) as server:
        one = client(server.url, retries=0, backoff=0.05, deadline=1.0)
        assert asked(one) == []
        waits = [after - before for before, after in itertools.pairwise(server.times)]
        assert 3 <= len(waits) <= 5
        assert all(wait > 0.02 * 2**n for n, wait in enumerate(waits))
        assert one.failures == {"rate limited": 1}
        assert "waited for it until the deadline of 1 s" in one.trouble


@pytest.mark.parametrize("status", [429, 500])
def test_a_wait_beyond_the_deadline_is_said(client, status):
    with serving(lambda request, number: Reply(error("oh"), status, headers={"Retry-After": "600"})) as server:
        one = client(server.url)
        assert asked(one) == []
        assert len(server.requests) == 1
        assert "oh; the server asks to wait 600 s, longer than --deadline" in one.trouble


def test_a_server_that_is_overloaded_is_busy(client, capsys):
    overloaded = Reply(error("The engine is currently overloaded"), 503, headers={"Retry-After": "0"})
    with serving(lambda request, number: overloaded if number == 0 else answer(request)) as server:
        assert asked(client(server.url)) == ["answer 0"]
    assert "the server is busy (status 503: The engine is currently overloaded)" in capsys.readouterr().err


def test_addresses_that_no_host_has():
    long = "a" * 64
    for host, words in (
        ("a..b", "empty label"), (".a", "empty label"), ("..", "empty label"), (f"{long}.com", "more than 63"),
        (f"api.{long}", "more than 63"), ("a!b", "no host"), ("\u0301a\ud800.com", "no host"), ("ä" * 60, "no host"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            Settings("m", f"http://{host}/v1")
    for fine in ("http://localhost.:1/v1", "http://[::1]:8000/v1", "http://my_host/v1", "https://bücher.example/v1"):
        Settings("m", fine)
    for secret in (
        "https://me:hidden@a/v1",
        "http://a/v1?token=hidden",
        "http://a/v1?x=sk-hidden",
        "http://a?sig=hidden",
        "http://me:12/hidden@a/v1",
        "http://hidden!:12#hidden@a/v1",
        "http://a:12?hidden@a/v1",
    ):
        with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
            Settings("m", secret)
        assert "hidden" not in str(caught.value)


def test_a_host_that_only_the_http_library_refuses(client):
    assert "unknown host: " in asked(client("http://\u2603.example/v1"))


def test_the_address_of_the_environment(monkeypatch, command):
    monkeypatch.setenv("OPENAI_BASE_URL", " http://localhost:1/v1\n")
    assert Settings("m").base_url == "http://localhost:1/v1"
    assert Settings("m", "http://localhost:2/v1").base_url == "http://localhost:2/v1"
    for words, url in (((), "http://localhost:1/v1"), (("--base-url", "http://localhost:2"), "http://localhost:2")):
        assert command.settings(command.parser().parse_args(["--model", "m", *words])).base_url == url
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:1")
    with pytest.raises(UserError, match=r"^OPENAI_BASE_URL: expected an address"):
        Settings("m")
    monkeypatch.setenv("OPENAI_BASE_URL", " ")
    assert Settings("m").base_url == "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("/v1", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("", "/chat/completions"),
        ("/openai/v1?api-version=preview", "/openai/v1/chat/completions?api-version=preview"),
        ("/openai/v1/?a=b&api-version=1", "/openai/v1/chat/completions?a=b&api-version=1"),
        ("/openai/deployments/d?api-version=1", "/openai/deployments/d/chat/completions?api-version=1"),
        (
            "/openai/deployments/d/chat/completions?api-version=1",
            "/openai/deployments/d/chat/completions?api-version=1",
        ),
        ("/openai/?api-version=1", "/openai/deployments/m/chat/completions?api-version=1"),
        ("?api-version=2024-10-21", "/openai/deployments/m/chat/completions?api-version=2024-10-21"),
        ("/v1?region=eu", "/v1/chat/completions?region=eu"),
        ("/v1?a=1&a=2&b=", "/v1/chat/completions?a=1&a=2&b="),
    ],
)
def test_the_query_of_an_address_is_sent_with_each_request(client, monkeypatch, base, path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    with serving(lambda request, number: answer({})) as server:
        assert asked(client(server.url.removesuffix("/v1") + base), 2) == ["answer 0", "answer 0"]
        assert server.paths == [path, path]
        assert server.headers[0].get("api-key") == ("sk-0123456789" if "api-version" in base else None)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_proxy_is_used_and_named_when_it_is_down(client, monkeypatch, variable):
    with serving(lambda request, number: answer(request)) as server:
        address = server.url.removesuffix("/v1")
        monkeypatch.setenv(variable, address.replace("//", "//me:hidden@") if variable.islower() else address[7:])
        one = client("http://model.invalid/v1")
        assert asked(one) == ["answer 0"]
        assert server.paths == ["http://model.invalid/v1/chat/completions"]
        assert one.address == f"http://model.invalid/v1 (through the proxy {address} of {variable})"
    one = client("http://model.invalid/v1", retries=0)
    assert asked(one, name="b") == []
    assert one.failures == {"connection": 1}
    assert f"through the proxy {address} of {variable}" in one.trouble
    for no_proxy in ("model.invalid", "a, .invalid", "*.invalid", "*", "x,*", "MODEL.invalid:80"):
        monkeypatch.setenv("NO_PROXY", no_proxy)
        assert client("http://model.invalid:80/v1").address == "http://model.invalid:80/v1"
    for no_proxy in ("odel.invalid", "invalid.com", "model.invalid:8"):
        monkeypatch.setenv("NO_PROXY", no_proxy)
        assert "proxy" in client("http://model.invalid:80/v1").address


@pytest.mark.parametrize(
    ("variable", "proxy", "words"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "needs the package socksio"),
        ("all_proxy", "socks5h://me:hidden@127.0.0.1:9", "needs the package socksio"),
        ("ALL_PROXY", "socks://127.0.0.1:9/", "'socks' is no scheme of a proxy"),
        ("HTTP_PROXY", "ftp://127.0.0.1", "'ftp' is no scheme of a proxy"),
        ("http_proxy", "http://127.0.0.1:x", "expected a proxy like"),
        ("HTTP_PROXY", "http://", "expected a proxy like"),
        ("HTTP_PROXY", "a b", "expected a proxy like"),
        ("HTTP_PROXY", "http://a..b:9", "empty label"),
        ("HTTP_PROXY", "socks4://me:hid/hidden@127.0.0.1:1", "proxy socks4://127.0.0.1:1 of HTTP_PROXY"),
        ("http_proxy", "ftp://me:hidden#hidden@127.0.0.1:1", "proxy ftp://127.0.0.1:1 of http_proxy"),
        ("HTTP_PROXY", "ftp://me:hidden?hidden@127.0.0.1:1", "proxy ftp://127.0.0.1:1 of HTTP_PROXY"),
        ("HTTP_PROXY", "http://me:12/hidden@127.0.0.1:1", "written %2F"),
        ("all_proxy", "http://me:12?hidden@127.0.0.1:1", "written %2F"),
        ("HTTP_PROXY", "http://hid!den:12#hidden@127.0.0.1:1", "written %2F"),
        ("HTTP_PROXY", "me:hidden://hidden@127.0.0.1:1", "expected a proxy like"),
    ],
)
def test_a_proxy_that_cannot_be_used(client, monkeypatch, variable, proxy, words):
    monkeypatch.setenv(variable, proxy)
    with serving(lambda request, number: answer(request)) as server:
        said = asked(client(server.url))
        assert "misconfigured: " in said
        assert variable in said
        assert words in said
        assert "hid" not in said
        monkeypatch.setenv("NO_PROXY", "localhost, 127.0.0.0/8")
        assert asked(client(server.url)) == ["answer 0"]


def test_what_a_proxy_says(client, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://nowhere.invalid:3128")
    one = client("http://model.invalid/v1", retries=0)
    said = asked(one) or one.trouble  # where there is no name service it is not certain that the host is unknown
    assert "misconfigured: " in said
    assert "the proxy http://nowhere.invalid:3128 of HTTP_PROXY" in said
    for status, words in ((407, "USER:PASSWORD"), (502, "through the proxy"), (503, "through the proxy")):
        page = Reply(b"<title>No way</title>", status, headers={"Content-Type": "text/html"})
        with serving(lambda request, number, page=page: page) as server:
            monkeypatch.setenv("HTTP_PROXY", server.url)
            one = client("http://model.invalid/v1", retries=0)
            said = asked(one) or one.trouble
            assert words in said
            assert "No way" in said
    with serving(lambda request, number: answer(request)) as server:
        monkeypatch.setenv("HTTPS_PROXY", server.url)
        said = asked(client("https://model.invalid/v1"))
        assert "407" in said
        assert "of HTTPS_PROXY" in said
        assert "USER:PASSWORD" in said


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_proxy_that_does_not_let_a_request_through(client, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    page = Reply(b"<title>ERROR: Access Denied</title>", status, headers={"Content-Type": "text/html"})
    with serving(lambda request, number: page) as server:
        server.connect_status = status
        for scheme in ("http", "https"):
            monkeypatch.setenv(f"{scheme}_proxy", server.url)
            said = asked(client(f"{scheme}://model.invalid/v1"))
            assert str(status) in said
            assert f"of {scheme}_proxy" in said
            assert "NO_PROXY" in said
            assert "OPENAI_API_KEY" not in said
        assert len(server.requests) == 1
    told = Reply(error("wrong key"), 401)  # by the server
    with serving(lambda request, number: told) as server:
        monkeypatch.setenv("http_proxy", server.url)
        assert "OPENAI_API_KEY" in asked(client("http://model.invalid/v1"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(client, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    with serving(lambda request, number: answer(request)) as other:
        place = other.url.replace("//", "//me:hidden@") + "/chat/completions?code=hidden"
        with serving(lambda request, number: Reply(b"", status, headers={"Location": place})) as server:
            said = asked(client(f"{server.url}?api-version=1"))
            assert f"status {status}: the server points to {other.url};" in said
            assert "--base-url" in said
            assert "hidden" not in said
            assert len(server.requests) == 1
        assert not other.paths
    for place, words in (("/login", "/login;"), ("http://[", "no address"), (None, "status 3")):
        headers = {"Location": place} if place else {}
        with serving(lambda request, number, headers=headers: Reply(b"", status, headers=headers)) as server:
            assert words in asked(client(server.url))


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"])
def test_headers_of_the_environment(client, monkeypatch, name):
    with serving(lambda request, number: answer(request)) as server:
        for wrong in ("org-caf\u00e9", "hid\nden", "hid\r\nden: x", "hid\u2028den", "\u201cquoted\u201d"):
            monkeypatch.setenv(name, wrong)
            said = asked(client(server.url))
            assert name in said
            assert "characters that no " in said
            assert not any(part in said for part in ("caf", "hid", "quoted"))
        for fine, sent in (("org-1\n", "org-1"), (" ", "")):
            monkeypatch.setenv(name, fine)
            before = len(server.requests)
            assert asked(client(server.url), name=fine) == ["answer 0"]
            header = {"OPENAI_ORG_ID": "openai-organization", "OPENAI_PROJECT_ID": "openai-project"}.get(name)
            assert header is None or server.headers[before][header] == sent


def test_further_headers_of_the_environment(client, monkeypatch):
    with serving(lambda request, number: answer(request)) as server:
        for wrong in ("X-A: b\nX-B: caf\u00e9", "X-A: b\nX B: c", "X-A: b\n: c"):
            monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", wrong)
            assert "OPENAI_CUSTOM_HEADERS, line 2" in asked(client(server.url))
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-A: b\n")
        assert asked(client(server.url)) == ["answer 0"]


def test_a_model_name_that_cannot_be_sent(client, tmp_path):
    with serving(lambda request, number: answer(request)) as server:
        one = Client(Settings("\udcff", server.url), Cache(tmp_path / "answers.sqlite"))
        assert "bad request: " in asked(one)
        one.close()


def test_certificates_that_are_not_there(client, monkeypatch, tmp_path):
    (tmp_path / "text").write_text("no certificate")
    for name, path, words in (
        ("SSL_CERT_FILE", "none.pem", "No such file"), ("SSL_CERT_FILE", "text", "holds no certificate"),
        ("SSL_CERT_FILE", ".", "SSL_CERT_FILE="), ("SSL_CERT_DIR", "none", "no such folder"),
        ("SSL_CERT_DIR", "text", "no such folder"),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setenv(name, str(tmp_path / path))
            for url in ("https://127.0.0.1:9/v1", "http://127.0.0.1:9/v1"):
                said = asked(client(url))
                assert f"{name}={tmp_path / path}" in said
                assert words in said


def test_a_certificate_of_ones_own(client, monkeypatch, tmp_path):
    with serving(lambda request, number: answer(request), encrypted=True) as server:
        said = asked(client(server.url))
        assert "untrusted: " in said
        assert "SSL_CERT_FILE" in said
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
        (tmp_path / "own.pem").write_text(CERTIFICATE)
        assert asked(client(server.url)) == ["answer 0"]
    with serving(lambda request, number: answer(request)) as server:
        assert "rather than https://" in asked(client(server.url.replace("http:", "https:"), retries=0), name="b")


def test_no_body_makes_reading_an_error_fail():
    from jaxprl.llm.server_errors import from_body

    deep = {"error": "deep"}
    for _ in range(200):
        deep = {"message": [deep]}
    for body in (json.dumps(deep), "[" * 10_000, "null", '""', "{}", '{"error": 7, "code": true}', '{"detail": [[]]}'):
        assert isinstance(from_body(body.encode()).message, str)


def test_an_address_that_does_not_listen_is_named_without_a_proxy(client):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        one = client(f"http://127.0.0.1:{free.getsockname()[1]}/v1", retries=0)
        assert asked(one) == []
    assert "proxy" not in one.trouble
