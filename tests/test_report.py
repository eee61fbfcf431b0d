"""Reports: their statistics, what they say of damaged runs, and the page in a real browser."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import browser
import numpy as np
import pytest
import scipy.stats

from jaxprl.errors import UserError
from jaxprl.experiment import Config, run
from jaxprl.runs import figures, report, statistics
from jaxprl.runs.groups import Group, curves, group, summary
from jaxprl.runs.llm_use import llm_use
from jaxprl.runs.mirror import Mirror, opener
from jaxprl.runs.published import LEAPS
from jaxprl.runs.reading import Search, in_ranges, read_all

ROOT = Path(__file__).parent.parent
TASK = "DoorKey"


def gif(task, seed, program):
    """Two frames of 40 x 30 pixels in the place of a rollout."""
    import io

    from PIL import Image

    frames = [Image.new("RGB", (40, 30), colour) for colour in ("white", "navy")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=300, loop=0)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two small real runs; the second in the directories of two hosts."""
    folder = tmp_path_factory.mktemp("runs")
    layouts = tuple(range(4))
    run(Config(TASK, "llm-gs", (0, 1), budget=60, layouts=layouts), folder / "llm-gs")
    for host in range(2):
        run(Config(TASK, "hc", (host,), budget=60, layouts=layouts), folder / "hc" / f"host-{host}-of-2")
    return folder


@pytest.fixture
def copied(runs, tmp_path):
    return shutil.copytree(runs, tmp_path / "runs")


def table_rows(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def search(seed, steps, *, finished=True, solved=False):
    """A search with the given (evaluated, best) steps, a second for each program."""
    rows = [{"seed": seed, "evaluated": n, "best": best, "seconds": float(n)} for n, best in steps]
    evaluated, best = steps[-1]
    result = {"seed": seed, "return": best, "evaluated": evaluated, "found_at": evaluated, "seconds": float(evaluated),
              "stop": "solved" if solved else "budget", "program": "p", "python": "p"}  # fmt: skip
    return Search(seed, rows, result if finished else None)


# Statistics


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 31, 32])
def test_the_interquartile_mean_is_a_trimmed_mean(count):
    values = np.random.default_rng(count).normal(size=(6, count))
    want = scipy.stats.trim_mean(values, 0.25, axis=-1)
    np.testing.assert_allclose(statistics.interquartile_mean(values), want, rtol=1e-12)


def test_bands_are_those_of_scipy():
    values = np.random.default_rng(1).normal(size=(1, 32))
    found = statistics.band(values, resamples=20_000)
    want = scipy.stats.bootstrap(
        (values[0],), lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis), n_resamples=20_000,
        method="percentile", rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert found.low[0] == pytest.approx(want.low, abs=0.02)
    assert found.high[0] == pytest.approx(want.high, abs=0.02)


def test_bands_are_deterministic_and_hold_their_middle():
    values = np.random.default_rng(3).uniform(size=(5, 9))
    first, again = statistics.band(values), statistics.band(values)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (first.low <= first.middle).all()
    assert (first.middle <= first.high).all()
    alone = statistics.band(values[:, :1])
    np.testing.assert_array_equal(alone.low, alone.high)


def test_a_step_holds_until_the_next():
    held = statistics.held([(2, 0.5), (10, 0.75)], np.array([1.0, 2.0, 9.0, 10.0, 99.0]))
    np.testing.assert_array_equal(held, [np.nan, 0.5, 0.5, 0.75, 0.75])


def test_programs_to_solve_count_those_that_never_did():
    programs = [100, 300, 200, float("inf")]
    assert [statistics.to_solve(programs, share) for share in (0.25, 0.5, 0.75, 1)] == [100, 200, 300, float("inf")]


def test_a_summary_by_hand():
    searches = [search(0, [(1, 0.0), (40, 1.0)], solved=True), search(1, [(1, 0.5)]), search(2, [(1, 0.0), (9, 0.6)])]
    found = summary(Group("T", "m", [], searches))
    assert (found.searches, found.finished, found.solved, found.programs) == (3, 3, 1, 50)
    assert found.mean == pytest.approx(0.7)
    assert found.deviation == pytest.approx(np.std([1, 0.5, 0.6], ddof=1))
    assert found.quartiles == (40, float("inf"), float("inf"))


def test_curves_hold_last_values_and_stop_where_an_unfinished_search_is():
    ended = Group("T", "ended", [], [search(0, [(1, 0.0), (10, 1.0)], solved=True)])
    running = Group(
        "T", "running", [], [search(0, [(1, 0.0), (100, 0.5)]), search(1, [(1, 0.0), (50, 0.25)], finished=False)]
    )
    (_, first), (_, second) = curves([ended, running], "evaluated")
    assert (first.at[0], first.at[-1], first.band.middle[-1]) == (1, 100, 1.0)
    assert (second.at[-1], second.band.middle[-1]) == (50, 0.125)


def test_numbers_in_words():
    assert in_ranges([5, 0, 1, 2, 9]) == "0-2,5,9"


# What is read


def test_runs_are_found_in_folders_and_hosts_put_together(runs):
    groups, troubles = group(read_all([runs]))
    assert [(each.task, each.method, len(each.searches)) for each in groups] == [(TASK, "hc", 2), (TASK, "llm-gs", 2)]
    assert not troubles
    assert group(read_all([runs, runs / "hc"]))[1] == []  # the same directory twice is one


def test_runs_of_other_budgets_are_told_apart_and_seeds_count_once(copied):
    shutil.copytree(copied / "llm-gs", copied / "again")
    other = json.loads((copied / "llm-gs" / "config.json").read_text()) | {"budget": 61}
    shutil.copytree(copied / "llm-gs", copied / "more")
    (copied / "more" / "config.json").write_text(json.dumps(other))
    groups, troubles = group(read_all([copied]))
    assert [each.method for each in groups] == ["hc", "llm-gs (budget 60)", "llm-gs (budget 61)"]
    assert [len(each.searches) for each in groups] == [2, 2, 2]
    assert len(troubles) == 1
    assert "seeds 0-1 left out" in troubles[0]


def test_damage_is_named_and_the_rest_is_shown(copied):
    out = copied / "llm-gs"
    (out / "seed-0" / "result.json").write_text('{"seed": 0, "ret')
    metrics = (out / "metrics.jsonl").read_bytes()
    (out / "metrics.jsonl").write_bytes(b'{"seed": "x"}\n\xff\n' + metrics + b'{"seed": 0, "eva')
    (out / "env.json").unlink()
    (copied / "hc" / "host-0-of-2" / "seed-0" / "result.json").write_text('{"seed": 0}')
    (copied / "hc" / "host-1-of-2" / "config.json").write_text("[]")
    files = report.write([copied], copied / "report.html", rollout=gif)
    page = files[0].read_text()
    for message in ("llm-gs/seed-0/result.json: damaged", "host-0-of-2/seed-0/result.json: not a search", "lines 1-2",
                    "the last line is torn", "env.json: No such file", "no result yet of seed 0",
                    "config.json: damaged"):  # fmt: skip
        assert message in page
    assert "1 of 2 finished" in page
    rows = {(row["method"], row["seed"]): row for row in table_rows(files[1])}
    assert rows["llm-gs", "0"]["state"] == "unfinished"
    assert rows["llm-gs", "1"]["state"] == "finished"
    assert float(rows["llm-gs", "0"]["return"]) == max(
        row["best"] for row in map(json.loads, metrics.splitlines()) if row["seed"] == 0
    )


def test_a_run_that_has_only_begun_has_a_report(copied):
    for name in ("metrics.jsonl", "programs.jsonl"):
        (copied / "llm-gs" / name).unlink()
    for file in copied.glob("llm-gs/seed-*/result.json"):
        file.unlink()
    assert "no program yet" in report.write([copied / "llm-gs"], copied / "r.html")[0].read_text()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        report.write([tmp_path], tmp_path / "report.html")
    with pytest.raises(UserError, match="no such folder"):
        report.write([tmp_path / "nothing"], tmp_path / "report.html")


def test_the_use_of_a_language_model_is_added_up(copied):
    rows = [
        {"outcome": "answered", "samples": [0, 48], "tokens": {"prompt": 900, "completion": 5000}, "cost": 0.25},
        {"outcome": "timeout", "samples": [48, 60], "cost": 0.125},
        {"outcome": "cached", "answers": 3},
    ]  # fmt: skip
    (copied / "llm-gs" / "llm" / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (copied / "llm-gs" / "seed-0" / "result.json").unlink()  # then its answers are counted from their record
    groups, _ = group(read_all([copied / "llm-gs"]))
    use = llm_use(groups[0])
    looked_at = [json.loads(line) for line in (copied / "llm-gs" / "llm" / "answers.jsonl").read_text().splitlines()]
    assert (use.asked, use.prompt_tokens, use.completion_tokens, use.cost) == (60, 900, 5000, 0.375)
    assert use.requests == {"answered": 1, "timeout": 1, "cached": 1}
    assert use.looked_at == len(looked_at)
    assert use.accepted == sum(bool(row["program"]) for row in looked_at)
    assert sum(use.rejected.values()) == sum(len(row["rejected"]) for row in looked_at)


# What is written


def test_tables_hold_what_the_runs_found(runs, tmp_path):
    page, searches, table, lines = report.write([runs], tmp_path / "report.html")
    rows = table_rows(searches)
    assert len(rows) == 4
    for row in rows:
        (file,) = runs.glob(f"{row['method']}/**/seed-{row['seed']}/result.json")
        result = json.loads(file.read_text())
        assert float(row["return"]) == result["return"]
        assert row["program"] == result["program"]
    for row in table_rows(table):
        returns = [float(each["return"]) for each in rows if each["method"] == row["method"]]
        assert float(row["mean"]) == pytest.approx(np.mean(returns))
        assert float(row["iqm"]) == pytest.approx(scipy.stats.trim_mean(returns, 0.25))
    ends = {(row["method"], row["against"]): float(row["iqm"]) for row in table_rows(lines)}
    assert ends["hc", "evaluated"] == ends["hc", "seconds"]
    assert f"{LEAPS.means[TASK]:.2f}" in page.read_text()


def test_what_comes_from_files_is_escaped(copied):
    file = copied / "llm-gs" / "seed-0" / "result.json"
    evil = {"return": 2.0, "python": "<script>alert(1)</script>", "source": "<img src=http://x>"}
    file.write_text(json.dumps(json.loads(file.read_text()) | evil))
    config = copied / "llm-gs" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"method": "<script>"}))
    page = report.write([copied], copied / "report.html")[0].read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_figures_are_written_or_the_extra_named(runs, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="unknown format 'gif'"):
        figures.write([runs], tmp_path / "report.html", ["gif"])
    png, pdf = figures.write([runs], tmp_path / "report.html", ["png", "pdf"])
    assert png.name == f"report-{TASK}.png"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"\.\[plots\]"):
        figures.write([runs], tmp_path / "report.html", ["png"])


@pytest.fixture(scope="module")
def chromium():
    if not browser.find():
        assert os.environ.get("CI") != "true", "CI needs a browser: apt-get install chromium-headless-shell"
        pytest.skip("no browser: apt-get install chromium-headless-shell")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_opens_in_a_browser(runs, tmp_path, chromium, theme):
    file = report.write([runs], tmp_path / "report.html", rollout=gif)[0]
    with browser.Page(tmp_path / "profile") as page:
        page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        page.ask("Emulation.setDeviceMetricsOverride", width=1100, height=900, deviceScaleFactor=1, mobile=False)
        page.open(file)
        images = page.value(
            "[...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width])"
        )
        lines = page.value("[...document.querySelectorAll('svg.chart .line')].map(l => [l.getTotalLength(),"
                           " l.getBoundingClientRect().width, getComputedStyle(l).stroke])")  # fmt: skip
        paper = page.value("getComputedStyle(document.body).backgroundColor")
        policy = page.value("document.querySelector('meta[http-equiv]').content")
        wide = page.value("document.documentElement.scrollWidth")
        assert page.value("document.querySelectorAll('h2').length") >= 5
        # the policy holds: a request that the page itself would make is stopped
        before = page.complaints(), page.requests()
        page.value(
            "new Promise(done => {let i = new Image(); i.onerror = i.onload = done; i.src = 'http://127.0.0.1:9/x.png'})"
        )
        blocked = [event["params"]["entry"]["text"] for event in page.events if event.get("method") == "Log.entryAdded"]
    assert before == ([], [file.as_uri()])
    assert any("Content Security Policy" in text for text in blocked)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert len(images) == 2  # a rollout for each method
    assert all(complete and own == 40 and shown > 0 for complete, own, shown in images)
    assert len(lines) == 4  # two methods, against programs and seconds
    assert all(length > 50 and width > 50 and stroke.startswith("rgb") for length, width, stroke in lines)
    assert len({stroke for _, _, stroke in lines}) == 2
    assert wide <= 1100
    level = sum(map(int, re.findall(r"\d+", paper)[:3]))
    assert (level > 600) == (theme == "light")


def test_the_command_writes_beside_the_run(copied):
    words = [sys.executable, "experiments/report.py", str(copied / "llm-gs"), "--no-rollouts"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (copied / "llm-gs" / "report.html").exists()
    refused = subprocess.run(
        [*words[:2], str(copied / "llm-gs" / "llm")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "no run directory" in refused.stderr


# Mirrors


def test_tensorboard_gets_the_rows_of_the_record(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    out = tmp_path / "run"
    run(Config(TASK, "hc", (4,), budget=60, layouts=tuple(range(4))), out, mirror=opener("tensorboard"))
    (file,) = (out / "tensorboard").iterdir()
    points, content = [], file.read_bytes()
    while content:
        size = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + size])
        points += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        content = content[12 + size + 4 :]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows
    assert [point for point in points if point[0] == "return/seed-4"] == [
        ("return/seed-4", row["evaluated"], pytest.approx(row["best"])) for row in rows
    ]


class FakeWandb:
    """What the mirror uses of wandb."""

    class Error(Exception):
        pass

    def __init__(self):
        self.rows, self.metrics, self.finished = [], [], False

    def init(self, **how):
        self.how = how
        return self

    def define_metric(self, name, **how):
        self.metrics.append((name, how))

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished = True


def test_wandb_gets_the_rows_of_the_record(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    mirror = opener("wandb")(tmp_path)
    mirror("metrics.jsonl", {"seed": 3, "evaluated": 7, "best": 0.5, "seconds": 0.1})
    mirror("programs.jsonl", {"seed": 3})
    mirror.close()
    assert fake.rows == [{"seed 3/programs": 7, "seed 3/return": 0.5, "seed 3/seconds": 0.1}]
    assert ("seed 3/*", {"step_metric": "seed 3/programs"}) in fake.metrics
    assert fake.how == {"dir": str(tmp_path), "name": tmp_path.name}
    assert fake.finished


def test_a_mirror_that_fails_does_not_end_the_run(capsys):
    def fail(row):
        raise ConnectionError("no route")

    mirror = Mirror(fail, lambda: pytest.fail("closed after it failed"))
    for _ in range(2):
        mirror("metrics.jsonl", {})
    mirror.close()
    assert capsys.readouterr().err == "warning: logging stops, the run goes on: ConnectionError: no route\n"


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_with_its_extra(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, {"tensorboard": "tensorboardX"}.get(kind, kind), None)
    with pytest.raises(UserError, match=rf"pip install -e '\.\[{kind}\]'"):
        opener(kind)
    with pytest.raises(UserError, match="unknown log 'paper'"):
        opener("paper")
