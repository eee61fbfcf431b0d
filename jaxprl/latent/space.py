"""The learned program space as a search sees it: latents to programs and back. Its model ships with the package.

A model file is a numpy archive: the parameters of encoder and decoder, and `about`, JSON: format, language, where the
model comes from (command, seed, steps, device, report) and the checksum of the parameters.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode as nodes_of_programs
from jaxprl.dsl.language import Language
from jaxprl.dsl.text import to_text
from jaxprl.errors import UserError
from jaxprl.latent import sequences, vae
from jaxprl.latent.grammar import Grammar
from jaxprl.worlds.karel.world import LANGUAGE as KAREL

FORMAT = 1
SHIPPED = Path(__file__).parent / "karel.npz"
"""The model for Karel's language."""
CHUNK = 512
"""Latents that are decoded together on a CPU, by one thread, or `vae.FEWEST`: more sizes take long to compile."""
WIDE_CHUNK = 2048
"""Latents that are decoded together elsewhere: always so many (`vae.free_run`)."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a model comes from."""

    command: str = ""
    seed: int = 0
    steps: int = 0
    seconds: int = 0
    device: str = ""
    report: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class LatentSpace:
    """Programs as points of R^latent; around 0, drawn from N(0, I), lie the programs of the grammar."""

    def __init__(self, grammar: Grammar, params: vae.Params, origin: Origin | None = None):
        """Take a trained model; the behaviour network is not needed here."""
        self.grammar, self.origin = grammar, origin or Origin()
        self.params = {part: params[part] for part in ("encoder", "decoder")}

    @property
    def size(self) -> int:
        """Dimensions of a latent."""
        return self.params["encoder"]["mean"]["w"].shape[0]

    @property
    def checksum(self) -> str:
        """Checksum of the parameters as they are in a model file."""
        return _checksum(_halves(self.params))

    def decode(self, latents: Any) -> tuple[jax.Array, jax.Array]:
        """Return the programs, nodes int32 [..., WIDTH], of latents float32 [..., latent], and which are valid, bool
        [...]: the others have more nodes than `WIDTH` (or, of a foreign model, no end); their nodes are no program.

        What a latent decodes to does not depend on those beside it, nor on their number.
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

    def encode(self, programs: Any) -> jax.Array:
        """Return the mean latents float32 [..., latent] of programs, nodes int32 [..., N].

        Raises UserError for programs that the space does not hold (`outside`).
        """
        programs = jnp.asarray(programs)
        latents, fine = _encode(self.grammar, self.params, programs.reshape(-1, programs.shape[-1]))
        if not bool(jnp.all(fine)):
            row = np.asarray(programs).reshape(-1, programs.shape[-1])[int(jnp.argmin(fine))]
            text = to_text(nodes_of_programs.decode(row, self.grammar.language))
            raise UserError(f"not in the learned program space: {self.outside(row)}: {text}")
        return latents.reshape(*programs.shape[:-1], -1)

    def outside(self, program: np.ndarray) -> str | None:
        """Return why a program, nodes int32 [N], is not in the space, None if it is: it is longer than the language's
        `max_tokens`, or has words that were never learned (`and`, `or`, constants, counts outside 0..19)."""
        if bool(_encode(self.grammar, self.params, jnp.asarray(program)[None])[1][0]):
            return None
        words = to_text(nodes_of_programs.decode(program, self.grammar.language)).split()
        unknown = dict.fromkeys(word for word in words if word not in self.grammar.id_of)
        if unknown:
            return f"words it never learned ({', '.join(unknown)})"
        return f"more than {self.grammar.language.max_tokens} tokens"

    def save(self, file: Path) -> None:
        """Write a model file, weights as float16."""
        arrays = _halves(self.params)
        about = {
            "format": FORMAT,
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
    def load(cls, file: Path = SHIPPED, language: Language = KAREL) -> LatentSpace:
        """Return the space of a model file, the shipped one if none is named.

        Raises UserError if the file cannot be read, is damaged, or is of another format or language.
        """
        try:
            with open(file, "rb") as stream, np.load(stream) as archive:
                arrays = {name: archive[name] for name in archive.files}
            about = json.loads(arrays.pop("about").tobytes())
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"model {file} cannot be read: {error}") from None
        if about["format"] != FORMAT:
            raise UserError(f"model {file} has format {about['format']}; this version reads format {FORMAT}")
        grammar = Grammar.of(language, every_token=about["every_token"])
        if tuple(about["words"]) != grammar.words:
            raise UserError(
                f"model {file} knows programs of the language {about['language']}; that of the task, {language.name}, "
                "has other words"
            )
        if _checksum(arrays) != about["checksum"]:
            raise UserError(f"model {file} is damaged: its checksum is another one")
        params = _nested({name: jnp.asarray(leaf, jnp.float32) for name, leaf in arrays.items()})
        return cls(grammar, params, Origin(**about["origin"]))


def _chunk_sizes(count: int) -> list[int]:
    """Return the sizes of the chunks that so many latents are decoded in; the last one may not be full."""
    if jax.default_backend() != "cpu":
        return [WIDE_CHUNK] * -(-count // WIDE_CHUNK)
    whole, rest = divmod(count, CHUNK)
    return [CHUNK] * whole + ([CHUNK] if rest > CHUNK // 2 else [vae.FEWEST] * -(-rest // vae.FEWEST))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _decode(grammar: Grammar, params: vae.Params, latents: jax.Array, in_stages: bool) -> tuple[jax.Array, jax.Array]:
    with jax.default_matmul_precision("float32"):  # accelerators round more otherwise
        tokens, ended = vae.free_run(grammar, params, latents, in_stages=in_stages)
    programs, room = jax.vmap(functools.partial(sequences.to_nodes, grammar))(tokens)
    return programs, ended & room


@functools.partial(jax.jit, static_argnums=0)
def _encode(grammar: Grammar, params: vae.Params, programs: jax.Array) -> tuple[jax.Array, jax.Array]:
    tokens, length, fine = jax.vmap(functools.partial(sequences.from_nodes, grammar))(programs)
    if grammar.every_token:  # the published encoder reads `DEF` as well
        tokens, length = jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=grammar.first), length + 1
    return vae.encode(params, tokens, length)[0], fine


def _halves(params: vae.Params) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf).astype(np.float16) for name, leaf in _flat(params).items()}


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in params.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in arrays.items():
        *path, last = name.split(".")
        place = found
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return found


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, leaf in sorted(arrays.items()):
        digest.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
