"""What the README shows runs as it is written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_examples_run(code):
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_file_map_names_every_module():
    map_of_files = README.split("## Where things are")[1]
    for file in (ROOT / "jaxprl").rglob("*.py"):
        if not file.name.startswith("__") and file.parent.name != "tasks":
            assert file.name in map_of_files, file
