"""A real HTTP server on the loopback that answers chat completions as a test scripts it."""

import contextlib
import http.server
import json
import threading
import time


def completion(*texts, usage=(10, 20), **more):
    """The JSON body of a completion with those answers."""
    choices = [{"index": n, "message": {"content": text}, "finish_reason": "stop"} for n, text in enumerate(texts)]
    told = {"usage": dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))} if usage else {}
    return {"id": "x", "object": "chat.completion", "choices": choices, **told, **more}


def error(message, *, code=None, param=None):
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def answer(request, **options):
    """What a server does that honours everything."""
    return completion(*(f"answer {number}" for number in range(request.get("n", 1))), **options)


class Reply:
    """What goes back: a status, a body, and how slowly."""

    def __init__(self, body, status=200, *, headers=None, after=0.0, dribble=0.0, length=None):
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status, self.headers, self.after, self.dribble, self.length = status, headers or {}, after, dribble, length


HANG_UP = object()


class Server:
    """`script(request, number)` says what the request with that number, from 0, gets: JSON, a Reply, or HANG_UP."""

    def __init__(self, script):
        self.script, self.requests, self.headers, self.times = script, [], [], []
        self.at_once = self.most_at_once = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.serve(self)

            def log_message(self, *arguments):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *arguments: None  # clients that go away are what is tested
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def serve(self, handler):
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            number = len(self.requests)
            self.requests.append(request)
            self.headers.append({name.lower(): text for name, text in handler.headers.items()})
            self.times.append(time.monotonic())
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            reply = self.script(request, number) if handler.path == "/v1/chat/completions" else Reply({}, 404)
            if reply is HANG_UP:
                handler.close_connection = True
                return
            self.send(handler, reply if isinstance(reply, Reply) else Reply(reply))
        finally:
            with self.lock:
                self.at_once -= 1

    def send(self, handler, reply):
        self.closing.wait(reply.after)
        handler.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
        handler.end_headers()
        if reply.length is not None:
            handler.close_connection = True
        if not reply.dribble:
            handler.wfile.write(reply.body)
            return
        for byte in reply.body:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if self.closing.wait(reply.dribble):
                return


@contextlib.contextmanager
def serving(script):
    """Serve until the context is left."""
    server = Server(script)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()
