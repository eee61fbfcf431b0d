"""A file that keeps every answer of a language model, so that no answer is paid for twice.

The file is an SQLite database. A row is the body of one response as it arrived, written before anything is read from
it. Rows are looked up by two keys: the request (everything that influences the answers, but neither the address nor the
API key) and the name that the run gives to this request. The samples of a request are the choices of its bodies, in the
order of the rows. Rows are only ever added, so the first samples stay the first, whoever adds more. Each row also
records how the response was requested: the parameters that were sent, the server's address, and the index of the sample
that its first choice was requested as.

The database uses SQLite's rollback journal rather than a write-ahead log. Rows arrive seconds apart, so speed does not
matter, while the rollback journal also works on network file systems and leaves a single file that can be copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxprl.errors import UserError
from jaxprl.types import JSON

_PROGRAM = 0x6A61_7870
"""SQLite's `application_id` of these files."""
_VERSION = 1
"""Version of the format, stored as SQLite's `user_version`."""
_WAIT = 60.0
"""Seconds to wait for other processes that are writing."""
_TABLES = (
    "CREATE TABLE requests (request TEXT PRIMARY KEY, content TEXT NOT NULL)",
    "CREATE TABLE responses (id INTEGER PRIMARY KEY, request TEXT NOT NULL, name TEXT NOT NULL, sent TEXT NOT NULL, "
    "body BLOB NOT NULL, sha256 TEXT NOT NULL)",
    "CREATE INDEX by_request ON responses (request, name)",
    f"PRAGMA application_id = {_PROGRAM}",
    f"PRAGMA user_version = {_VERSION}",
)

Request = Mapping[str, object]
"""The model, the messages and the sampling parameters of a request, as a JSON object."""


class Row(NamedTuple):
    """One response."""

    id: int
    body: bytes
    first: int | None = None
    """Index of the sample that its first choice was requested as, if that was recorded."""
    base_url: str | None = None
    """Address of the server that sent it, if that was recorded."""


def request_key(request: Request) -> str:
    """Return the SHA-256 of a request's canonical JSON, in hexadecimal digits.

    Example:
      >>> request_key({"model": "m", "n": 1}) == request_key({"n": 1, "model": "m"})
      True
    """
    return hashlib.sha256(_canonical(request).encode()).hexdigest()


class Cache:
    """The answers in one file, which any number of threads and processes can use at the same time.

    All methods raise UserError if the file is damaged or cannot be read or written; the message names the file.

    Args:
      path: the file. It is created, with its folder, if it does not exist and the cache is not read-only.
      read_only: whether answers are only read.

    Raises:
      UserError: if the file is not a cache of answers, has another version, or is read-only and does not exist.
    """

    def __init__(self, path: Path, *, read_only: bool = False):
        self.path, self.read_only = path, read_only
        if read_only and not path.is_file():
            raise UserError(f"no cache of answers {path}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cache {path}: {error.strerror}") from None
        # SQLite takes a file without a complete header (512 bytes) for an empty database and would overwrite it.
        if path.is_file() and 0 < path.stat().st_size < 512:
            raise UserError(f"{path} is no cache of answers; choose another file")
        with self._connected() as database:
            if not read_only:
                self._create(database)
            if _number(database, "application_id") != _PROGRAM:
                raise UserError(f"{path} is no cache of answers, but something else; choose another file")
            if (version := _number(database, "user_version")) != _VERSION:
                raise UserError(f"cache {path} has format {version}; this version of jaxprl reads {_VERSION}")

    def add(self, request: Request, name: str, sent: Mapping[str, object], body: bytes) -> int:
        """Add a response, and return once it is on disk.

        Args:
          request: the request.
          name: the name of the request within the run.
          sent: the parameters that were sent, and `first` and `base_url` as in `Row`.
          body: the body of the response.

        Returns:
          The id of the new row.
        """
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
        """Return the responses to a request.

        Args:
          request: the request.
          name: the name of the request within the run.

        Returns:
          The responses, in the order in which they were added.

        Raises:
          UserError: if a body is not what was written.
        """
        command = "SELECT id, body, sha256, sent FROM responses WHERE request = ? AND name = ? ORDER BY id"
        with self._connected() as database:
            rows = database.execute(command, (request_key(request), _canonical(name))).fetchall()
        for number, body, sha256, _ in rows:
            if not isinstance(body, bytes) or hashlib.sha256(body).hexdigest() != sha256:
                raise UserError(f"cache {self.path} is damaged: response {number} is not what was written")
        try:
            sent = [json.loads(parameters) for *_, parameters in rows]
        except (ValueError, TypeError, RecursionError):
            raise UserError(f"cache {self.path} is damaged: what was sent is not what was written") from None
        return [
            Row(number, body, parameters.get("first"), parameters.get("base_url"))
            for (number, body, *_), parameters in zip(rows, sent, strict=True)
        ]

    def contents(self) -> list[tuple[JSON, str, int]]:
        """Return (request, name, number of responses) for every pair of a request and a name, oldest first."""
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
        """Open a connection for a single use.

        SQLite's connections must not be shared between threads or carried over a fork; none of them lives that long.
        """
        mode = "ro" if self.read_only else "rwc"
        try:
            uri = f"{self.path.absolute().as_uri()}?mode={mode}"
            with contextlib.closing(sqlite3.connect(uri, _WAIT, uri=True, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = EXTRA")
                yield database
        except sqlite3.OperationalError as error:  # locked, read-only, or the disk is full
            raise UserError(f"cache {self.path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path} is a damaged cache of answers, or none ({error}); choose another") from None


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Commit all changes of the block, or none of them if it raises.

    The write lock is taken at the beginning. Two processes that read first and asked for the lock later would each wait
    for the other to end its transaction.
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled the transaction back already
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _number(database: sqlite3.Connection, name: str) -> int:
    return database.execute(f"PRAGMA {name}").fetchone()[0]


def _canonical(value: object) -> str:
    """Return JSON text that is the same for equal values.

    It is ASCII, since SQLite cannot store lone surrogates, which the text of a language model can contain.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
