"""Every answer of a language model in one file, so that none is paid for twice.

The file is an SQLite database. A row is the body of one response as it came, written before anything is read from it,
under the request (all that has a say in the answers, but neither address nor key) and the name that the run gives to
this asking. The samples of a request are the choices of its bodies in the order of the rows. Rows are only ever added,
so the first samples stay the first, whoever adds more. Beside the body stands how it was asked for: the parameters that
went out, the server's address, and which sample its first choice was asked for as.

The journal is SQLite's rollback journal rather than a write-ahead log: rows come seconds apart, so speed is no matter,
while this one also works on network file systems and leaves one file that can be copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxprl.errors import UserError

_PROGRAM = 0x6A61_7870
"""SQLite's `application_id` of these files."""
_VERSION = 1
_WAIT = 60.0
"""Seconds to wait for other processes that write."""
_TABLES = (
    "CREATE TABLE requests (request TEXT PRIMARY KEY, content TEXT NOT NULL)",
    "CREATE TABLE responses (id INTEGER PRIMARY KEY, request TEXT NOT NULL, name TEXT NOT NULL, sent TEXT NOT NULL, "
    "body BLOB NOT NULL, sha256 TEXT NOT NULL)",
    "CREATE INDEX by_request ON responses (request, name)",
    f"PRAGMA application_id = {_PROGRAM}",
    f"PRAGMA user_version = {_VERSION}",
)

Request = Mapping[str, Any]
"""Model, messages and sampling parameters, as JSON."""


class Row(NamedTuple):
    """One response."""

    id: int
    body: bytes
    first: int | None = None
    """Which sample of the request its first choice was asked for as, if it was written down."""
    base_url: str | None = None
    """The server that it came from, if it was written down."""


def request_key(request: Request) -> str:
    """Return the SHA-256 of the request's canonical JSON."""
    return hashlib.sha256(_canonical(request).encode()).hexdigest()


class Cache:
    """The answers in one file; any number of threads and processes can use it at once.

    All methods raise UserError that names the file if it is damaged or cannot be read or written.
    """

    def __init__(self, path: Path, *, read_only: bool = False):
        """Open the file, or create it with its folder if it is to be written and is not there.

        Raises UserError if it is something else, or of another version.
        """
        self.path, self.read_only = path, read_only
        if read_only and not path.is_file():
            raise UserError(f"no cache of answers {path}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cache {path}: {error.strerror}") from None
        if path.is_file() and 0 < path.stat().st_size < 512:  # SQLite would take it for an empty one and write over it
            raise UserError(f"{path} is no cache of answers; choose another file")
        with self._connected() as database:
            if not read_only:
                self._create(database)
            if _number(database, "application_id") != _PROGRAM:
                raise UserError(f"{path} is no cache of answers, but something else; choose another file")
            if (version := _number(database, "user_version")) != _VERSION:
                raise UserError(f"cache {path} has format {version}; this version of jaxprl reads {_VERSION}")

    def add(self, request: Request, name: str, sent: Mapping[str, Any], body: bytes) -> int:
        """Add a response and return its row's number once it is on the disk. `sent`: the parameters that went out, and
        `first` and `base_url` as in `Row`."""
        key = request_key(request)
        values = (key, _canonical(name), _canonical(sent), body, hashlib.sha256(body).hexdigest())
        with self._connected() as database, _transaction(database):
            database.execute("INSERT OR IGNORE INTO requests VALUES (?, ?)", (key, _canonical(request)))
            row = database.execute(
                "INSERT INTO responses (request, name, sent, body, sha256) VALUES (?, ?, ?, ?, ?)", values
            ).lastrowid
        assert row is not None
        return row

    def rows(self, request: Request, name: str) -> list[Row]:
        """Return the responses to a request under that name, in their order."""
        command = "SELECT id, body, sha256, sent FROM responses WHERE request = ? AND name = ? ORDER BY id"
        with self._connected() as database:
            found = database.execute(command, (request_key(request), _canonical(name))).fetchall()
        for number, body, sha256, _ in found:
            if not isinstance(body, bytes) or hashlib.sha256(body).hexdigest() != sha256:
                raise UserError(f"cache {self.path} is damaged: response {number} is not what was written")
        sent = [json.loads(how) for *_, how in found]
        return [
            Row(number, body, how.get("first"), how.get("base_url"))
            for (number, body, *_), how in zip(found, sent, strict=True)
        ]

    def contents(self) -> list[tuple[dict[str, Any], str, int]]:
        """Return every request with a name it was asked under and its number of responses, oldest first."""
        command = (
            "SELECT content, name, count(*) FROM responses JOIN requests USING (request) "
            "GROUP BY request, name ORDER BY min(id)"
        )
        with self._connected() as database:
            return [(json.loads(request), json.loads(name), n) for request, name, n in database.execute(command)]

    def _create(self, database: sqlite3.Connection) -> None:
        with _transaction(database):
            if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for command in _TABLES:
                    database.execute(command)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Give a connection of its own to each use, which is what makes threads and forks safe."""
        mode = "ro" if self.read_only else "rwc"
        try:
            uri = f"{self.path.absolute().as_uri()}?mode={mode}"
            with contextlib.closing(sqlite3.connect(uri, _WAIT, uri=True, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = EXTRA")
                yield database
        except sqlite3.OperationalError as error:  # locked, read-only, no place on the disk
            raise UserError(f"cache {self.path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path} is a damaged cache of answers, or none ({error}); choose another") from None


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing. The lock for writing is taken first: no two processes can wait for each other."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # what went wrong may have rolled it back
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _number(database: sqlite3.Connection, name: str) -> int:
    return database.execute(f"PRAGMA {name}").fetchone()[0]


def _canonical(value: Any) -> str:
    """Return JSON that is the same for equal values, ASCII alone: SQLite's text holds no lone surrogates."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
