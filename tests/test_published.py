"""Published settings by name, published numbers, and the comparison of runs with them."""

import json
import math
import re

import numpy as np
import pytest
from searches import search, write_run

from jaxprl.cli import published as published_command
from jaxprl.cli import report as report_command
from jaxprl.cli import run as run_command
from jaxprl.cli import sweep as sweep_command
from jaxprl.cli.common import run_main
from jaxprl.cli.published import rows, setting_in_words
from jaxprl.cli.run import configuration, parser
from jaxprl.errors import UserError
from jaxprl.experiment import ledger, published
from jaxprl.experiment.config import Config
from jaxprl.experiment.job import identity, resolve
from jaxprl.experiment.published import SETTINGS, filled, short
from jaxprl.experiment.run import run
from jaxprl.llm.settings import Settings
from jaxprl.report import page, sections, statistics
from jaxprl.report.comparison import compare, difference, estimate, lines, to_solve
from jaxprl.report.groups import group
from jaxprl.report.published_results import Estimate, columns, fitting
from jaxprl.report.reading import read_all
from jaxprl.report.text import text


def job_of(*words):
    return configuration(parser().parse_args(list(words)))


# Settings


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_decides_everything_on_each_of_its_tasks(name):
    setting = published.get(name)
    for task in setting.tasks.value:
        config = filled(setting, Config(task=short(task), published=name))
        assert (config.task, config.method) == (task, setting.method.value)
        assert None not in (config.seeds, config.layouts, config.budget)
        assert set(config.options) == set(setting.options)
        assert filled(setting, Config(task=task, published=name)) == config
        job = resolve(Config(task=short(task), published=name))
        lines = setting_in_words(setting, job)
        found = rows(setting, job)
        assert [row.name for row in found if row.ours != row.theirs] == (["model"] if setting.model else [])
        assert all(row.source and row.source in "\n".join(lines) for row in found)
        assert identity(job)["published"] == name


def test_what_the_settings_say():
    of = {name: filled(published.get(name), Config(published=name)) for name in SETTINGS}
    assert of["carvalho-hc"].options == {"k": 250, "neighbourhood": "small"}
    assert of["carvalho-chain"].options == {"max_nodes": 20, "neighbourhood": "small"}
    assert of["innatecoder"].options == {"k": 250, "neighbourhood": "parts", "parts_share": 0.8}
    assert of["hprl"].options["observe"] == "step"
    assert [of[name].task for name in ("carvalho-hc", "innatecoder")] == ["DoorKey", "DoorKey:crashable"]
    assert {name: (min(each.seeds), max(each.seeds)) for name, each in of.items()} == {
        "carvalho-hc": (1, 32), "carvalho-cebs": (1, 32), "carvalho-chain": (1, 32), "leaps": (0, 4), "hprl": (0, 4),
        "llm-gs": (0, 31), "innatecoder": (1, 15),
    }  # fmt: skip
    assert {name: len(each.layouts) for name, each in of.items()} == {
        "carvalho-hc": 16, "carvalho-cebs": 16, "carvalho-chain": 16, "leaps": 32, "hprl": 32, "llm-gs": 32,
        "innatecoder": 16,
    }  # fmt: skip

    def one(name, task):
        return filled(published.get(name), Config(task, published=name))

    sigmas = {short(task): one("carvalho-cebs", short(task)).options["sigma"] for task in published.KAREL}
    assert sigmas == dict.fromkeys(published.KAREL, 0.25) | {
        "MazeSparse": 0.1, "FourCorners": 0.5, "Harvester": 0.5, "OneStroke": 0.5
    }  # fmt: skip
    assert one("carvalho-hc", "MazeSparse").task == "MazeSparse@12x12"
    assert one("innatecoder", "MazeSparse").task == "MazeSparse@12x12:crashable"
    assert one("llm-gs", "MazeSparse").task == "MazeSparse"
    assert [one("hprl", task).budget for task in ("DoorKey", "CleanHouse", "MazeSparse")] == [10**6, 10**5, 10**4]
    assert (one("llm-gs", "LavaGap").budget, list(one("llm-gs", "LavaGap").seeds)) == (10_000, list(range(8)))


GOLDEN = """\
published setting carvalho-cebs: cross-entropy beam search in the latent space of LEAPS (CEBS), Carvalho et al., ICLR 2024
  task           FourCorners (12x12)      code, sample_args/paper/CEBS, with the sizes
  method         cebs                     paper
  k              32                       DIFFERS from 64 in the source: code, sample_args/paper/CEBS: population_size
  elite          16                       code, sample_args/paper/CEBS: elitism_rate .25
  sigma          0.5                      code, sample_args/paper/CEBS: initial_sigma
  patience       5                        code, sample_args/paper/CEBS: restart_timeout
  layouts        0-3                      DIFFERS from 0-15 in the source: code, sample_args/paper/CEBS: number_executions 16
  seeds          1-32                     raw results, files seed_1 to seed_32
  budget         300                      DIFFERS from 1,000,000 in the source: paper, caption of Table 1; code, sample_args/paper: 10,000,000
  llm            none                     code: runs start from random latents
not as in the source:
  - random numbers are ours: a seed does not give the search that it gave in the source
  - the published model of the program space is not shipped: it is ours, or that of --space
  - a run starts around one random latent, and each of the elite has k / elite candidates; in the source it starts with
    k random latents, and the parents of candidates are drawn from the elite with replacement"""  # noqa: E501


def test_flags_override_a_setting_and_are_said_to_differ():
    words = ["--published", "carvalho-cebs", "--task", "FourCorners", "--k", "32", "--layouts", "0-3"]
    words += ["--budget", "300", "--sigma", "0.5"]
    job = job_of(*words)
    assert "\n".join(setting_in_words(published.get("carvalho-cebs"), job)) == GOLDEN
    in_python = Config("FourCorners", layouts=range(4), budget=300, options={"k": 32}, published="carvalho-cebs")
    assert resolve(in_python) == job


@pytest.mark.parametrize("name", ["carvalho-cebs", "leaps"])
def test_programs_to_start_from_that_the_source_has_not_are_told(name):
    setting = published.get(name)
    assert resolve(Config(published=name)).llm == "none"
    for words in (["--llm", "recorded"], ["--model", "m"]):
        job = job_of("--published", name, *words)
        assert job.llm == "recorded"
        said = "\n".join(setting_in_words(setting, job))
        assert re.search(r"\n  llm +recorded +DIFFERS from none in the source: ", said)
    assert job_of("--published", "innatecoder", "--model", "m").llm == "recorded"


def test_tasks_that_differ_are_named():
    setting = published.get("carvalho-cebs")
    remark = setting_in_words(setting, job_of("--published", setting.name, "--task", "OneStroke"))[-1]
    assert "36/35" in remark
    said = "\n".join(setting_in_words(setting, job_of("--published", setting.name, "--task", "Snake")))
    assert "Snake is another task in the source" in said


def test_the_published_model_is_asked_where_a_model_is_asked():
    for words in ((), ("--base-url", "http://localhost:8000/v1")):
        job = job_of("--published", "llm-gs", "--llm", "openai", *words)
        assert job.settings.model == "gpt-4-turbo-2024-04-09"
        assert all(row.ours == row.theirs for row in rows(published.get("llm-gs"), job))
    assert job.settings.base_url == "http://localhost:8000/v1"
    other = job_of("--published", "llm-gs", "--llm", "openai", "--model", "m")
    assert "DIFFERS from gpt-4-turbo" in "\n".join(setting_in_words(published.get("llm-gs"), other))
    assert resolve(Config("PutNear", llm="openai", published="llm-gs")).settings == Settings("gpt-4o")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(published="carvalho"), "unknown published setting 'carvalho'; known: carvalho-hc, carvalho-cebs, "),
        (Config(published=["hprl"]), r"unknown published setting \['hprl'\]"),
        (Config("Maze", published="leaps"), "'Maze' is not one of the published setting leaps: StairClimberSparse, Ma"),
        (Config("PathFollow", published="carvalho-cebs"), "'PathFollow' is not one of the published setting carv"),
        (Config("a.py:DoorKey", published="carvalho-hc"), "'a.py:DoorKey' is not one of"),
        (Config(5, published="carvalho-hc"), "task 5: expected a name"),
        (Config(["DoorKey"], published="llm-gs"), r"task \['DoorKey'\]: expected a name"),
        (Config(method="cem", published="carvalho-cebs"), "method cem: .* carvalho-cebs is one of the method cebs"),
        (Config(published="carvalho-cebs", options={"sigmas": 1}), "cebs has no option --sigmas"),
    ],
)
def test_what_a_setting_has_not_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        resolve(config)


def test_the_settings_are_listed(capsys, monkeypatch):
    monkeypatch.setattr(published_command, "prepare_jax", lambda: None)
    assert run_main(published_command.main, []) == 0
    listed = capsys.readouterr().out
    for setting in SETTINGS.values():
        assert setting.name in listed
        assert setting.work in listed
    assert run_main(published_command.main, ["leaps", "--task", "TopOff"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^  k +64 +LEAPS, appendix", shown, re.MULTILINE)
    assert run_main(published_command.main, ["nothing"]) == 2


def test_the_examples_of_the_command_are_commands(capsys, monkeypatch):
    monkeypatch.setattr(published_command, "prepare_jax", lambda: None)
    examples = re.findall(r"^jaxprl published *(.*?) *#", published_command.__doc__, re.MULTILINE)
    assert len(examples) == 2
    for words in examples:
        assert run_main(published_command.main, words.split()) == 0, words
    assert "sigma          0.1 " in capsys.readouterr().out


def test_a_run_is_resumed_under_its_setting_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_004))
    config = Config(seeds=(0, 1), budget=60, layouts=range(4), published="llm-gs")
    results = run(config, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["published"] == "llm-gs"
    assert run(config, tmp_path / "out", resume=True) == results
    with pytest.raises(UserError, match="published"):
        run(Config(seeds=(0, 1), budget=60, layouts=range(4)), tmp_path / "out", resume=True)


def test_a_run_ends_with_the_comparison(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_004))
    monkeypatch.setattr(run_command, "prepare_jax", lambda: None)
    words = ["--published", "carvalho-hc", "--neighbourhood", "grammar", "--seeds", "3,4", "--budget", "1000"]
    assert run_main(run_command.main, [*words, "--layouts", "0-3", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.index("published setting carvalho-hc: hill climbing") < said.index("seed 3: return")
    assert re.search(r"neighbourhood +grammar +DIFFERS from small in the source: code", said)
    [found] = compare(group(read_all([tmp_path / "out"]))[0])
    assert found.other == ["neighbourhood grammar instead of small", "layouts other than 0-15"]
    assert [row.theirs.evaluated for row in found.rows] == [1_000]
    assert "\n".join(lines(found)) in said


def sweep_file(folder, *grid):
    file = folder / "sweep.json"
    file.write_text(json.dumps({"grid": list(grid)}))
    return str(file)


def test_a_sweep_has_published_settings(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep_command, "prepare_jax", lambda: None)
    grid = {"published": ["leaps", "carvalho-cebs"], "tasks": ["DoorKey", "Seeder"], "budget": 50}
    sweep_command.main([sweep_file(tmp_path, grid, {"published": "llm-gs", "label": "all"}), "--list"])
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "0 DoorKey-leaps: --task DoorKey --published leaps --budget 50"
    assert listed[3] == "3 Seeder-carvalho-cebs: --task Seeder --published carvalho-cebs --budget 50"
    assert len(listed) == 4 + 15
    assert listed[-1] == "18 RedBlueDoor-llm-gs-all: --task RedBlueDoor --published llm-gs"
    for bad, message in (
        ({"published": "leaps", "methods": ["hc"], "tasks": ["Maze"]}, "either methods or published"),
        ({"published": []}, "needs published"),
        ({"published": "leap"}, "unknown published setting 'leap'"),
        ({"published": "leaps", "tasks": ["Maze"]}, "cell Maze-leaps: task 'Maze' is not one"),
        ({"tasks": ["Maze"]}, "needs methods"),
    ):
        with pytest.raises(UserError, match=message):
            sweep_command.main([sweep_file(tmp_path, bad), "--list"])


# Published numbers


def at(name, task, evaluated):
    """The results of the columns of a name on a task after some programs: mean, error, solved."""
    return [
        (place.returns.mean, place.returns.error, place.solved)
        for column in columns()
        if column.name == name and task in column.tasks
        for place in column.tasks[task].places
        if place.evaluated == evaluated
    ]


def test_published_numbers_are_those_of_their_sources():
    approx = lambda *values: pytest.approx(values, abs=5e-4)  # noqa: E731
    assert [each[:2] for each in at("HC", "DoorKey", 10**6)] == [approx(0.838, 0.021)]
    assert at("HC", "DoorKey", 10**6)[0][2] == 1
    assert [each[:2] for each in at("HC", "TopOff", 10**4)] == [approx(0.974, 0.014)]
    assert [each[:2] for each in at("HC", "OneStroke", 10**5)] == [approx(0.934 * 36 / 35, 0.0014 * 36 / 35)]
    assert at("HC", "MazeSparse@12x12", 10**3) == [(1.0, 0.0, 32)]
    assert [each[:2] for each in at("CEBS", "Seeder", 10**5)] == [approx(0.907, 0.018)]
    assert at("one chain that accepts ties", "DoorKey", 10**6) == [(0.768, 0.043, 15)]
    assert at("HC", "DoorKey:crashable", 10**5)[0][0] == pytest.approx(0.449, abs=5e-4)
    assert at("HC", "Harvester:crashable", 10**6) == [(0.987, 0.004, 8)]
    assert at("InnateCoder", "Seeder:crashable", 10**5) == [(0.932, 0.025, 6)]
    assert at("HPRL-PPO", "Seeder", None) == [(0.58, pytest.approx(0.07 / math.sqrt(5)), None)]
    assert [each[0] for each in at("LEAPS", "TopOff", None)] == [0.81]
    medians = {(c.name, task): curve.median for c in columns() for task, curve in c.tasks.items()}
    assert medians["HC", "FourCorners"] == 1088
    assert medians["InnateCoder", "CleanHouse:crashable"] == 15_731
    assert math.isnan(medians["HC", "DoorKey"])


def test_published_columns_are_whole():
    known = {name for setting in SETTINGS.values() for name in setting.tasks.value}
    for column in columns():
        assert column.source
        assert set(column.tasks) <= known
        assert column.setting is None or published.get(column.setting).method.value == column.method
        for task, curve in column.tasks.items():
            assert all(-1 <= place.returns.mean <= 1 for place in curve.places)
            assert all(not place.returns.error < 0 for place in curve.places)
            assert all(place.solved is None or place.solved <= column.seeds for place in curve.places)
            assert bool(curve.remark) == (short(task) == "Snake" and column.name not in HPRLS)
    for setting in set(SETTINGS) - {"llm-gs"}:  # it has published no table of values
        assert any(column.setting == setting for column in columns())


HPRLS = {"Best-sampled", "LEAPS", "LEAPS in HPRL's space", "HPRL-SAC", "HPRL-PPO"}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_column_fits_the_runs_of_its_setting(name):
    """What a report compares is what the setting has decided."""
    for task in published.get(name).tasks.value:
        config = json.loads(json.dumps(identity(resolve(Config(task, published=name)))))
        found = [column.setting for column, other in fitting(task, config) if not other]
        has = any(column.setting == name and task in column.tasks for column in columns())
        assert (name in found) == has


@pytest.mark.parametrize("name", SETTINGS)
def test_a_column_names_whatever_its_setting_sets(name):
    """A run with another value is not taken for the same."""
    for column in columns():
        for task in column.tasks if column.setting == name else ():
            config = json.loads(json.dumps(identity(resolve(Config(task, published=name)))))
            for option in set(published.get(name).options) - {"space"}:  # `config.json` has the checksum of a space
                [other] = [other for each, other in fitting(task, config | {option: -1}) if each == column]
                assert other == [f"{option} -1 instead of {config[option]}"]


# Comparison

CONFIG = {"method": "hc", "k": 250, "neighbourhood": "small", "layouts": list(range(16)), "llm": "none"}


def compared(folder, searches, task="DoorKey", **config):
    """The comparisons of a run that has left these searches."""
    write_run(folder, task, "hc", searches)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | CONFIG | config))
    return compare(group(read_all([folder]))[0])


def test_a_comparison_by_hand(tmp_path):
    searches = [
        search(1, [(1, 0.1), (900, 0.40), (5_000, 0.5), (20_000, 0.5)]),
        search(2, [(1, 0.2), (1_000, 0.44), (1_001, 1.0)], solved=True),
    ]
    [found] = compared(tmp_path / "run", searches)
    assert (found.column.name, found.searches, found.other) == ("HC", 2, [])
    first, second = found.rows  # no search but the solved one has come to 100,000
    assert (first.theirs.evaluated, second.theirs.evaluated) == (1_000, 10_000)
    assert first.ours == pytest.approx((0.42, 0.02))  # the deviation .02 sqrt(2) over sqrt(2)
    assert first.difference == pytest.approx((0.42 - 0.4072) / math.sqrt(0.02**2 + 0.013**2))
    assert (first.solved, first.theirs.solved) == (0, 0)
    assert second.ours == pytest.approx((0.75, 0.25))
    assert (second.solved, second.theirs.solved) == (1, 0)
    said = "\n".join(lines(found))
    assert re.search(r"^ +1,000  0\.4200 ± 0\.0200 \[0\] +0\.4072 ± 0\.0130 \[0\] +\+0\.5$", said, re.MULTILINE)
    assert "raw results in rubensolv/InnateCoder" in said
    assert to_solve(found) == ""  # neither have half of ours solved it, nor half of theirs


def test_programs_to_solve_are_compared_by_their_interval(tmp_path):
    def solved_at(*places):
        return [search(n, [(1, 0.0), (place, 1.0)], solved=True) for n, place in enumerate(places)]

    [found] = compared(tmp_path / "a", solved_at(900, 1_000, 1_100, 1_300, 1_050), "FourCorners")
    assert found.median == statistics.median([900, 1_000, 1_100, 1_300, 1_050])
    assert to_solve(found) == (
        "programs to solve, median: 1,050 (95 % 900 to 1,300), theirs 1,088, inside this interval and inside that of "
        "32 other searches (900 to 1,300)"
    )
    [found] = compared(tmp_path / "b", solved_at(100, 200, 150), "FourCorners")
    assert "150 (95 % 100 to 200), theirs 1,088, outside this interval and outside that" in to_solve(found)
    short_searches = [search(n, [(1, 0.0), (500, 0.5)]) for n in range(3)]
    [found] = compared(tmp_path / "c", short_searches, "FourCorners")
    assert found.rows == []
    assert to_solve(found).endswith("theirs 1,088, which is more than was searched here")
    assert "not all searches have come to a published place yet" in lines(found)[-2]


def test_what_is_not_the_same_is_said_or_not_compared(tmp_path):
    searches = [search(n, [(1, 0.1), (2_000, 0.9)]) for n in range(2)]
    assert compared(tmp_path / "a", searches, neighbourhood="grammar") == []
    assert compared(tmp_path / "b", searches, layouts=list(range(32))) == []
    [found] = compared(tmp_path / "c", searches, layouts=[0], k=9, published="carvalho-hc")
    assert found.remarks == ["not the same: k 9 instead of 250", "not the same: layouts other than 0-15"]
    [found] = compared(tmp_path / "d", searches, "OneStroke")
    assert found.rows[0].theirs.returns.mean == pytest.approx(0.8716 * 36 / 35)
    assert found.remarks[0].startswith("theirs times 36/35")
    [found] = compared(tmp_path / "e", searches, "Snake")
    assert "another task" in found.remarks[0]
    [found] = compared(tmp_path / "f", searches, method="leaps", layouts=list(range(32)))
    assert [(row.theirs.evaluated, row.theirs.returns.mean) for row in found.rows] == [(None, 0.5)]
    assert compared(tmp_path / "g", searches, layouts="0-15") == []  # a damaged file


@pytest.mark.parametrize("method", ["cebs", "leaps", "latent-hc"])
def test_searches_from_programs_of_a_language_model_are_not_taken_for_others(method):
    options = {"k": 64, "elite": 16, "sigma": 0.25, "patience": 5} if method == "cebs" else {"k": 250, "sigma": 0.25}
    for task in ("DoorKey", "DoorKey:crashable"):
        config = {"method": method, "layouts": list(range(16)), "llm": "none", **options}
        assert len(fitting(task, config)) == (0 if method == "latent-hc" and ":" in task else 1)
        assert fitting(task, config | {"llm": "recorded"}) == []
    config |= {"layouts": list(range(32)), "llm": "recorded", "published": "leaps"}
    if method == "leaps":
        [(column, other)] = fitting("DoorKey", config)
        assert (column.name, other) == ("LEAPS", ["llm recorded instead of none"])


def test_differences_in_combined_standard_errors():
    assert difference(Estimate(0.5, 0.03), Estimate(0.4, 0.04)) == pytest.approx(2)
    assert difference(Estimate(1, 0), Estimate(1, 0)) == 0
    assert difference(Estimate(0.9, 0), Estimate(1, 0)) == -math.inf
    assert math.isnan(difference(Estimate(0.9, 0.1), Estimate(1, math.nan)))
    assert math.isnan(estimate([0.5]).error)
    assert estimate([0.0, 1.0]) == (0.5, 0.5)


def test_medians_and_their_intervals():
    assert statistics.median([3.0]) == (3, 3, 3)
    assert statistics.median([1.0, 2.0, 4.0, 100.0]).middle == 3
    assert statistics.median([1.0, math.inf]).middle == math.inf
    some = statistics.median([1.0, 2.0, 3.0, 4.0, math.inf])
    assert (some.middle, some.low, some.high) == (3, 1, math.inf)
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(300):  # few searches here and many there, and the other way round
        for mine, theirs in ((16, 64), (64, 16)):
            _, low, high = statistics.median(rng.exponential(size=mine), others=theirs, resamples=400)
            hits.append(low <= np.median(rng.exponential(size=theirs)) <= high)
    assert 0.9 <= np.mean(hits) <= 0.99
    intervals = [statistics.median(rng.exponential(size=32), resamples=400) for _ in range(300)]
    assert 0.9 <= np.mean([low <= math.log(2) <= high for _, low, high in intervals]) <= 0.99


def test_the_report_shows_the_comparison_on_the_page_and_as_text(tmp_path, capsys):
    searches = [search(n, [(1, 0.1), (2_000, 0.4 + n / 10)]) for n in range(3)]
    [found] = compared(tmp_path / "run", searches, published="carvalho-hc")
    html = page.write([tmp_path / "run"], tmp_path / "report.html")[0].read_text()
    for shown in ("Beside published results", "hc (3)", ">HC (32)<", "0.1000 ± 0.0000 [0]", "0.4072 ± 0.0130 [0]"):
        assert shown in html
    assert sections.beside_published([], {}) == ""
    assert run_main(report_command.main, [str(tmp_path / "run"), "--text"]) == 0
    printed = capsys.readouterr().out
    assert printed == text([tmp_path / "run"]) + "\n"
    assert printed.startswith("DoorKey, hc: 0.5000 ± 0.0577; 0 solved of 3 searches; 6,000 programs\n\n")
    assert "\n".join(lines(found)) in printed
    assert run_main(report_command.main, [str(tmp_path / "run"), "--text", "--figures", "png"]) == 2


def test_runs_with_and_without_a_settings_name_are_one_group(tmp_path):
    for n, more in enumerate(({"published": "carvalho-hc"}, {})):
        compared(tmp_path / str(n), [search(n, [(1, 0.1), (1_000, 0.5)])], **more)
    [found] = group(read_all([tmp_path]))[0]
    assert (found.method, len(found.searches)) == ("hc", 2)
