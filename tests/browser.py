"""A real browser without a window, told what to do over a pipe by its DevTools protocol; for the tests of pages."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """The browser of this machine, if it has one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page of a browser process, in a context; collects its console, its exceptions and its requests."""

    def __init__(self, folder: Path):
        self.folder, self.events, self.number, self.buffer = folder, [], 0, b""

    def __enter__(self):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        self.inlet, self.outlet = ours_in, ours_out
        # Its end of the pipes are descriptors 3 and 4: a shell puts them there, since no Python code may run between
        # fork and exec in a process with threads.
        far = [fcntl.fcntl(each, fcntl.F_DUPFD, 20) for each in (theirs_in, theirs_out)]
        words = [find(), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars",
                 f"--user-data-dir={self.folder}", "--no-first-run", "about:blank"]  # fmt: skip
        shell = f'exec "$@" 3<&{far[0]} 4>&{far[1]}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "browser", *words], pass_fds=far, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for each in (theirs_in, theirs_out, *far):
            os.close(each)
        self.session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *error):
        with contextlib.suppress(Exception):
            self.session = None
            self.ask("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        os.close(self.inlet)
        os.close(self.outlet)

    def ask(self, method: str, **parameters) -> dict:
        """Send a command and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.outlet, json.dumps(message).encode() + b"\0")
        while (answer := self.next()).get("id") != self.number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def next(self, patience: float = 60.0) -> dict:
        deadline = time.monotonic() + patience
        while b"\0" not in self.buffer:
            if not select.select([self.inlet], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError("the browser says nothing")
            self.buffer += os.read(self.inlet, 1 << 20) or b'{"id": -1, "error": "ended"}\0'
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, file: Path) -> None:
        """Load a file and wait until it is drawn."""
        self.ask("Page.navigate", url=file.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.next())

    def value(self, code: str):
        """The value of a JavaScript expression in the page."""
        found = self.ask("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def complaints(self) -> list[dict]:
        """What the page wrote to the console, the browser to its log, and exceptions."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed")
        return [event for event in self.events if event.get("method") in kinds]

    def requests(self) -> list[str]:
        """Addresses that were asked for, but for data in the page itself."""
        sent = [
            each["params"]["request"]["url"]
            for each in self.events
            if each.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith("data:")]
