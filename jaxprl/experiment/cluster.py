"""Several hosts, one process each, found by `jax.distributed`: every host searches its own share of the seeds.

Searches do not depend on each other, so once the hosts know how many they are, they exchange nothing. A lasting
connection would do harm: JAX ends all processes when one of them stops or fails, whether the others have saved or not.
So a child process joins the others and reports which host it is; the searches run without a connection, and each host
can be stopped and resumed by itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence

import jax

from jaxprl.errors import UserError
from jaxprl.types import JSON

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
    """One of several hosts."""

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
    """Wait until all hosts have joined, and return which one this is.

    Nothing may have been computed before.

    Args:
      text: `ADDRESS:PORT,COUNT,INDEX`: the address of host 0, the number of hosts, and the index of this one, from 0.
        Or `auto`, where JAX can ask the cluster (Slurm, Open MPI, Kubernetes, TPU pods), which may also assign a node's
        GPUs.

    Raises:
      UserError: the text is malformed, or the hosts do not find each other.
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


def _parse(text: str) -> JSON:
    match = re.fullmatch(r"\s*(\S+:[0-9]{1,5})\s*,\s*([0-9]{1,4})\s*,\s*([0-9]{1,4})\s*", text, re.ASCII)
    if not match:
        raise UserError(f"hosts {text!r}: neither auto nor ADDRESS:PORT,COUNT,INDEX, like 10.0.0.1:4000,2,0")
    address, count, index = match[1], int(match[2]), int(match[3])
    if not 1 <= int(address.rpartition(":")[2]) < 2**16:
        raise UserError(f"hosts {text!r}: ports go from 1 to {2**16 - 1}")
    if not 1 <= count <= _MOST or index >= count:
        raise UserError(
            f"hosts {text!r}: host {index} of {count}; indices go from 0 to one less than the number of hosts"
        )
    return {"coordinator_address": address, "num_processes": count, "process_id": index}
