"""Searches survive kills, signals, damaged checkpoints and full disks: they leave what unbroken ones do."""

import dataclasses
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from records import left_by

from jaxprl.errors import Stopped, UserError
from jaxprl.experiment import ledger
from jaxprl.experiment.config import Config
from jaxprl.experiment.job import identity, resolve
from jaxprl.experiment.run import run
from jaxprl.llm import answers
from jaxprl.runs import checkpoint
from jaxprl.runs.checkpoint import Checkpoints, Every, Saved
from jaxprl.runs.record import RunDirectory, read_lines
from jaxprl.search.protocol import search_keys

ROOT = Path(__file__).parent.parent
RUNS = {
    "hc-karel": "--task Seeder --method hc --seeds 0-1 --budget 1500 --layouts 0-3",
    "llm-gs-minigrid": "--task PutNear --method llm-gs --seeds 0-1 --budget 1500 --layouts 0-3",
    "llm-gs-karel": "--task Seeder --method llm-gs --seeds 3,1 --budget 1500 --layouts 0-1",
    "leaps": "--task Seeder --method leaps --seeds 0-1 --budget 1500 --layouts 0-3",
    "latent-hc": "--task Seeder --method latent-hc --llm recorded --seeds 3,1 --budget 1500 --layouts 0-1",
    "hc-parts": "--task Seeder --method hc --neighbourhood parts --seeds 0-1 --budget 1500 --layouts 0-1",
    "hprl": "--task Seeder --method hprl --seeds 0-1 --budget 1500 --layouts 0-3 --episodes 64",
    "hc-minigrid": "--task PutNear --method hc --seeds 5 --budget 11000 --layouts 0-1",
}


def command(name: str, out: Path, *words: str) -> list[str]:
    return [sys.executable, "experiments/run.py", *RUNS[name].split(), "--out", str(out), *words]


def start(name: str, out: Path, *words: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(command(name, out, *words), cwd=ROOT, env=os.environ | environment, text=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip


def finish(name: str, out: Path, *words: str, code: int = 0, **environment: str) -> str:
    """Run to the end and return what was said on standard error; the exit code is checked."""
    process = start(name, out, *words, **environment)
    told = process.communicate()[1]
    assert process.returncode == code, told
    assert "Traceback" not in told
    return told


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What a run leaves, by its name, and the seconds that it took."""
    known = {}

    def get(name: str) -> tuple[dict, float]:
        if name not in known:
            began = time.monotonic()
            out = tmp_path_factory.mktemp(name) / "out"
            finish(name, out)
            known[name] = left_by(out), time.monotonic() - began
        return known[name]

    return get


def wait_for(happened, process: subprocess.Popen, seconds: float = 60) -> None:
    """Wait until something has happened, or the process has ended."""
    until = time.monotonic() + seconds
    while not happened() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.001)


def is_saving(out: Path):
    return lambda: any((out / "checkpoints").glob("*.saving"))


def kill_once(name: str, out: Path, rng: random.Random, seconds: float) -> bool:
    """Kill a run at a random moment, every other time in the middle of a save; return whether it was killed."""
    saving = rng.random() < 0.5
    words = ("--checkpoint-every", str(rng.choice([1, 300])), *(["--resume"] if out.exists() else []))
    process = start(name, out, *words)
    if saving:
        for _ in range(rng.randrange(1, 4)):
            wait_for(lambda: not is_saving(out)(), process)
            wait_for(is_saving(out), process)
        time.sleep(rng.random() * 0.06)
    else:
        until = time.monotonic() + rng.random() * seconds
        wait_for(lambda: time.monotonic() > until, process)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "name",
    [
        "hc-karel",
        *(pytest.param(name, marks=pytest.mark.full) for name in ("llm-gs-minigrid", "leaps", "hc-parts", "hprl")),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, unbroken, name):
    want, seconds = unbroken(name)
    rng = random.Random(name)
    out = tmp_path / "out"
    kill_once(name, out, rng, seconds)
    assert "damaged" not in finish(name, out, "--resume")
    assert left_by(out) == want


@pytest.mark.full
@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("name", RUNS)
def test_twenty_times_five_kills(tmp_path, unbroken, name, first):
    want, seconds = unbroken(name)
    rng = random.Random(first)
    kills = 0
    while kills < 5:
        out = tmp_path / str(rng.random())
        if kill_once(name, out, rng, seconds):
            kills += 1
            assert "damaged" not in finish(name, out, "--resume")
            assert left_by(out) == want


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("hc-karel", 1),
        *(pytest.param("llm-gs-minigrid", devices, marks=pytest.mark.full) for devices in (1, 4)),
    ],
)
def test_other_devices_and_threads_go_on_alike(tmp_path, unbroken, name, devices):
    out = tmp_path / "out"
    process = start(name, out, "--checkpoint-every", "300")
    wait_for((out / "checkpoints" / "3").exists, process)
    process.kill()
    process.communicate()
    virtual = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"} if devices > 1 else {}
    finish(name, out, "--resume", "--devices", "3", **virtual)
    assert json.loads((out / "env.json").read_text())["devices"] == devices
    assert left_by(out) == unbroken(name)[0]


def test_llm_gs_goes_on_after_a_stop(tmp_path, monkeypatch):
    """Within this process; `llm-gs` in `RUNS` is the same with signals."""
    monkeypatch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_004))
    config, asked = Config("DoorKey", "llm-gs", (0, 1), budget=600, layouts=range(4)), itertools.count()
    run(config, tmp_path / "whole")

    class Later:
        @property
        def signal(self) -> signal.Signals | None:
            return signal.SIGTERM if next(asked) > 3 else None

    with pytest.raises(Stopped):
        run(config, tmp_path / "stopped", stop=Later())
    assert 0 < read_lines(tmp_path / "stopped" / "metrics.jsonl")[-1]["evaluated"] < 600
    run(config, tmp_path / "stopped", resume=True)
    assert left_by(tmp_path / "stopped") == left_by(tmp_path / "whole")


def stop_and_go_on(name, out, want, moment, sent, **environment):
    process = start(name, out, "--checkpoint-every", "200", **environment)
    moments = {
        "compilation": (out / "env.json").exists,
        "evaluation": lambda: (out / "programs.jsonl").exists() and (out / "programs.jsonl").stat().st_size,
        "saving": is_saving(out),
    }
    wait_for(moments[moment], process)
    began = time.monotonic()
    process.send_signal(sent)
    told = process.communicate(timeout=10)[1]
    assert time.monotonic() - began < 10
    assert process.returncode == {signal.SIGTERM: 75, signal.SIGINT: 130}[sent]
    assert "--resume" in told
    assert "Traceback" not in told
    assert "damaged" not in finish(name, out, "--resume")
    assert left_by(out) == want


def test_a_signal_saves_and_stops(tmp_path, unbroken):
    want = unbroken("hc-karel")[0]
    stop_and_go_on("hc-karel", tmp_path / "out", want, "evaluation", signal.SIGTERM)


@pytest.mark.full
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["compilation", "evaluation", "saving"])
@pytest.mark.parametrize("name", ["hc-karel", "llm-gs-minigrid"])
def test_a_signal_at_any_moment_saves_and_stops(tmp_path, unbroken, name, moment, sent):
    fresh = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")} if moment == "compilation" else {}
    stop_and_go_on(name, tmp_path / "out", unbroken(name)[0], moment, sent, **fresh)


def test_a_second_signal_ends_at_once_even_in_compiled_code(tmp_path):
    code = (
        "import ctypes\nfrom jaxprl.runs.signals import StopRequest\n"
        "with StopRequest(patience=float(__import__('sys').argv[1])):\n"
        "    print('in', flush=True)\n    [ctypes.CDLL(None).sleep(60) for _ in 'ab']\n"
    )
    for patience, sent, wanted in (("60", [signal.SIGTERM, signal.SIGINT], 130), ("0.2", [signal.SIGTERM], 75)):
        process = subprocess.Popen([sys.executable, "-c", code, patience], text=True, cwd=ROOT,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        assert process.stdout.readline() == "in\n"
        for each in sent:
            process.send_signal(each)
            time.sleep(0.1)
        process.communicate(timeout=10)
        assert process.returncode == wanted


def test_the_same_signal_again_at_once_is_no_second_one():
    code = (
        "import os, signal, sys, time\nfrom jaxprl.runs.signals import StopRequest\n"
        "with StopRequest() as stop:\n"
        "    for pause in map(float, sys.argv[1:]):\n"
        "        time.sleep(pause)\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.2)\n    print(stop.signal.name)"
    )
    for pauses, wanted in ((["0", "0.1", "0.1"], 0), (["0", "1.2"], 143)):
        done = subprocess.run([sys.executable, "-c", code, *pauses], capture_output=True, text=True, check=False)
        assert done.returncode == wanted
        assert done.stdout == ("" if wanted else "SIGTERM\n")


@pytest.fixture
def directory(tmp_path):
    made = RunDirectory(tmp_path / "run", {"seeds": [0], "answer": {"0": "ab", "1": "cd"}})
    yield made
    made.close()


def state(number: int) -> dict[str, np.ndarray]:
    key = search_keys([number, 1])
    return checkpoint.flat({"key": key, "n": np.arange(40, dtype=np.int32) * number, "done": np.array([True])}, "s")


@pytest.fixture
def saved(directory):
    """Three checkpoints, and lines of a record after each."""
    checkpoints = Checkpoints(directory)
    for number in (1, 2, 3, 4):
        directory.append("metrics.jsonl", {"seed": 0, "n": number})
        checkpoints.save(Saved(state(number), {"seconds": number / 3}))
    directory.append("metrics.jsonl", {"seed": 0, "n": 5})
    checkpoints.close()
    return directory


def test_the_newest_checkpoint_comes_back_and_three_are_kept(saved):
    checkpoints = Checkpoints(saved)
    found = checkpoints.load()
    assert found.facts["seconds"] == 4 / 3
    for name, leaf in state(4).items():
        np.testing.assert_array_equal(found.arrays[name], leaf)
        assert found.arrays[name].dtype == leaf.dtype
    saved.cut(found.facts["records"])
    assert [row["n"] for row in read_lines(saved.path / "metrics.jsonl")] == [1, 2, 3, 4]
    checkpoints.save(found._replace(facts={"seconds": 5}))
    assert sorted(entry.name for entry in checkpoints.folder.iterdir()) == ["3", "4", "5"]
    checkpoints.close()


def test_random_keys_go_through_a_checkpoint():
    tree = {"key": search_keys([7, 8]), "n": np.arange(3, dtype=np.int32)}
    again = checkpoint.rebuilt(tree, "t", checkpoint.flat(tree, "t"))
    assert again["key"].dtype == tree["key"].dtype
    assert jax.random.bits(again["key"][1]) == jax.random.bits(tree["key"][1])


def files_of(step: Path) -> list[str]:
    return sorted(str(file.relative_to(step)) for file in step.rglob("*") if file.is_file())


def damages(data: bytes, rng: random.Random, flips: int):
    """Ways to damage a file: None deletes it."""
    yield None
    if data:
        yield data[:-1]
        yield data[: rng.randrange(len(data))]
    yield data + b"\0"
    for _ in range(flips if data else 0):
        place, bit = rng.randrange(len(data)), rng.randrange(8)
        yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def check_damages(directory: RunDirectory, capsys, flips: int) -> None:
    rng = random.Random(0)
    folder = directory.path / "checkpoints"
    whole = directory.path / "whole"
    folder.rename(whole)
    for name in files_of(whole / "4"):
        for damaged in damages((whole / "4" / name).read_bytes(), rng, flips):
            shutil.copytree(whole, folder)
            (folder / "4" / name).unlink() if damaged is None else (folder / "4" / name).write_bytes(damaged)
            checkpoints = Checkpoints(directory)
            found = checkpoints.load()
            assert found.facts["seconds"] == 1, name
            told = capsys.readouterr().err
            assert "WARNING: checkpoint" in told
            assert name in told
            assert len(list((folder / "damaged").iterdir())) == 1
            if damaged is None:
                checkpoints.save(Saved(found.arrays, {"seconds": 7}))
                assert checkpoints.load().facts["seconds"] == 7
            checkpoints.close()
            shutil.rmtree(folder)


def test_every_damaged_file_is_found(saved, capsys):
    check_damages(saved, capsys, flips=1)


@pytest.mark.full
def test_every_file_with_any_of_many_bits_flipped_is_found(saved, capsys):
    check_damages(saved, capsys, flips=60)


def test_no_whole_checkpoint_stops_and_goes_on_stopping(saved):
    for step in (saved.path / "checkpoints").iterdir():
        (step / "manifest").write_bytes((step / "manifest").read_bytes()[:-1])
    for _ in range(2):
        with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
            Checkpoints(saved).load()


def test_a_save_cut_short_is_no_damage(saved, capsys):
    folder = saved.path / "checkpoints"
    (folder / "5").mkdir()
    (folder / "5" / "half").touch()
    (folder / "5.saving").touch()
    checkpoints = Checkpoints(saved)
    assert checkpoints.load().facts["seconds"] == 4 / 3
    checkpoints.close()
    assert sorted(entry.name for entry in folder.iterdir()) == ["2", "3", "4"]
    assert not capsys.readouterr().err
    for step in ("2", "3", "4"):
        shutil.rmtree(folder / step)
    assert Checkpoints(saved).load() is None


def test_a_checkpoint_without_its_records_is_not_used(saved, capsys):
    record = saved.path / "metrics.jsonl"
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join(lines[:3]) + lines[3][:-4])
    checkpoints = Checkpoints(saved)
    assert checkpoints.load().facts["seconds"] == 1
    checkpoints.close()
    assert "metrics.jsonl has" in capsys.readouterr().err
    record.write_bytes(b"".join(lines).replace(b'"n": 1', b'"n": 9'))
    with pytest.raises(UserError, match="is whole"):
        Checkpoints(saved).load()


def test_another_format_or_configuration_is_refused(saved, monkeypatch):
    with monkeypatch.context() as patch:
        saved_format = checkpoint.FORMAT
        patch.setattr(checkpoint, "FORMAT", saved_format + 1)
        with pytest.raises(UserError, match=f"has format {saved_format}; this version reads format {saved_format + 1}"):
            Checkpoints(saved).load()
    saved.config["answer"] = {"0": "ab", "1": "ce"}
    with pytest.raises(UserError, match="answer 1 was 'cd', is 'ce'"):
        Checkpoints(saved).load()
    saved.close()
    with pytest.raises(UserError, match="budget was None, is 3"):
        RunDirectory(saved.path, {"seeds": [0], "answer": {"0": "ab", "1": "cd"}, "budget": 3}, resume=True)


def test_other_llm_answers_are_refused(tmp_path, monkeypatch):
    config = Config(task="PutNear", budget=10)
    texts = answers.recorded("PutNear")
    RunDirectory(tmp_path, identity(resolve(config))).close()
    monkeypatch.setattr(answers, "recorded", lambda task: [*texts[:5], texts[5] + "\n", *texts[6:]])
    with pytest.raises(UserError, match=r"configuration: answer 5 was '[0-9a-f]+', is '[0-9a-f]+'$"):
        run(config, tmp_path, resume=True)


def test_a_torn_last_line_is_left_out_and_written_over(tmp_path, directory):
    file = tmp_path / "lines"
    file.write_bytes(b'{"n": 1}\n{"n": 2}\n{"n": 3\xff')
    assert read_lines(file) == [{"n": 1}, {"n": 2}]
    file.write_bytes(b'{"n": 1}\n{"n": \n{"n": 3}\n')
    with pytest.raises(UserError, match="line 2: not a JSON object"):
        read_lines(file)
    directory.append("metrics.jsonl", {"n": 1})
    position = directory.positions()
    with (directory.path / "metrics.jsonl").open("a") as lines:
        lines.write('{"n": 2')
    directory.cut(position)
    directory.append("metrics.jsonl", {"n": 3})
    assert read_lines(directory.path / "metrics.jsonl") == [{"n": 1}, {"n": 3}]


def test_the_holder_of_a_directory_is_named(directory):
    code = (
        "import sys, pathlib; from jaxprl.runs.record import RunDirectory; RunDirectory(pathlib.Path(sys.argv[1]), {})"
    )
    done = subprocess.run([sys.executable, "-c", code, directory.path], capture_output=True, text=True, check=False)
    assert re.search(rf"in use by process {os.getpid()} on \S+, since \d", done.stderr)


@pytest.mark.parametrize(
    ("name", "kilobytes"),
    [
        ("hc-karel", 4),
        *(pytest.param(*case, marks=pytest.mark.full) for case in (("llm-gs-minigrid", 8), ("hc-karel", 2))),
    ],
)
def test_no_room_for_a_file_is_an_error_and_loses_nothing(tmp_path, unbroken, name, kilobytes):
    out = tmp_path / "out"
    shell = f'ulimit -f {kilobytes}; exec "$0" "$@"'
    words = command(name, out, "--checkpoint-every", "300")
    done = subprocess.run(["bash", "-c", shell, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    told = done.stderr.splitlines()[-1]
    assert re.search(r"error: .*/out/.*: File too large.* kept", told), told
    finish(name, out, "--resume")
    assert left_by(out) == unbroken(name)[0]


@pytest.mark.full
@pytest.mark.parametrize("kilobytes", [100, 140, 180, 220])
def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path, unbroken, kilobytes):
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    name = "llm-gs-minigrid"
    mount = f"mount -t tmpfs -o size={kilobytes}k tmpfs {disk}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    words = command(name, disk / "out", "--checkpoint-every", "1")
    shell = (
        f'{mount}; "$0" "$@"; echo code $?; mount -o remount,size=9m {disk}; "$0" "$@" --resume; cp -r {disk}/out {out}'
    )
    done = subprocess.run(["unshare", "-rm", "bash", "-c", shell, *words], cwd=ROOT, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert "code 2" in done.stdout
    assert re.search(r"error: .*: No space left on device.* kept", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert "damaged" not in done.stderr
    assert left_by(out) == unbroken(name)[0]


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path):
    shell = f'mount -t tmpfs -o ro tmpfs {tmp_path} && "$0" "$@"'
    if subprocess.run(["unshare", "-rm", "sh", "-c", shell, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    words = ["unshare", "-rm", "sh", "-c", shell, *command("hc-karel", tmp_path / "out")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'out'}: Read-only file system\n"


def test_a_clock_that_jumps_changes_nothing(saved, monkeypatch):
    now = time.time()
    for seconds in (-1e9, 1e9, -3600.0):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now + seconds)
        checkpoints = Checkpoints(saved)
        found = checkpoints.load()
        checkpoints.save(found._replace(facts={"seconds": seconds}))
        assert checkpoints.load().facts["seconds"] == seconds
        checkpoints.close()


def test_checkpoint_intervals_are_read():
    assert Every.parse("60s") == Every()
    assert Every.parse("100000") == Every(float("inf"), 100_000)
    assert Every.parse("5s, 1000") == Every.parse("1000,5s") == Every(5, 1000)
    for text in ("", "0", "0s", "1s,2s", "1m", "-1", "1,2", "1.5s", "9999999999"):
        with pytest.raises(UserError, match="checkpoint interval"):
            Every.parse(text)
    assert dataclasses.replace(Every(), programs=3).seconds == 60
