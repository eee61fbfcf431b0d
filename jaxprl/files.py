"""Files that users name: what their names mean, and the text and the JSON in them."""

from __future__ import annotations

import codecs
import json
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jaxprl.errors import UserError

_OTHER_TEXT = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_SHOWN = 80
R = TypeVar("R")


def expanded(name: str | os.PathLike[str]) -> Path:
    """Return the path that a user's name of a file or folder stands for: `~` and `~user` are home folders.

    It is applied once, where a name comes in: the path of `./~x` is `~x`, which stays as it is.

    Raises:
      UserError: the name is blank, there is no such user or home folder, or no file can have this name.

    Example:
      >>> expanded("~/runs") == Path.home() / "runs", expanded("runs/~").name
      (True, '~')
    """
    text = os.fspath(name)
    if not text.strip():
        raise UserError("an empty name")
    if not is_word(text):
        if "\0" in text or not is_word(text, "utf-8"):
            raise UserError(f"no file can have the name {text[:_SHOWN]!r}")
        raise UserError(unencodable(text, sys.getfilesystemencoding()))
    path = os.path.expanduser(text)
    if path[0] == "~":
        user = text.partition("/")[0][1:]
        if not user:
            raise UserError(f"{text}: no home folder is known; set HOME, or name the folder in full")
        raise UserError(f"{text}: there is no user {user!r} with a home folder; a file of that name is ./{text}")
    return Path(path)


def unencodable(text: str, encoding: str) -> str:
    """Return the message that a name has characters which an encoding lacks."""
    return f"{text[:_SHOWN]!r} is no name in {encoding}: PYTHONUTF8=1 takes names in UTF-8"


def is_word(text: str, encoding: str | None = None) -> bool:
    """Return whether the system can be given a text, as a name or a word of a command.

    Zero bytes and lone surrogates are not possible, nor characters that the encoding lacks, by default the system's.
    """
    try:
        encoded = text.encode(encoding or sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
    except UnicodeEncodeError:
        return False
    return b"\0" not in encoded


def read_text(path: Path, what: str) -> str:
    """Return the text of a file in UTF-8, with a byte-order mark or without.

    Args:
      path: the file.
      what: what messages call it, before its name.

    Raises:
      UserError: the file cannot be read, or is not text in UTF-8.
    """
    content = read_bytes(path, what)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise UserError(f"{what} {path}: not text in UTF-8: byte 0x{byte:02x} in line {line}") from None
    if "\0" in text:
        raise UserError(f"{what} {path}: not text: a zero byte in line {text[: text.index(chr(0))].count(chr(10)) + 1}")
    return text


def read_bytes(path: Path, what: str) -> bytes:
    """Return the content of a file that should be text in UTF-8, or in an encoding that it states itself.

    Raises:
      UserError: the file cannot be read, or is text in UTF-16 or UTF-32.
    """
    if path.is_char_device() and path.resolve() != Path("/dev/stdin").resolve():
        raise UserError(f"{what} {path}: a device, not a file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror or error}") from None
    check_encoding(content, f"{what} {path}")
    return content


def check_encoding(content: bytes, what: str) -> None:
    """Raise UserError for text in UTF-16 or UTF-32, with a byte-order mark or without."""
    encoding = next((name for mark, name in _OTHER_TEXT.items() if content.startswith(mark)), None)
    zeros = [byte == 0 for byte in content[:4]]
    if encoding is None and zeros in ([True, False] * 2, [False, True] * 2):  # a Latin letter has one of them
        encoding = "UTF-16"
    if encoding:
        raise UserError(f"{what}: text in {encoding}; save it in UTF-8")


def read_json(path: Path, what: str) -> object:
    """Return the value in a JSON file. Raises UserError if it cannot be read or is not JSON."""
    return _parsed(path, what, "JSON", json.loads)


def read_toml(path: Path, what: str) -> dict[str, object]:
    """Return the table in a TOML file. Raises UserError if it cannot be read or is not TOML."""
    return _parsed(path, what, "TOML", tomllib.loads)


def _parsed(path: Path, what: str, kind: str, parse: Callable[[str], R]) -> R:
    text = read_text(path, what)
    try:
        return parse(text)
    except RecursionError:
        raise UserError(f"{what} {path} is not {kind} that can be read: nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{what} {path} is not {kind}: {error}") from None


def check_output(path: Path, what: str) -> None:
    """Raise UserError if a file cannot be written, before the work that makes its content.

    It is opened for that: what is in it stays, and a new one is removed again.
    """
    if path.is_dir():
        raise UserError(f"{what} {path}: a folder, not a file")
    if path.exists() and not path.is_file():
        raise UserError(f"{what} {path}: a pipe or a device, not a file")
    if not path.parent.is_dir():
        raise UserError(f"{what} {path}: there is no folder {path.parent}")
    place = path.resolve()  # a link stays, even one to a file that is not there yet
    is_new = not place.exists()
    try:
        place.open("ab").close()
        if is_new:
            place.unlink()
    except OSError as error:
        raise UserError(f"{what} {path}: it cannot be written: {error.strerror or error}") from None
