"""`jaxprl train` checks what it was asked for before it begins to train."""

import jax
import numpy as np
import pytest

from jaxprl.cli.main import main
from jaxprl.cli.train import checked, parser
from jaxprl.errors import UserError
from jaxprl.latent import data, quality, train
from jaxprl.latent.grammar import Grammar
from jaxprl.search.protocol import search_keys
from jaxprl.worlds.make import make
from jaxprl.worlds.seeds import MOST

WRONG = [
    ("--seed -1", f"--seed: '-1': expected a whole number from 0 to {MOST:,}"),
    (f"--seed {MOST + 1}", f"--seed: '{MOST + 1}': expected a whole number from 0 to {MOST:,}"),
    ("--steps -1", "--steps: '-1': expected a whole number from 0 to"),
    (f"--steps {2**31}", f"--steps: '{2**31}': expected a whole number from 0 to {2**31 - 1:,}"),
    ("--steps 0", "nothing is trained with --steps 0"),
    ("--seconds 0", "nothing is trained with --steps 0 or --seconds 0"),
    ("--steps 0 --resume", "nothing is trained with --steps 0"),
    ("--seconds -0.5", "--seconds -0.5: it goes from 0 on"),
    ("--seconds nan", "--seconds nan: it goes from 0 on"),
    ("--checkpoint-every 0s", "checkpoint interval '0s'"),
    ("--checkpoint-every 500", "--checkpoint-every 500: a training saves by time"),
    ("--checkpoint-every 60s,500", "--checkpoint-every 60s,500: a training saves by time"),
    ("--report-programs 0", f"--report-programs: '0': expected a whole number from 1 to {quality.MOST_PROGRAMS:,}"),
    ("--report-programs -5", "--report-programs: '-5': expected a whole number from 1 to"),
    (f"--report-programs {10**9}", f"--report-programs: '{10**9}': expected a whole number from 1 to"),
    ("--report-programs 64 --no-report", "--report-programs is for the report, which --no-report leaves out"),
    ("--export none/model.npz", "--export none/model.npz: there is no folder none"),
    ("--export file/model.npz", "--export file/model.npz: there is no folder file"),
    ("--export folder", "--export folder: a folder, not a file"),
    ("--export out", "--export out: that is a folder of the run directory"),
    ("--out out/run --export out", "--export out: that is a folder of the run directory"),
    ("--export out/config.json", "--export out/config.json: in the run directory it has to end in .npz"),
    ("--out file", "output file is not a directory"),
    ("--out folder", "output directory folder is not empty"),
    ("--out file/run", "file/run: Not a directory"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[words for words, _ in WRONG])
def test_a_wrong_option_is_named_and_nothing_begins(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    assert main(["train", "--out", "out", *words.split()]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "mine"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("words", ["--out=", "--export=", "--steps=many", "--seed=0.5", "--report-programs=1e3"])
def test_what_is_no_value_is_refused_with_the_usage(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", words]) == 2
    assert words.split("=")[0] in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_right_options_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.npz").write_text("the model of before")
    (tmp_path / "runs" / "vae").mkdir(parents=True)
    (tmp_path / "runs" / "vae" / "config.json").touch()
    for words in (
        f"--seed {MOST} --steps {2**31 - 1} --seconds inf --report-programs 1",
        f"--resume --steps 0 --export model.npz --report-programs {quality.MOST_PROGRAMS}",
        "--no-report --export out/model.npz --out out --seconds 0.5",
    ):
        options = parser().parse_args(words.split())
        assert checked(options).seconds == 300
    assert (tmp_path / "model.npz").read_text() == "the model of before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.npz", "runs"]


@pytest.mark.parametrize(
    "take",
    [
        lambda seed: train.Recipe(seed=seed),
        lambda seed: data.held_out_programs(data.RANDOM_STATES, seed, 1),
        lambda seed: search_keys([0, seed]),
        lambda seed: make("DoorKey").layout(seed),
        lambda seed: make("Maze").layouts([0, seed]),
        lambda seed: make("farama:LavaGap").layouts([0, seed]),
    ],
    ids=["Recipe", "held_out_programs", "search_keys", "layout", "layouts", "layouts-farama"],
)
def test_a_seed_is_what_it_is_everywhere(take):
    wrong = (-1, MOST + 1, np.int64(-1), np.int64(MOST + 1), 0.5, "7", None)
    for seed in wrong:
        with pytest.raises(UserError, match=r"seed .*(seeds go from 0 to 4294967295|expected an integer)"):
            take(seed)


def test_a_seed_of_numpy_is_that_of_python():
    assert train.Recipe(seed=np.uint32(MOST)) == train.Recipe(seed=MOST)
    assert type(train.Recipe(seed=np.int64(3)).seed) is int
    keys = (search_keys(seeds) for seeds in ([3, MOST], np.array([3, MOST]), (np.uint32(3), np.int64(MOST))))
    first, *others = (jax.random.key_data(key).tolist() for key in keys)
    assert others == [first, first]


def test_a_report_on_no_program_is_refused():
    params, grammar = {}, Grammar.of(data.RANDOM_STATES.language)
    for programs in (0, -1, quality.MOST_PROGRAMS + 1):
        with pytest.raises(UserError, match=f"{programs} programs: a report looks at 1 to"):
            quality.full_report(grammar, data.RANDOM_STATES, params, programs=programs)
    with pytest.raises(UserError, match="0 held-out programs"):
        data.held_out_programs(data.RANDOM_STATES, 0, 0)
