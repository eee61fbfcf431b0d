import importlib.util
import os
from pathlib import Path

import hypothesis
import jax
import pytest

from jaxprl.loops import prefer_whole_loops

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("JAXPRL_CACHE", ROOT / ".cache"))

prefer_whole_loops()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis.settings.register_profile("local", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure(config):
    # Test processes share the cache folder, and one can come upon an entry that another is still writing.
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache:UserWarning")


@pytest.fixture
def command(monkeypatch):
    """experiments/run.py as a module that leaves JAX's configuration alone."""
    spec = importlib.util.spec_from_file_location("run_command", ROOT / "experiments" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "prepare_jax", lambda: None)
    return module
