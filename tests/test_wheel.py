"""The package as it is installed: a wheel, used in an empty folder far from any clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.full
def test_the_command_works_from_a_wheel(tmp_path):
    """It builds a wheel, for which pip may fetch setuptools."""
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", str(ROOT), "-w", str(tmp_path / "wheel")]
    subprocess.run(words, check=True)
    [wheel] = (tmp_path / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = archive.namelist()
    for name in (
        "jaxprl/py.typed",
        "jaxprl/report/report.css",
        "jaxprl/latent/karel.npz",
        "jaxprl/latent/karel_hprl.npz",
    ):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    sweep = tmp_path / "sweep.toml"
    sweep.write_text('[[grid]]\ntasks = ["StairClimber", "Maze"]\nmethods = ["hc", "chain"]\n')
    (tmp_path / "empty").mkdir()

    def call(*words):
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
        done = subprocess.run(
            [sys.executable, "-m", "jaxprl", *words],
            cwd=tmp_path / "empty",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import jaxprl; print(jaxprl.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "empty",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(tmp_path / "site"))
    assert "Best program" in call("run", "--budget", "2000", "--out", "r")
    assert "report.html" in call("report", "r")
    call("sweep", str(sweep), "--budget", "200", "--out", "s")
    assert (tmp_path / "empty" / "s" / "report.html").exists()
    assert call("--version") == "jaxprl 0.2.0\n"
