"""Two processes joined by `jax.distributed`: every search ends as it does alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxprl.errors import UserError
from jaxprl.experiment.cluster import Host, join
from jaxprl.runs.record import read_lines

RUN = Path(__file__).parent.parent / "experiments" / "run.py"
WORDS = ("--task", "StairClimberSparse", "--method", "hc", "--layouts", "0-3", "--seeds", "0-2")


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(out, *words):
    command = [sys.executable, RUN, *WORDS, "--out", out, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    outputs = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def found(*folders):
    """The records of runs by seed, in order, times aside."""
    rows = {}
    for folder in folders:
        for file in ("metrics.jsonl", "programs.jsonl"):
            for row in read_lines(folder / file):
                rows.setdefault((file, row["seed"]), []).append(row | {"seconds": None})
        for file in folder.glob("seed-*/result.json"):
            rows["result", file.parent.name] = json.loads(file.read_text()) | {"seconds": None}
    return rows


def test_two_hosts_find_what_one_finds(tmp_path, port):
    # Nothing that runs programs is compiled for a world in plain Python; hosts would not share it.
    words = ("--task", "farama:LavaGap", "--budget", "100", "--seeds", "3,5,7")
    (alone,) = finish(start(tmp_path / "one", *words))
    hosts = [start(tmp_path / "two", *words, "--hosts", f"127.0.0.1:{port},2,{index}") for index in (0, 1)]
    both = finish(*hosts)
    assert [code for code, _, _ in (alone, *both)] == [0, 0, 0], [alone, both]
    assert "seeds 3,7, up to" in both[0][1]
    assert "seeds 5, up to" in both[1][1]
    folders = tmp_path / "two" / "host-0-of-2", tmp_path / "two" / "host-1-of-2"
    rows = found(tmp_path / "one")
    assert found(*folders) == rows
    assert sum(len(rows["programs.jsonl", seed]) for seed in (3, 5, 7)) > 5


@pytest.mark.full
def test_a_host_is_stopped_and_goes_on_by_itself(tmp_path, port):
    words = ("--task", "DoorKey", "--method", "hc", "--budget", "40000", "--checkpoint-every", "1s")
    (alone,) = finish(start(tmp_path / "one", *words))
    hosts = [start(tmp_path / "two", *words, "--hosts", f"127.0.0.1:{port},2,{index}") for index in (0, 1)]
    folders = tmp_path / "two" / "host-0-of-2", tmp_path / "two" / "host-1-of-2"
    while not list(folders[0].glob("checkpoints/*/manifest")):
        assert [host.poll() for host in hosts] == [None, None], finish(*hosts)
        time.sleep(0.1)
    hosts[0].send_signal(signal.SIGTERM)
    assert [code for code, _, _ in finish(*hosts)] == [75, 0]
    (again,) = finish(start(folders[0], *words, "--seeds", "0,2", "--resume"))
    assert (alone[0], again[0]) == (0, 0)
    assert found(*folders) == found(tmp_path / "one")


def test_the_cluster_says_who_is_who(port):
    slurm = {"SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    code = "from jaxprl.experiment.cluster import join; print(join('auto').name)"
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | slurm | {"SLURM_PROCID": index, "SLURM_LOCALID": index},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in "01"
    ]
    assert [(code, out) for code, out, _ in finish(*hosts)] == [(0, "host-0-of-2\n"), (0, "host-1-of-2\n")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" ", "neither auto nor"),
        ("localhost,2,0", "neither auto nor"),
        ("localhost:4000,2,2", "host 2 of 2"),
        ("localhost:4000,0,0", "host 0 of 0"),
        ("localhost:99999,2,0", "ports go from 1 to 65535"),
        ("localhost:0,1,0", "ports go from 1 to 65535"),
        ("auto", "give ADDRESS:PORT,COUNT,INDEX"),
    ],
)
def test_hosts_that_cannot_be(text, message):
    with pytest.raises(UserError, match=message):
        join(text)


def test_shares():
    assert [Host(index, 3).share(range(8)) for index in range(3)] == [(0, 3, 6), (1, 4, 7), (2, 5)]
    with pytest.raises(UserError, match="2 seeds for 3 hosts"):
        Host(0, 3).share([4, 5])
