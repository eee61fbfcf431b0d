"""A long process lets go of what it has compiled, since Linux allows it some 65,530 regions of memory."""

import gc
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from compiled import ENGINES, HAS_C_COMPILER

from jaxprl import xla
from jaxprl.codegen import compiler

MAPS = Path("/proc/self/maps")

pytestmark = pytest.mark.skipif(not MAPS.exists(), reason="the regions cannot be counted")


def regions() -> int:
    gc.collect()
    return MAPS.read_text().count("\n")


def looped(number: int, row: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 9, lambda _, row: row * number + jnp.sum(row[: number + 1]), row)


ROW = jnp.arange(100, dtype=jnp.int32)


def test_what_was_compiled_for_other_tasks_is_let_go():
    of_task = xla.jit(per="number", static_argnames="number")(looped)
    counts = []
    for number in range(3 * xla.KEPT):
        of_task(number, ROW)
        if number % xla.KEPT == xla.KEPT - 1:
            counts.append(regions())
    assert counts[-1] <= counts[0] + xla.KEPT // 2
    assert of_task(0, ROW).tolist() == looped(0, ROW).tolist()  # it is compiled again


@pytest.mark.skipif(not HAS_C_COMPILER, reason="there is no compiler")
def test_functions_in_c_leave_the_process_with_the_last_who_has_them(tmp_path, monkeypatch):
    def is_loaded() -> bool:
        gc.collect()
        return str(tmp_path) in MAPS.read_text()

    monkeypatch.setattr(compiler.kept, "folder", lambda: tmp_path)
    for _ in range(2):  # the second time from the folder
        functions = compiler.load("int twice(int x) { return 2 * x; }", compiler.command())
        compiler._load.cache_clear()
    assert is_loaded()
    assert functions.twice(4) == 8
    del functions
    assert not is_loaded()


def test_with_many_regions_everything_is_dropped_and_compiled_again(tmp_path, monkeypatch):
    """What a user has compiled, too; and it is not dropped again and again where something else has the regions."""
    limit, users = tmp_path / "max_map_count", jax.jit(looped, static_argnums=0)
    before = regions()
    limit.write_text(str(4 * (before + 60)))
    monkeypatch.setattr(xla, "_LIMIT", limit)
    monkeypatch.setattr(xla, "_left", 0)

    def look() -> int:
        time.sleep(xla._LOOK_SECONDS)
        xla.has_whole_loops.cache_clear()
        xla.has_whole_loops()
        return users._cache_size()

    for number in range(10):
        users(number, ROW)
    assert look() == 10
    for number in range(60):
        users(number, ROW)
    assert regions() > before + 60
    assert look() == 0
    assert users(3, ROW).tolist() == looped(3, ROW).tolist()
    limit.write_text("100")  # of which others have all
    assert look() == look() == 1


@pytest.mark.full
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "cuda"])
def test_tasks_that_are_done_are_let_go(engine):
    """Of three times as many tasks as are kept, the last ones add nothing, and the first one still runs."""
    code = f"""
import dataclasses, gc
import jaxprl
from test_wide_types import LINE, Line

@dataclasses.dataclass(frozen=True)
class Longer(Line):
    call_limit: int = 50  # which stands in what is compiled

def calls(number):
    task = dataclasses.replace(LINE, name=f"Line{{number}}", world=Longer(60 + number))
    return jaxprl.evaluate(task, [program], layout_seeds=range(4), engine={engine!r}).calls.tolist()

program = jaxprl.parse("DEF run m( WHILE c( not c( at_wall c) c) w( left w) right m)", LINE)
first = calls(0)
for number in range(1, 96):
    calls(number)
    if number in (9, 63, 95):
        gc.collect()
        print(open("/proc/self/maps").read().count(chr(10)))
print(calls(0) == first)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=False, text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    few, kept, many, same = done.stdout.split()
    assert int(few) < int(kept)
    assert int(many) <= int(kept) + 8
    assert same == "True"


@pytest.mark.full
def test_a_process_with_thousands_of_compiled_programs_lets_them_go():
    """They are a user's own, who keeps the functions, and runs programs now and then."""
    code = """
import jax, jax.numpy as jnp
import jaxprl
task = jaxprl.make("Seeder")
program = jaxprl.parse("DEF run m( move putMarker m)", task)
row, kept, counts = jnp.arange(50), [], [0]

def step(carry, _):
    return jnp.sort(carry)[::-1] * 3 + jnp.cumsum(carry), jnp.sum(carry)

while counts[-1] >= max(counts) // 2:
    for _ in range(50):
        kept.append(jax.jit(lambda row, number=len(kept): jax.lax.scan(step, row + number, None, length=5)))
        kept[-1](row)
    jaxprl.evaluate(task, [program], layout_seeds=range(2))
    counts.append(open("/proc/self/maps").read().count(chr(10)))
print(max(counts), counts[-1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    most, left = map(int, done.stdout.split())
    assert most < 65_530 // 3
    assert left < 5_000
