"""What surrounds a process: devices, flags, homes, folders, encodings. What is lacking is said or done without."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jaxprl import caches, xla
from jaxprl.errors import UserError
from jaxprl.runs.checkpoint import Checkpoints
from jaxprl.runs.record import RunDirectory

ROOT = Path(__file__).parent.parent
JAXPRL = (sys.executable, "-m", "jaxprl")
EVALUATE = ("evaluate", "--task", "Maze", "--layout-seeds", "0", "--programs", "-")
TRACE = ("trace", "--task", "Maze", "--program", "DEF run m( move m)")
RUN = ("run", "--task", "Seeder", "--method", "hc", "--seeds", "3,4", "--layouts", "0-3", "--budget", "300")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def call(*words, cwd=ROOT, without=(), **environment):
    """Run a command in other surroundings; return its exit code, standard output and standard error."""
    kept = {name: value for name, value in os.environ.items() if name not in without}
    done = subprocess.run([*JAXPRL, *map(str, words)], cwd=cwd, capture_output=True, check=False,
                          stdin=subprocess.DEVNULL, env=kept | {"PYTHONPATH": str(ROOT)} | environment)  # fmt: skip
    told = done.stderr.decode(errors="backslashreplace")
    assert "Traceback" not in told
    return done.returncode, done.stdout.decode(errors="backslashreplace"), told


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"JAX_PLATFORMS": "nonsense"}, "error: JAX_PLATFORMS='nonsense': Unable to initialize backend 'nonsense'"),
        ({"JAX_PLATFORM_NAME": "nonsense"}, "error: JAX_PLATFORM_NAME='nonsense': Unknown backend nonsense"),
        ({"XLA_FLAGS": "--xla_nonsense=1"}, "error: XLA does not take XLA_FLAGS='--xla_nonsense=1': Unknown flag"),
        ({"JAX_ENABLE_X64": "perhaps"}, "error: JAX cannot be imported: invalid truth value 'perhaps'"),
        ({"JAX_THREEFRY_PARTITIONABLE": "0"}, "error: JAX_THREEFRY_PARTITIONABLE=0 gives other random numbers"),
        *(
            pytest.param(environment, reason, marks=pytest.mark.full)
            for environment, reason in (
                ({"JAX_RANDOM_SEED_OFFSET": "5"}, "error: JAX_RANDOM_SEED_OFFSET=5 gives other random numbers"),
                ({"JAX_PLATFORMS": "rocm"}, "error: JAX_PLATFORMS='rocm': "),
                ({"JAX_PLATFORMS": "tpu"}, "error: JAX_PLATFORMS='tpu': Unable to initialize backend 'tpu'"),
                ({"JAX_PLATFORMS": "nonsense,rocm"}, "error: JAX_PLATFORMS='nonsense,rocm': "),
                ({"JAX_DEFAULT_MATMUL_PRECISION": "no"}, 'error: JAX cannot be imported: Invalid value "no" for'),
                ({"XLA_FLAGS": "no-such-file"}, "error: XLA_FLAGS names a file of flags, 'no-such-file': No such file"),
            )
        ),
    ],
)
def test_devices_and_flags_that_there_are_not_are_named(environment, reason):
    code, printed, told = call(*EVALUATE, **environment)
    assert (code, printed) == (2, "")
    assert told.splitlines()[-1].startswith(reason), told


def test_a_cuda_that_is_not_there_is_named(tmp_path):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    code, _, told = call(*RUN, "--out", tmp_path / "out", JAX_PLATFORMS="cuda")
    assert code == 2
    assert told.splitlines()[-1].startswith("error: JAX_PLATFORMS='cuda': "), told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        ("--xla_dump_to=x\n", f"{xla._FLAG} --xla_dump_to=x"),
        (" # no flag\n--xla_dump_to=x --a=1", f"{xla._FLAG}  # no flag\n--xla_dump_to=x --a=1"),
        ("", xla._FLAG),
        ("--xla_backend_extra_options=a=1", None),
    ],
)
def test_a_file_of_flags_is_read(tmp_path, monkeypatch, content, flags):
    file = tmp_path / "flags of mine"
    file.write_text(content)
    monkeypatch.setenv("XLA_FLAGS", str(file))
    for _ in range(2):
        xla.prefer_whole_loops()
        assert os.environ["XLA_FLAGS"] == (str(file) if flags is None else flags)


def test_a_file_of_flags_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "binary").write_bytes(b"--a\0")
    for name, reason in {"none": "No such file", "binary": "is not a text", ".": "Is a directory"}.items():
        monkeypatch.setenv("XLA_FLAGS", str(tmp_path / name))
        with pytest.raises(UserError, match=f"XLA_FLAGS names a file of flags, .*: .*{reason}"):
            xla.prefer_whole_loops()


def test_xlas_own_word_on_its_flags_is_passed_on(tmp_path, monkeypatch):
    for flags, reason in {
        "--xla_cpu_multi_thread_eigen=perhaps": "Couldn't interpret value perhaps",
        f"--xla_dump_to=x --xla_nonsense {xla._FLAG}": r"'--xla_dump_to=x --xla_nonsense': Unknown flag.*xla_nonsense",
        "-xla_dump_to=x": "Unknown flag",
    }.items():
        monkeypatch.setenv("XLA_FLAGS", flags)
        with pytest.raises(UserError, match=reason):
            xla.check_flags()
    (tmp_path / "flags").write_text("--xla_force_host_platform_device_count=3")
    for flags in ("", xla._FLAG, f"--xla_dump_to=x {xla._FLAG}", str(tmp_path / "flags")):
        monkeypatch.setenv("XLA_FLAGS", flags)
        xla.check_flags()


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    caches._usable.cache_clear()
    yield folder
    caches._usable.cache_clear()


def test_caches_are_where_they_can_be(tmp_path, monkeypatch, temporary, capsys):
    home, file = tmp_path / "home", tmp_path / "file"
    file.touch()

    def where(**environment):
        for name in ("HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        return caches.cache_folder(), capsys.readouterr().err

    monkeypatch.chdir(tmp_path)
    assert where(HOME=home) == (home / ".cache" / "jaxprl", "")
    assert where(HOME=home, XDG_CACHE_HOME=tmp_path / "xdg") == (tmp_path / "xdg" / "jaxprl", "")
    assert where(HOME=home, XDG_CACHE_HOME="relative") == (home / ".cache" / "jaxprl", "")
    assert not (tmp_path / "relative").exists()
    own = temporary / f"jaxprl-{os.getuid()}"
    for environment, reason in (
        ({"HOME": file}, f"note: {file}/.cache/jaxprl: Not a directory; caches are in {own}"),
        ({"HOME": home, "XDG_CACHE_HOME": file}, f"note: {file}/jaxprl: "),
        ({"HOME": "relative"}, "note: there is no home directory; caches are in"),
    ):
        folder, told = where(**environment)
        assert folder == own
        assert told.startswith(reason), told
        assert where(**environment) == (own, "")  # said once
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)  # another user could put code there
    caches._usable.cache_clear()
    folder, _ = where(HOME=file)
    assert folder != own
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_user_without_home_or_entry_runs(tmp_path, temporary):
    user = ["unshare", "--user", "--map-user=54321"]
    if shutil.which("unshare") is None or subprocess.run([*user, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no other user can be had here")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HOME", "XDG_", "JAX_"))}
    done = subprocess.run([*user, *JAXPRL, *TRACE], cwd=ROOT, capture_output=True, text=True, check=False,
                          env=environment | {"TMPDIR": str(temporary)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    place = temporary / "jaxprl-54321"
    assert done.stderr == (
        f"note: there is no home directory; caches are in {place} (XDG_CACHE_HOME can name another place)\n"
    )
    assert place.is_dir()


TASK = """
import dataclasses
from jaxprl.worlds import registry
from jaxprl.worlds.make import make
registry.register(dataclasses.replace(make("Seeder"), name="Zäun"))
"""


UNSET = ("PYTHONIOENCODING", *(name for name in os.environ if name.startswith(("LC_", "LANG"))))


@pytest.fixture
def named(tmp_path):
    """A task whose name and whose file's name are not ASCII."""
    (tmp_path / "täsk.py").write_text(TASK, encoding="utf-8")
    return f"{tmp_path}/täsk.py:Zäun"


def test_names_that_cannot_be_printed_are_escaped(tmp_path, named):
    words = [*RUN, "--checkpoint-every", "100", "--out", tmp_path / "é"]
    code, printed, told = call(*words, without=UNSET, **ASCII)
    assert code == 0, told
    assert printed.isascii()
    assert "/\\udcc3\\udca9" in printed.splitlines()[0]
    code, _, told = call(*TRACE[:2], named.replace("Zäun", "Zaun"), *TRACE[3:], without=UNSET, **ASCII)
    assert code == 2
    assert "has no task 'Zaun'; there is" in told
    assert "t\\xe4sk.py:Z\\xe4un" in told
    (tmp_path / "sweep.json").write_text(f'{{"grid": [{{"tasks": ["{named}"], "methods": ["hc"]}}]}}')
    code, _, told = call("sweep", tmp_path / "sweep.json", JAX_PLATFORMS="nonsense")  # its task is tried out first
    assert code == 2
    assert told.splitlines()[-1].startswith("error: JAX_PLATFORMS='nonsense': ")
    code, _, told = call("sweep", tmp_path / "sweep.json", without=UNSET, **ASCII)
    assert code == 2
    assert told.endswith("t\\xe4sk.py' is no name in ascii: PYTHONUTF8=1 takes names in UTF-8\n")


@pytest.mark.full
@pytest.mark.parametrize("setting", [ASCII, {"PYTHONIOENCODING": "ascii"}])
def test_a_task_whose_name_cannot_be_printed_is_searched(tmp_path, named, setting):
    words = ["run", "--task", named, *RUN[3:], "--checkpoint-every", "100", "--out", tmp_path / "é"]
    code, printed, told = call(*words, without=UNSET, **setting)
    assert code == 0, told
    assert printed.isascii()
    assert json.loads((tmp_path / "é" / "seed-3" / "result.json").read_text())["task"] == "Zäun"


def test_checkpoints_are_saved_below_a_name_that_is_no_text(tmp_path):
    try:
        directory = RunDirectory(tmp_path / os.fsdecode(b"run-\xff"), {})
    except UserError:
        pytest.skip("this file system has no such names")
    from test_checkpoints import Saved, state

    checkpoints = Checkpoints(directory)
    for seconds in (1, 2):
        checkpoints.save(Saved(state(1), {"seconds": seconds}))
    assert checkpoints.load().facts["seconds"] == 2
    checkpoints.close()
    directory.close()


def test_a_run_goes_on_without_current_directory_and_temporary_files(tmp_path):
    gone, out = tmp_path / "gone", tmp_path / "out"
    gone.mkdir()
    shell = ["bash", "-c", f'rmdir {gone} && exec "$0" "$@"', *JAXPRL, *RUN, "--checkpoint-every", "100", "--out", out]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "none")}
    done = subprocess.run(shell, cwd=gone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(out.glob("seed-*/result.json"))) == 2
    gone.mkdir()
    shell[2:] = [f'rmdir {gone} && exec "$0" "$@"', *JAXPRL, *RUN, "--out", "relative"]
    done = subprocess.run(shell, cwd=gone, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "error: relative: No such file or directory")
