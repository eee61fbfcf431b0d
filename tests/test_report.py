"""Reports: what they say of damaged runs, what they write, and the page in a real browser."""

import base64
import csv
import io
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

from jaxprl import render
from jaxprl.cli import report as report_command
from jaxprl.dsl import text
from jaxprl.errors import UserError
from jaxprl.experiment import ledger
from jaxprl.experiment.run import Config, run
from jaxprl.report import figures, sections
from jaxprl.report import page as reports
from jaxprl.report.groups import group
from jaxprl.report.llm_use import llm_use
from jaxprl.report.published_results import of_task
from jaxprl.report.reading import read_all
from jaxprl.runs.mirror import Mirror, opener
from jaxprl.worlds import task_files
from jaxprl.worlds.make import make

ROOT = Path(__file__).parent.parent
TASK = "DoorKey"


def gif(config, seed, program):
    """Two frames of 40 x 30 pixels in the place of a rollout."""
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_004))
        run(Config(TASK, "llm-gs", (0, 1), budget=60, layouts=layouts), folder / "llm-gs")
        for host in range(2):
            run(Config(TASK, "hc", (host,), budget=60, layouts=layouts), folder / "hc" / f"host-{host}-of-2")
    return folder


@pytest.fixture
def copied(runs, tmp_path):
    return shutil.copytree(runs, tmp_path / "runs")


@pytest.fixture
def script(monkeypatch):
    """The command `jaxprl report` as a module that leaves JAX's configuration alone."""
    monkeypatch.setattr(report_command, "prepare_jax", lambda: None)
    return report_command


def change(file, **entries):
    """Change entries of a JSON file; None takes one away."""
    file.write_text(json.dumps({n: v for n, v in (json.loads(file.read_text()) | entries).items() if v is not None}))


def table_rows(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


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


def test_of_two_searches_with_a_seed_the_finished_one_counts_with_its_answers(copied):
    shutil.copytree(copied / "llm-gs", copied / "again")
    for name in ("again", "llm-gs"):
        request = {"outcome": "answered", "samples": [0, 48], "cost": 1.0}
        (copied / name / "llm" / "requests.jsonl").write_text(json.dumps(request) + "\n")
    (copied / "again" / "seed-1" / "result.json").unlink()
    (found,), troubles = group(read_all([copied / "again", copied / "llm-gs"]))
    assert [(run.path.name, [each.seed for each in run.searches]) for run in found.runs] == [
        ("again", [0]), ("llm-gs", [1]),
    ]  # fmt: skip
    assert len(found.finished) == 2
    assert ["again: seeds 1 left" in troubles[0], "llm-gs: seeds 0 left" in troubles[1]] == [True, True]
    (alone,), _ = group(read_all([copied / "llm-gs"]))
    assert llm_use(found).looked_at == llm_use(alone).looked_at
    (copied / "again" / "seed-0" / "result.json").unlink()
    (found,), _ = group(read_all([copied / "again", copied / "llm-gs"]))
    assert [run.path.name for run in found.runs] == ["llm-gs"]
    assert llm_use(found) == llm_use(alone)


def test_language_models_are_told_apart_by_what_differs(copied):
    shared = {"llm": "openai", "answer": None}
    for name, settings in (("a", {"model": "gpt-4o"}), ("b", {"model": "llama3", "seed": None})):
        shutil.copytree(copied / "llm-gs", copied / name)
        change(copied / name / "config.json", **shared, settings={"temperature": 1.0} | settings)
    groups, _ = group(read_all([copied / "a", copied / "b"]))
    assert [each.method for each in groups] == ["llm-gs (model gpt-4o)", "llm-gs (model llama3)"]
    assert "stand-ins" not in sections.language_model(groups, {each.method: 0 for each in groups})
    groups, _ = group(read_all([copied / "llm-gs"]))
    assert "are stand-ins" in sections.language_model(groups, {"llm-gs": 0})
    for name in ("a", "b"):
        change(copied / name / "config.json", settings={"model": "m"}, **{"task file": 4 * f"{name}1234"[:4]})
    groups, _ = group(read_all([copied / "a", copied / "b"]))
    assert [each.method for each in groups] == ["llm-gs (task file a123a123)", "llm-gs (task file b123b123)"]


HUGE = 10**400
ODD = {
    "no seeds": ("config.json", {"seeds": 3}, "config.json: the seeds are not a list"),
    "null": ("seed-0/result.json", {"unseen_return": "x"}, "seed-0/result.json: not a search's result"),
    "huge result": ("seed-0/result.json", {"evaluated": HUGE}, "seed-0/result.json: not a search's result"),
    "huge return": ("seed-0/result.json", {"return": 1e308}, "seed-0/result.json: not a search's result"),
    "no row": ("metrics.jsonl", b'{"seed": 0, "evaluated": 1%s, "best": 0, "seconds": 1}\n' % (400 * b"0"), "left out"),
    "no metrics": ("metrics.jsonl", b"", "no rows, so no curve, of seeds 0-1"),
    "answers": ("llm/answers.jsonl", b'{"seed": 0, "rejected": [1]}\n{"seed": [1], "rejected": []}\n', "lines 1-2"),
    "layout -1": ("config.json", {"layouts": [-1]}, "layouts are not layout seeds"),
    "layout 2^33": ("config.json", {"layouts": [2**33]}, "layouts are not layout seeds"),
    "surrogate": ("config.json", {"method": "\ud800 $x_$ _{"}, ""),
    "mathtext": ("config.json", {"task": "a$^b$_c", "method": "_hidden"}, ""),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ODD)
def test_odd_files_do_not_end_the_report(copied, name):
    file, content, message = ODD[name]
    if isinstance(content, bytes):
        (copied / "llm-gs" / file).write_bytes(content)
        if name == "answers":
            (copied / "llm-gs" / "seed-0" / "result.json").unlink()
    else:
        change(copied / "llm-gs" / file, **content)
    page, *_ = reports.write([copied / "llm-gs"], copied / "report.html", rollout=gif)
    assert message in page.read_text().replace("&#x27;", "'")
    if not message:
        assert figures.write([copied / "llm-gs"], copied / "report.html", ["svg"])[0].stat().st_size > 10_000


def test_names_that_are_no_text_are_written(runs, tmp_path):
    name = os.fsdecode(b"run-\xff")
    try:
        shutil.copytree(runs / "hc", tmp_path / name)
    except OSError:
        pytest.skip("the file system has UTF-8 names alone")
    page, *_ = reports.write([tmp_path / name], tmp_path / "report.html")
    assert "run-\\udcff" in page.read_text()
    assert not list(tmp_path.glob("*.new"))
    done = subprocess.run([sys.executable, "-m", "jaxprl", "report", tmp_path / name, "--no-rollouts"], cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_damage_is_named_and_the_rest_is_shown(copied):
    out = copied / "llm-gs"
    (out / "seed-0" / "result.json").write_text('{"seed": 0, "ret')
    metrics = (out / "metrics.jsonl").read_bytes()
    (out / "metrics.jsonl").write_bytes(b'{"seed": "x"}\n\xff\n' + metrics + b'{"seed": 0, "eva')
    (out / "env.json").unlink()
    (copied / "hc" / "host-0-of-2" / "seed-0" / "result.json").write_text('{"seed": 0}')
    (copied / "hc" / "host-1-of-2" / "config.json").write_text("[]")
    files = reports.write([copied], copied / "report.html", rollout=gif)
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
    assert "no program yet" in reports.write([copied / "llm-gs"], copied / "r.html")[0].read_text()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        reports.write([tmp_path], tmp_path / "report.html")
    with pytest.raises(UserError, match="no such folder"):
        reports.write([tmp_path / "nothing"], tmp_path / "report.html")


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
    assert use.rejected.total() == use.looked_at - use.accepted


# What is written


def test_tables_hold_what_the_runs_found(runs, tmp_path):
    page, searches, table, lines = reports.write([runs], tmp_path / "report.html")
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
    assert ends["hc", "evaluated"] == pytest.approx(float(table_rows(table)[0]["iqm"]))
    assert set(ends) == {(method, place) for method in ("hc", "llm-gs") for place in ("evaluated", "seconds")}
    shown = {column.name: mean for column, mean in of_task(TASK)}
    assert shown == {"LEAPS": 0.5, "HPRL-PPO": 0.5}
    for name in shown:
        assert f'<td>{name} (published)</td><td class="number">5</td><td class="number">0.50' in page.read_text()


def test_of_searches_that_run_the_best_program_is_shown(copied):
    for file in copied.glob("llm-gs/seed-*/result.json"):
        file.unlink()
    page, searches, *_ = reports.write([copied / "llm-gs"], copied / "report.html", rollout=gif)
    rows = table_rows(searches)
    best = max(rows, key=lambda row: (float(row["return"]), -len(row["program"])))
    for row in rows:
        known = [json.loads(line) for line in (copied / "llm-gs" / "programs.jsonl").read_text().splitlines()]
        last = [each for each in known if each["seed"] == int(row["seed"])][-1]
        assert (row["state"], row["program"], float(row["return"])) == ("unfinished", last["program"], last["return"])
        assert (int(row["found_at"]), row["source"]) == (last["evaluated"], last["source"])
    shown = page.read_text()
    assert f"<pre>{best['program']}</pre>" in shown
    assert "so far" in shown
    assert shown.count("data:image/gif") == 1


def test_what_comes_from_files_is_escaped(copied):
    file = copied / "llm-gs" / "seed-0" / "result.json"
    evil = {"return": 2.0, "python": "<script>alert(1)</script>", "source": "<img src=http://x>"}
    file.write_text(json.dumps(json.loads(file.read_text()) | evil))
    config = copied / "llm-gs" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"method": "<script>"}))
    page = reports.write([copied], copied / "report.html")[0].read_text()
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
    with pytest.raises(UserError, match=r"pip install 'jaxprl\[plots\]'"):
        figures.write([runs], tmp_path / "report.html", ["png"])


@pytest.fixture(scope="module")
def chromium():
    if not browser.find():
        assert os.environ.get("CI") != "true", "CI needs a browser: apt-get install chromium-headless-shell"
        pytest.skip("no browser: apt-get install chromium-headless-shell")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_opens_in_a_browser(runs, tmp_path, chromium, theme):
    file = reports.write([runs], tmp_path / "report.html", rollout=gif)[0]
    with browser.Page(tmp_path / "profile") as page:
        page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        page.ask("Emulation.setDeviceMetricsOverride", width=1100, height=900, deviceScaleFactor=1, mobile=False)
        page.open(file)
        images = page.value(
            "[...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width])"
        )
        lines = page.value("[...document.querySelectorAll('svg.chart :is(.line, .dot)')].map(l => [l.getTotalLength(),"
                           " l.getBoundingClientRect().width,"
                           " getComputedStyle(l)[l.tagName == 'circle' ? 'fill' : 'stroke']])")  # fmt: skip
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
    # a dot: of two runs one ended before the other began
    assert all((length > 50 and width > 50) or length < 20 for length, width, _ in lines)
    assert sum(length > 50 for length, _, _ in lines) >= 3
    assert len({stroke for _, _, stroke in lines}) == 2
    assert wide <= 1100
    level = sum(map(int, re.findall(r"\d+", paper)[:3]))
    assert (level > 600) == (theme == "light")


def test_the_rollout_in_the_page_is_the_best_program_at_work(runs, tmp_path, chromium, script):
    from PIL import Image

    (found,), _ = group(read_all([runs / "hc"]))
    task, program = make(TASK), found.best.result["program"]
    frames = render.frames(
        task, 0, text.from_text(program, task.language), cell=script.CELL, most_frames=script.MOST_FRAMES
    )
    gif = script.rollout(found.runs[0].config, 0, program)
    with Image.open(io.BytesIO(gif)) as image:
        assert image.n_frames == len(frames)
        shown = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(shown - frames[0].image).mean() < 1
    file = reports.write([runs / "hc"], tmp_path / "report.html", rollout=script.rollout)[0]
    with browser.Page(tmp_path / "profile") as page:
        page.open(file)
        sizes = page.value("[...document.images].map(i => [i.complete, i.naturalHeight, i.naturalWidth])")
        assert page.complaints() == []
    assert sizes == [[True, *frames[0].image.shape[:2]]]
    assert base64.b64encode(gif).decode() in file.read_text()


def test_a_task_file_that_has_changed_is_not_run(tmp_path, script):
    file = tmp_path / "mine.py"
    file.write_text("raise SystemExit('run')")
    config = {"task": f"{file}:Mine", "task file": task_files.checksum(str(file))}
    with pytest.raises(UserError, match="run"):
        script.rollout(config, 0, "DEF run m( m)")
    file.write_text("raise SystemExit('run') # again")
    with pytest.raises(UserError, match=r"mine\.py has changed since"):
        script.rollout(config, 0, "DEF run m( m)")


def test_what_is_asked_for_is_checked_first(copied, script):
    before = sorted(copied.rglob("*"))
    for words, message in (
        (["--out", "x.csv"], r"ends with \.html"),
        (["--figures", "png,gif"], "unknown format 'gif'"),
    ):
        with pytest.raises(UserError, match=message):
            script.main([str(copied), *words])
    assert sorted(copied.rglob("*")) == before


def test_without_pillow_a_warning_names_the_extra(copied, script, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "PIL", None)
    render.page._pillow.cache_clear()
    render.page.font.cache_clear()
    assert script.main([str(copied / "hc")]) == 0
    assert re.search(r"warning: no pictures .* pip install 'jaxprl\[plots\]'", capsys.readouterr().err)
    assert (
        "No rollout: drawing text needs the package PIL: pip install &#x27;jaxprl[plots]&#x27;"
        in (copied / "hc" / "report.html").read_text()
    )


def test_the_command_writes_beside_the_run(copied):
    words = [sys.executable, "-m", "jaxprl", "report", str(copied / "llm-gs"), "--no-rollouts"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (copied / "llm-gs" / "report.html").exists()
    refused = subprocess.run(
        [*words[:4], str(copied / "llm-gs" / "llm")], cwd=ROOT, capture_output=True, text=True, check=False
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
    with pytest.raises(UserError, match=rf"pip install 'jaxprl\[{kind}\]'"):
        opener(kind)
    with pytest.raises(UserError, match="unknown log 'paper'"):
        opener("paper")
