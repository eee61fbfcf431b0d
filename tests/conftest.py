import os
from pathlib import Path

import hypothesis
import jax
import pytest

from jaxprl.cli import run as run_command
from jaxprl.xla import prefer_whole_loops

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("JAXPRL_CACHE", ROOT / ".cache"))

prefer_whole_loops()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# What one process has compiled the others need not, be they test processes or started by tests; and none of them is in
# the user's cache. One can come upon an entry that another is still writing.
KEPT = {
    "jax_compilation_cache_dir": str(CACHE / "jax"),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
UNFINISHED = [f"ignore:Error {doing} persistent compilation cache:UserWarning" for doing in ("reading", "writing")]
for name, value in KEPT.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)
os.environ["PYTHONWARNINGS"] = ",".join(UNFINISHED)

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis.settings.register_profile("local", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure(config):
    for unfinished in UNFINISHED:
        config.addinivalue_line("filterwarnings", unfinished)


@pytest.fixture
def command(monkeypatch):
    """The command `jaxprl run` as a module that leaves JAX's configuration alone."""
    monkeypatch.setattr(run_command, "prepare_jax", lambda: None)
    return run_command
