"""Several hosts, one process each, found by `jax.distributed`: every host searches its own share of the seeds.

Searches need no word from each other, so once hosts know how many they are, they share nothing. A connection that is
kept would let them live and die together: JAX ends all processes when one is stopped or fails, saved or not. So a child
process joins the others and tells who it was; the searches run without a connection, and each host can be stopped and
resumed by itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax

from jaxprl.errors import UserError

_DEVICES = "jax_cuda_visible_devices"
_JOIN = f"""
import json, sys, jax
jax.config.update("jax_enable_preemption_service", False)
jax.distributed.initialize(**json.loads(sys.argv[1]))
print(json.dumps([jax.process_index(), jax.process_count(), jax.config.values["{_DEVICES}"]]), flush=True)
jax.distributed.shutdown()
"""
_MOST = 4096


@dataclasses.dataclass(frozen=True)
class Host:
    """Which one this is."""

    index: int = 0
    count: int = 1

    def share(self, seeds: Sequence[int]) -> tuple[int, ...]:
        """Return this host's seeds. Raises UserError if there are not enough for all hosts."""
        if len(seeds) < self.count:
            raise UserError(f"{len(seeds)} seeds for {self.count} hosts: every host needs one")
        return tuple(seeds[self.index :: self.count])

    @property
    def name(self) -> str:
        return f"host-{self.index}-of-{self.count}"


def join(text: str) -> Host:
    """Wait until all hosts are there, and return which one this is.

    `text`: `ADDRESS:PORT,COUNT,INDEX` (address of host 0, number of hosts, which one this is, from 0), or `auto` where
    JAX can ask the cluster (Slurm, Open MPI, Kubernetes, TPU pods), which may also share out a node's GPUs. Nothing may
    have been computed before. Raises UserError.
    """
    arguments = {} if text == "auto" else _parse(text)
    joined = subprocess.run(
        [sys.executable, "-c", _JOIN, json.dumps(arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if joined.returncode:
        reason = next((line for line in reversed(joined.stderr.splitlines()) if "Error" in line), "no answer")
        hint = "; give ADDRESS:PORT,COUNT,INDEX" if text == "auto" else ""
        raise UserError(f"hosts {text!r}: {reason.strip()[:300]}{hint}")
    index, count, devices = json.loads(joined.stdout.splitlines()[-1])
    jax.config.update(_DEVICES, devices)
    return Host(index, count)


def _parse(text: str) -> dict[str, Any]:
    match = re.fullmatch(r"\s*(\S+:[0-9]{1,5})\s*,\s*([0-9]{1,4})\s*,\s*([0-9]{1,4})\s*", text, re.ASCII)
    if not match:
        raise UserError(f"hosts {text!r}: neither auto nor ADDRESS:PORT,COUNT,INDEX, like 10.0.0.1:4000,2,0")
    address, count, index = match[1], int(match[2]), int(match[3])
    if not 1 <= count <= _MOST or index >= count:
        raise UserError(
            f"hosts {text!r}: host {index} of {count}; indices go from 0 to one less than the number of hosts"
        )
    return {"coordinator_address": address, "num_processes": count, "process_id": index}
