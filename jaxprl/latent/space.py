"""The learned program space: converts latents to programs and back. Its model ships with the package.

A model file is a NumPy archive. It holds the parameters of encoder and decoder, and `about`, a JSON text with the
format, the language, the origin of the model (command, seed, steps, device, report) and the checksum of the parameters.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode as nodes_of_programs
from jaxprl.dsl.language import Language
from jaxprl.errors import UserError
from jaxprl.latent import sequences, vae
from jaxprl.latent.free_run import FEWEST, free_run
from jaxprl.latent.grammar import Grammar
from jaxprl.latent.kinds import KINDS, LEAPS, Name
from jaxprl.types import JSON
from jaxprl.worlds.karel.world import LANGUAGE as KAREL
from jaxprl.xla import guarded, jit

FORMAT = 1
"""Version of the format of model files."""
SHIPPED = Path(__file__).parent / "karel.npz"
"""The model of kind `leaps` for Karel's language."""
SHIPPED_HPRL = Path(__file__).parent / "karel_hprl.npz"
"""The model of kind `hprl` for Karel's language."""
CHUNK = 512
"""Number of latents that one thread decodes together on a CPU. The rest is decoded `FEWEST` at a time, since every
further size would have to be compiled."""
WIDE_CHUNK = 2048
"""Number of latents that are decoded together on other devices. It never varies (`free_run`)."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """How a model was trained."""

    command: str = ""
    """The command line."""
    seed: int = 0
    """The seed of the training."""
    steps: int = 0
    """The number of training steps."""
    seconds: int = 0
    """The duration of the training."""
    device: str = ""
    """The device of the training, in words."""
    report: JSON = dataclasses.field(default_factory=dict)
    """The quality of the model (`quality.full_report`)."""


class LatentSpace:
    """Programs as points of a real vector space.

    Actions drawn from the normal distribution N(0, I) have latents that decode to programs like those that the grammar
    draws. In a space of kind `leaps` an action is the latent itself; in one of kind `hprl` the latent is its tanh, so
    that latents lie in (-1, 1)^D.

    Args:
      grammar: the grammar of the model's sequences.
      params: the parameters of the model. The behaviour network is not needed.
      origin: how the model was trained.
      kind: the kind of the space, `leaps` or `hprl`.
    """

    def __init__(self, grammar: Grammar, params: vae.Params, origin: Origin | None = None, kind: Name = LEAPS.name):
        self.grammar, self.origin, self.kind = grammar, origin or Origin(), kind
        self.params = {part: params[part] for part in ("encoder", "decoder")}

    @property
    def size(self) -> int:
        """Number of dimensions of a latent."""
        return self.params["encoder"]["mean"]["w"].shape[0]

    @property
    def checksum(self) -> str:
        """Checksum of the parameters, as in a model file: hexadecimal digits."""
        return _checksum(_halves(self.params))

    @guarded
    def latent_of(self, action: np.ndarray | jax.Array) -> jax.Array:
        """Return the latents of actions: their tanh in a space of kind `hprl`, the actions themselves in others.

        Args:
          action: float32 [..., latent].

        Returns:
          float32 [..., latent].
        """
        return KINDS[self.kind].latent_of(jnp.asarray(action))

    @guarded
    def action_of(self, latent: np.ndarray | jax.Array) -> jax.Array:
        """Return the actions of latents, the inverse of `latent_of`.

        Args:
          latent: float32 [..., latent]. Entries close to 1 or -1 have the action of the last number before.

        Returns:
          float32 [..., latent].
        """
        return KINDS[self.kind].action_of(jnp.asarray(latent))

    @guarded
    def decode(self, latents: np.ndarray | jax.Array) -> tuple[jax.Array, jax.Array]:
        """Decode latents to programs.

        The program of a latent depends neither on the other latents nor on their number.

        Args:
          latents: float32 [..., latent], points of the space (`latent_of`).

        Returns:
          The nodes of the programs, int32 [..., WIDTH], and which of them are valid, bool [...]. A program is not valid
          if it has more than `WIDTH` nodes or, with a foreign model, no end; its nodes do not form a program then.

        Example:
          >>> space = LatentSpace.load()
          >>> programs, valid = space.decode(np.zeros((1, space.size), np.float32))
          >>> valid.tolist(), str(nodes_of_programs.decode(np.asarray(programs[0]), KAREL)).split()[:3]
          ([True], ['DEF', 'run', 'm('])
        """
        latents = np.asarray(latents)
        shape = latents.shape[:-1]
        rows = latents.reshape(-1, latents.shape[-1])
        if not len(rows):
            return jnp.zeros((*shape, nodes_of_programs.WIDTH), jnp.int32), jnp.zeros(shape, bool)
        sizes = _chunk_sizes(len(rows))
        chunks = [rows[end - size : end] for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)]
        with ThreadPoolExecutor(os.cpu_count()) as threads:  # compiled code does not hold Python's lock
            parts = list(threads.map(self._decode_chunk, chunks, sizes))
        programs, valid = (np.concatenate(leaves) for leaves in zip(*parts, strict=True))
        return jnp.asarray(programs.reshape(*shape, -1)), jnp.asarray(valid.reshape(shape))

    def _decode_chunk(self, rows: np.ndarray, size: int) -> list[np.ndarray]:
        padded = np.pad(rows, ((0, size - len(rows)), (0, 0)))
        in_stages = jax.default_backend() == "cpu"
        return [np.asarray(leaf)[: len(rows)] for leaf in _decode(self.grammar, self.params, padded, in_stages)]

    @guarded
    def encode(self, programs: np.ndarray | jax.Array) -> jax.Array:
        """Encode programs to the latents of their means.

        Args:
          programs: nodes, int32 [..., N].

        Returns:
          float32 [..., latent].

        Raises:
          UserError: if a program is not in the space (`outside`).
        """
        programs = jnp.asarray(programs)
        means, fine = _encode(self.grammar, self.params, programs.reshape(-1, programs.shape[-1]))
        if not bool(jnp.all(fine)):
            row = np.asarray(programs).reshape(-1, programs.shape[-1])[int(jnp.argmin(fine))]
            text = str(nodes_of_programs.decode(row, self.grammar.language))
            raise UserError(f"not in the learned program space: {self.outside(row)}: {text}")
        return self.latent_of(means).reshape(*programs.shape[:-1], -1)

    @guarded
    def outside(self, program: np.ndarray) -> str | None:
        """Return why a program is not in the space.

        A program is not in the space if it is longer than the language's `max_tokens`, or if it has words that were
        never learned (`and`, `or`, constants, counts outside 0..19, in a space of kind `hprl` outside 2..5).

        Args:
          program: nodes, int32 [N].

        Returns:
          The reason in words, or None if the program is in the space.
        """
        if bool(_encode(self.grammar, self.params, jnp.asarray(program)[None])[1][0]):
            return None
        words = str(nodes_of_programs.decode(program, self.grammar.language)).split()
        unknown = dict.fromkeys(word for word in words if word not in self.grammar.id_of)
        if unknown:
            return f"words it never learned ({', '.join(unknown)})"
        return f"more than {self.grammar.language.max_tokens} tokens"

    def save(self, file: Path) -> None:
        """Write a model file. The parameters are stored as float16."""
        arrays = _halves(self.params)
        about = {
            "format": FORMAT,
            "kind": self.kind,
            "language": self.grammar.language.name,
            "words": self.grammar.words,
            "every_token": self.grammar.every_token,
            "checksum": _checksum(arrays),
            "origin": dataclasses.asdict(self.origin),
        }
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        with open(file, "wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    @classmethod
    @guarded
    def load(cls, file: Path = SHIPPED, language: Language = KAREL) -> LatentSpace:
        """Read a model file.

        Args:
          file: the file; by default the model of kind `leaps` that ships with the package.
          language: the language of the task that the programs are for.

        Returns:
          The space.

        Raises:
          UserError: if the file cannot be read, is damaged, or has another format or language.
        """
        arrays, about = _content(file)
        if about["format"] != FORMAT:
            raise UserError(f"model {file} has format {about['format']}; this version reads format {FORMAT}")
        kind = about.get("kind", LEAPS.name)  # files from before there were kinds do not say it
        if kind not in tuple(KINDS):  # of a foreign file, where it may be a list
            raise UserError(f"model {file} is a space of kind {kind!r}; this version knows {', '.join(KINDS)}")
        grammar = Grammar.of(KINDS[kind].language(language), every_token=about["every_token"])
        if tuple(about["words"]) != grammar.words:
            raise UserError(
                f"model {file} knows programs of the language {about['language']}; that of the task, {language.name}, "
                "has other words; methods without a program space, like hc, take every task"
            )
        if _checksum(arrays) != about["checksum"]:
            raise UserError(f"model {file} is damaged: its checksum is another one")
        params = _nested({name: jnp.asarray(leaf, jnp.float32) for name, leaf in arrays.items()})
        return cls(grammar, params, Origin(**about["origin"]), kind)


_ABOUT = {"format": int, "language": str, "words": list, "every_token": bool, "checksum": str, "origin": dict}
"""The entries of `about`."""


def _content(file: Path) -> tuple[dict[str, np.ndarray], JSON]:
    """Return the arrays of a model file and its `about`. Raises UserError if there are none, or not all of them."""
    begin = b""
    try:
        with open(file, "rb") as stream:
            begin = stream.read(2)
            stream.seek(0)
            if begin == b"PK":  # of an archive
                with np.load(stream) as archive:
                    arrays = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise UserError(f"model {file} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"model {file} cannot be read, it is damaged: {error}") from None
    if begin != b"PK":
        content = "other content" if begin else "an empty file"
        raise UserError(
            f"model {file} cannot be read: {content}, where a NumPy archive (.npz) was expected; `jaxprl convert` "
            "makes one of PyTorch weights"
        )
    try:
        about = json.loads(arrays.pop("about").tobytes())
        complete = all(isinstance(about[name], kind) for name, kind in _ABOUT.items())
        Origin(**about["origin"])
        complete &= all(any(name.startswith(part) for name in arrays) for part in ("encoder.", "decoder."))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        complete = False
    if not complete:
        raise UserError(
            f"model {file} cannot be read: an archive, but not that of a program space; `jaxprl convert` makes one of "
            "PyTorch weights"
        )
    return arrays, about


def _chunk_sizes(count: int) -> list[int]:
    """Return the sizes of the chunks in which `count` latents are decoded; the last chunk may not be full.

    On a CPU, 1,100 latents take two chunks of 512, and two of 64 for the 76 that are left. If more than 256 are left,
    they take another chunk of 512, of which less than half is padding.
    """
    if jax.default_backend() != "cpu":
        return [WIDE_CHUNK] * -(-count // WIDE_CHUNK)
    whole, rest = divmod(count, CHUNK)
    return [CHUNK] * whole + ([CHUNK] if rest > CHUNK // 2 else [FEWEST] * -(-rest // FEWEST))


@jit(per="grammar", static_argnames=("grammar", "in_stages"))
def _decode(grammar: Grammar, params: vae.Params, latents: jax.Array, in_stages: bool) -> tuple[jax.Array, jax.Array]:
    """Return the nodes of latents [B, latent], and which of them are valid."""
    with jax.default_matmul_precision("float32"):  # by default, accelerators round the factors of products
        tokens, ended = free_run(grammar, params, latents, in_stages=in_stages)
    programs, room = jax.vmap(functools.partial(sequences.to_nodes, grammar))(tokens)
    return programs, ended & room


@jit(per="grammar", static_argnames="grammar")
def _encode(grammar: Grammar, params: vae.Params, programs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean latents of programs [P, N], and which of the programs are in the space."""
    tokens, length, fine = jax.vmap(functools.partial(sequences.from_nodes, grammar))(programs)
    if grammar.every_token:  # the published encoder reads `DEF` as well
        tokens, length = jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=grammar.first), length + 1
    return vae.encode(params, tokens, length)[0], fine


def _halves(params: vae.Params) -> dict[str, np.ndarray]:
    """Return the parameters as they are stored: float16, by dotted names like "encoder.gru.w_i"."""
    return {name: np.asarray(leaf).astype(np.float16) for name, leaf in _flat(params).items()}


def _flat(params: vae.Params, prefix: str = "") -> dict[str, jax.Array]:
    """Return the arrays of nested dictionaries by dotted names."""
    arrays: dict[str, jax.Array] = {}
    for name, value in params.items():
        arrays |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return arrays


def _nested(arrays: Mapping[str, jax.Array]) -> vae.Params:
    """Return the nested dictionaries of arrays by dotted names: the inverse of `_flat`."""
    params: vae.Params = {}
    for name, value in arrays.items():
        *path, last = name.split(".")
        place = params
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return params


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of arrays with their names, types and shapes, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, leaf in sorted(arrays.items()):
        digest.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
