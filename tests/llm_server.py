"""A real HTTP server on the loopback that answers chat completions as a test scripts it."""

import contextlib
import http.server
import json
import ssl
import tempfile
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
CERTIFICATE = """
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgi/BDCdTkWWGub6Sk
GFXjzPfEF2wiTbD+Mi6BExzkxGGhRANCAATJcbHnItj+r3SAsxc65u/RxP89Dwcc
PM6lQu3Kxj2/X8hUW/zhaMew4JknyA6xvlCPLwkXJ+czZwPKIM9UbSw6
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBjjCCATSgAwIBAgIUGJucqUn5VZI4Dhq+RHk6TkhNRWUwCgYIKoZIzj0EAwIw
EzERMA8GA1UEAwwIbG9vcGJhY2swIBcNMjYxMTI5MTI0OTI0WhgPMjEyNjExMDUx
MjQ5MjRaMBMxETAPBgNVBAMMCGxvb3BiYWNrMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEyXGx5yLY/q90gLMXOubv0cT/PQ8HHDzOpULtysY9v1/IVFv84WjHsOCZ
J8gOsb5Qjy8JFyfnM2cDyiDPVG0sOqNkMGIwHQYDVR0OBBYEFAmhRJfqY0EmgXNI
D18oeglD4/lQMB8GA1UdIwQYMBaAFAmhRJfqY0EmgXNID18oeglD4/lQMA8GA1Ud
EwEB/wQFMAMBAf8wDwYDVR0RBAgwBocEfwAAATAKBggqhkjOPQQDAgNIADBFAiEA
l5vveG6FbZZvsz4V78orA/COsORE12vsWjt/dvzR5GUCICyWX7LE/tkMqR1jPbp6
YkB7jsaxDRG8XBnBz1/Q69Ab
-----END CERTIFICATE-----
"""
"""A certificate for 127.0.0.1 that nobody has signed, with its key."""
_KEY = CERTIFICATE.partition("-----BEGIN CERTIFICATE")[0]
EXPIRED = f"""{_KEY}
-----BEGIN CERTIFICATE-----
MIIBVjCB/qADAgECAgEBMAoGCCqGSM49BAMCMBMxETAPBgNVBAMMCGxvb3BiYWNr
MB4XDTIwMDEwMTAwMDAwMFoXDTIxMDEwMTAwMDAwMFowEzERMA8GA1UEAwwIbG9v
cGJhY2swWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATJcbHnItj+r3SAsxc65u/R
xP89DwccPM6lQu3Kxj2/X8hUW/zhaMew4JknyA6xvlCPLwkXJ+czZwPKIM9UbSw6
o0MwQTAPBgNVHREECDAGhwR/AAABMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYE
FAmhRJfqY0EmgXNID18oeglD4/lQMAoGCCqGSM49BAMCA0cAMEQCIAu2enuGU5se
QVWspqU995h7yQLF7JzHARruzXLGmejQAiA3OH7E2Hds1ohndE+p/H+YHMJ0XR7b
+o7bZ++e22IG1Q==
-----END CERTIFICATE-----
"""
"""The same with an end in 2021."""
NOT_YET_VALID = f"""{_KEY}
-----BEGIN CERTIFICATE-----
MIIBXDCCAQKgAwIBAgIBATAKBggqhkjOPQQDAjATMREwDwYDVQQDDAhsb29wYmFj
azAiGA8yMDk5MDEwMTAwMDAwMFoYDzIxMjUwMTAxMDAwMDAwWjATMREwDwYDVQQD
DAhsb29wYmFjazBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABMlxseci2P6vdICz
Fzrm79HE/z0PBxw8zqVC7crGPb9fyFRb/OFox7DgmSfIDrG+UI8vCRcn5zNnA8og
z1RtLDqjQzBBMA8GA1UdEQQIMAaHBH8AAAEwDwYDVR0TAQH/BAUwAwEB/zAdBgNV
HQ4EFgQUCaFEl+pjQSaBc0gPXyh6CUPj+VAwCgYIKoZIzj0EAwIDSAAwRQIhAMiD
DGa5Mkcg13fiKuaFYwFv5Hb42MG7lwNHkq+hCpGsAiA4A3TSh6ws9QPkCpxHV/Hp
fHz4+k4hyfBtG3JTGwjfQw==
-----END CERTIFICATE-----
"""
"""The same with a beginning in 2099."""


class Server:
    """`script(request, number)` says what the request with that number, from 0, gets: JSON, a Reply, or HANG_UP.

    A proxy gets whole addresses as paths, so a server can stand for a proxy as well.
    """

    def __init__(self, script, *, encrypted=False, certificate=CERTIFICATE):
        self.script, self.requests, self.headers, self.times, self.paths = script, [], [], [], []
        self.connect_status = 407
        self.at_once = self.most_at_once = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.serve(self)

            def do_CONNECT(self):  # to an encrypted server, through this one as a proxy
                self.send_error(outer.connect_status)

            def log_message(self, *arguments):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *arguments: None  # clients that go away are what is tested
        self.url = f"{'https' if encrypted else 'http'}://127.0.0.1:{self.http.server_port}/v1"
        if encrypted:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with tempfile.NamedTemporaryFile("w") as file:
                file.write(certificate)
                file.flush()
                context.load_cert_chain(file.name)
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)

    def serve(self, handler):
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            number = len(self.requests)
            self.requests.append(request)
            self.headers.append({name.lower(): text for name, text in handler.headers.items()})
            self.times.append(time.monotonic())
            self.paths.append(handler.path)
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            is_known = handler.path.partition("?")[0].endswith("/chat/completions")
            reply = self.script(request, number) if is_known else Reply({}, 404)
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
def serving(script, *, encrypted=False, certificate=CERTIFICATE):
    """Serve until the context is left."""
    server = Server(script, encrypted=encrypted, certificate=certificate)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()
