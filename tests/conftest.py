import os
from pathlib import Path

import hypothesis
import jax
import pytest
from compiled import MISSING

from jaxprl.cli import run as run_command
from jaxprl.xla import let_go, prefer_whole_loops

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


# Most of what the default tests cost is compiling, so there XLA compiles with few of LLVM's optimizations. Golden
# values (`golden.evaluated`) and processes, which do not know of this setting, are compiled as users have it, and so is
# everything in full tests.
FEW_OPTIMIZATIONS = "jax_disable_most_optimizations"


def pytest_configure(config):
    jax.config.update(FEW_OPTIMIZATIONS, config.option.markexpr == "not full")
    for unfinished in UNFINISHED:
        config.addinivalue_line("filterwarnings", unfinished)


def pytest_collection_modifyitems(items):
    """Leave out tests of the engine `native` where there is no C compiler."""
    missing = MISSING - {"plain"}
    for item in items if missing else ():
        params = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if any(isinstance(value, str | tuple) and engine in value for value in params for engine in missing):
            item.add_marker(pytest.mark.skip(reason="there is no compiler"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """In the default run the tests of a file go to one worker, so that what they share is made and compiled once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log) if config.option.markexpr == "not full" else None


def pytest_runtest_teardown():
    let_go()  # as what runs programs does, which not every test comes to


@pytest.fixture
def command(monkeypatch):
    """The command `jaxprl run` as a module that leaves JAX's configuration alone."""
    monkeypatch.setattr(run_command, "prepare_jax", lambda: None)
    return run_command


@pytest.fixture
def enlarged(monkeypatch):
    """Slots of the larger memories of the engines that do one run after the other, as they were needed."""
    from jaxprl.vm import cuda, native, sequential
    from jaxprl.vm.machine import GROWTH

    slots = []
    for engine in (native.Batches, sequential.Batches, cuda.Batches):

        def counted(batches, *nodes, enlarge=engine._enlarged):
            slots.append(batches.slots * GROWTH)
            return enlarge(batches, *nodes)

        monkeypatch.setattr(engine, "_enlarged", counted)
    return slots
