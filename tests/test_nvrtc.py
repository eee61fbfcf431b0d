"""Where kernels for a GPU cannot be compiled or run, the reason is named and the next engine runs."""

import dataclasses
import shutil
import subprocess

import jax
import numpy as np
import pytest

import jaxprl
from jaxprl.cli.main import main
from jaxprl.codegen import kept, launch, nvrtc
from jaxprl.codegen.compiler import Unavailable
from jaxprl.codegen.launch import Emulated, Gpu
from jaxprl.dsl import sample
from jaxprl.search.protocol import Neighbourhoods
from jaxprl.vm import cuda, engines
from jaxprl.vm import evaluate as door
from jaxprl.vm.kernel import gpu

COMPILER = shutil.which("cc") or shutil.which("gcc")
FAKE = """
#include <string.h>
int nvrtcVersion(int *major, int *minor) { *major = 13, *minor = 0; return 0; }
int nvrtcCreateProgram(void **program, char *text, char *name, int n, void *x, void *y) { return CREATE; }
int nvrtcCompileProgram(void *program, int n, char **flags) { return COMPILE; }
int nvrtcGetProgramLogSize(void *program, size_t *size) { *size = 64; return 0; }
int nvrtcGetProgramLog(void *program, char *log) { strcpy(log, "jaxprl.cu(1): error: too tired\\n"); return 0; }
int nvrtcGetPTXSize(void *program, size_t *size) { *size = 32; return 0; }
int nvrtcGetPTX(void *program, char *ptx) { strcpy(ptx, "// made\\n.version 9.5\\nret;"); return 0; }
int nvrtcDestroyProgram(void **program) { return 0; }
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Returns a function that has a library of a C text used instead of NVRTC; nothing is kept."""

    def use(text, **numbers):
        (tmp_path / "fake.c").write_text(text)
        defined = [f"-D{name}={number}" for name, number in {"CREATE": 0, "COMPILE": 0, **numbers}.items()]
        file = tmp_path / f"fake{len(list(tmp_path.iterdir()))}.so"
        subprocess.run([COMPILER, *defined, "-shared", "-fPIC", "-o", file, tmp_path / "fake.c"], check=True)
        monkeypatch.setenv(nvrtc.VARIABLE, str(file))

    monkeypatch.setattr(kept, "folder", lambda: tmp_path / "kernels")
    forget()
    yield use
    forget()


def forget():
    for cached in (launch._fault, gpu._kernel_of, engines._say_once):
        cached.cache_clear()


needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


@needs_compiler
def test_ptx_is_made_for_old_drivers(library):
    library(FAKE)
    assert nvrtc.compile_text("a text", 90) == "// made\n.version 8.0\nret;"
    library(FAKE, COMPILE=6)
    with pytest.raises(Unavailable):
        nvrtc.compile_text("another text", 90)
    assert len(list(kept.folder().iterdir())) == 1


@needs_compiler
@pytest.mark.parametrize(
    ("text", "numbers", "message"),
    [
        (FAKE, {"COMPILE": 6}, r"NVRTC failed with status 6: jaxprl.cu\(1\): error: too tired"),
        (FAKE, {"CREATE": 1}, "NVRTC's function nvrtcCreateProgram failed with status 1"),
        ("int nothing;", {}, "the library that should be NVRTC has no function nvrtcVersion"),
    ],
)
def test_a_library_that_fails_is_named(text, numbers, message, library):
    library(text, **numbers)
    with pytest.raises(Unavailable, match=message):
        nvrtc.compile_text("a text", 90)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv(nvrtc.VARIABLE, "/nowhere/libnvrtc.so")
    with pytest.raises(Unavailable, match=r"JAXPRL_NVRTC='/nowhere/libnvrtc\.so' cannot be loaded"):
        nvrtc.load()
    monkeypatch.setenv(nvrtc.VARIABLE, "")
    with pytest.raises(Unavailable, match="JAXPRL_NVRTC is empty: NVRTC is not to be used"):
        nvrtc.load()
    monkeypatch.delenv(nvrtc.VARIABLE)
    monkeypatch.setattr(nvrtc, "NAMES", ("libnothing.so.1",))
    nvrtc._load.cache_clear()
    with pytest.raises(Unavailable, match=r"NVRTC is not there; it comes with jax\[cuda13\]"):
        nvrtc.load()
    nvrtc._load.cache_clear()


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_without_a_gpu_the_engine_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(engines.ENGINES, "cuda", cuda.Batches)
    task = jaxprl.make("DoorKey")
    with pytest.raises(jaxprl.UserError, match="engine 'cuda' cannot run DoorKey: JAX uses no GPU here"):
        jaxprl.evaluate(task, [jaxprl.parse("DEF run m( move m)", task)], engine="cuda")
    command = ["run", "--task", "DoorKey", "--method", "hc", "--engine", "cuda", "--out", str(tmp_path / "run")]
    assert main(command) == 2
    said = capsys.readouterr()
    assert "error: engine 'cuda' cannot run DoorKey: JAX uses no GPU here" in said.err
    assert "programs are run by" not in said.out


class Broken(Gpu):
    """A GPU whose kernels do not run, or give wrong numbers."""

    reason: str | None = None

    def launch(self, code, call, operands, results):
        if self.reason is None:
            return [jax.numpy.zeros(result.shape, result.dtype) for result in results]
        raise jax.errors.JaxRuntimeError(self.reason)


@needs_compiler
@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("INTERNAL: newer PTX\nand more", "the GPU does not run kernels: INTERNAL: newer PTX$"),
        (None, "the GPU's kernels give wrong numbers"),
    ],
    ids=["an old driver", "wrong numbers"],
)
def test_the_next_engine_runs_where_the_driver_refuses(reason, said, library, monkeypatch):
    """A machine with a GPU is played here, but for the engine that XLA compiles, which is the real one."""
    library(FAKE)
    broken = type("Refused", (Broken,), {"reason": reason})(132, 90)
    monkeypatch.setitem(engines.ENGINES, "cuda", cuda.Batches)
    monkeypatch.setattr(launch.Gpu, "present", lambda: broken)
    monkeypatch.setattr(engines, "_fastest", lambda: "cuda")
    monkeypatch.setattr(engines, "_next_engine", lambda: "lanes")
    task = jaxprl.make("DoorKey")
    programs = [jaxprl.parse("DEF run m( WHILE c( frontIsClear c) w( move w) m)", task)]
    with pytest.warns(UserWarning, match=f"the engine 'cuda' cannot run DoorKey, so a slower one does: {said}"):
        found = jaxprl.evaluate(task, programs, layout_seeds=range(2))
    expected = jaxprl.evaluate(task, programs, layout_seeds=range(2), engine="plain")
    np.testing.assert_array_equal(found.calls, expected.calls)


@needs_compiler
def test_what_is_not_translated_runs_on_the_next_engine(library, monkeypatch):
    """As a task with a sort in its reward does on a GPU."""
    task = jaxprl.make("Harvester")

    def step(state, progress, action, at_limit):
        taken = task.step(state, progress, action, at_limit)
        rest = jax.numpy.sort(jax.numpy.stack([taken.units, taken.units * 0]))
        return taken._replace(units=rest[0] + rest[1])

    class Sorted(type(task)):
        def step(self, state, progress, action, at_limit):
            return step(state, progress, action, at_limit)

    other = Sorted(**{field.name: getattr(task, field.name) for field in dataclasses.fields(task)})
    monkeypatch.setitem(engines.ENGINES, "cuda", cuda.Batches)
    monkeypatch.setattr(engines, "_fastest", lambda: "cuda")
    monkeypatch.setattr(engines, "_next_engine", lambda: "lanes")
    programs = [jaxprl.parse("DEF run m( pickMarker move m)", task)]
    with launch.using(Emulated()), pytest.warns(UserWarning, match=r"cannot run Harvester.*sort"):
        found = jaxprl.evaluate(other, programs, layout_seeds=range(2))
    np.testing.assert_array_equal(found.units, jaxprl.evaluate(task, programs, layout_seeds=range(2)).units)


@needs_compiler
def test_kernels_run_where_the_innermost_choice_says():
    two, three = Emulated(threads=2), Emulated(threads=3)
    with launch.using(two):
        with launch.using(three), launch.using(two):
            assert launch.here() == two
        with launch.using(three):
            with launch.using(two):
                pass
            assert launch.here() == three
        assert launch.here() == two


@needs_compiler
def test_kernels_draw_nothing_for_no_keys():
    language = jaxprl.make("DoorKey").language
    keys = jax.random.split(jax.random.key(0, impl=sample.GENERATOR), (2, 0))
    with launch.using(Emulated()):
        nodes, changed = sample.neighbours(language, np.zeros((2, 64), np.int32), keys)
        assert sample.random_programs(language, keys[0]).shape == (0, 64)
    assert (nodes.shape, changed.shape) == ((2, 0, 64), (2, 0, 2))


@pytest.mark.parametrize("engine", ["native", "cuda"])
def test_more_layouts_than_texts_are_made_for_are_refused(engine):
    task = jaxprl.make("DoorKey")
    layouts = jax.tree.map(lambda leaf: np.resize(leaf, (40_000, *leaf.shape[1:])), task.layouts([0]))
    nodes = np.zeros((1, 64), np.int32)
    question = Neighbourhoods(nodes, nodes[None], np.ones((1, 1, 2), np.int32), np.ones(1, np.int32))
    with pytest.raises(jaxprl.UserError, match="1 searches with 1 neighbours each on 40,000 layouts: too many"):
        door.first_better(task, question, layouts, engine=engine)
