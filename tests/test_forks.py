"""In a fork of a process in which JAX has run, JAX would hang; that is said, and what needs no JAX goes on."""

import subprocess
import sys

BEGINNING = """
import multiprocessing, os, sys, time, traceback, warnings
import numpy as np
warnings.simplefilter("ignore")  # JAX warns of every fork

def in_child(work):
    reader, writer = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if not child:
        try:
            said = repr(work())
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    waited = 0
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.01)
        if time.monotonic() > started + 60:
            os.kill(child, 9)
            print("HANGS", flush=True)
            return
    print(f"{time.monotonic() - started < LIMIT} {os.read(reader, 10_000).decode()}", flush=True)

LIMIT = 60
PROGRAM = "DEF run m( move putMarker m)"

def evaluated():
    task = jaxprl.make("Seeder")
    return jaxprl.evaluate(task, [jaxprl.parse(PROGRAM, task)], layout_seeds=range(2)).ends.tolist()
"""


def lines(code):
    """What a process prints that runs some code."""
    done = subprocess.run([sys.executable, "-c", BEGINNING + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def refused(line):
    return line.startswith("True UserError: process ") and 'multiprocessing.get_context("spawn")' in line


def test_what_runs_jax_says_so_at_once_and_the_rest_goes_on():
    """Also in the fork of a fork, and in processes of `multiprocessing`."""
    code = """
import jax, jaxprl, gymnasium, tempfile
jax.numpy.arange(3) + 1  # before anything that runs JAX is imported of this package
in_child(evaluated)
LIMIT = 1.5
import jaxprl.environments
from jaxprl.dsl import sample
from jaxprl.experiment.run import run
from jaxprl.latent.space import LatentSpace
from jaxprl.search.protocol import search_keys
from jaxprl.vm.evaluate import first_better
from jaxprl.worlds.karel.world import LANGUAGE
task = jaxprl.make("Seeder")
program = jaxprl.parse(PROGRAM, task)
keys, layouts = jax.random.split(jax.random.key(0), 3), task.layouts([0])
env = jaxprl.make_env("Seeder", layout_seeds=range(2))
state = env.start(0)
for engine in (None, "native", "sequential", "lanes"):
    in_child(lambda: jaxprl.evaluate(task, [program], engine=engine))
in_child(lambda: jaxprl.proceed(task, [program], layouts))
in_child(lambda: sample.random_programs(LANGUAGE, keys))
in_child(lambda: search_keys([0]))
in_child(lambda: env.step(state, 0))
in_child(lambda: jaxprl.make_env("Seeder"))
in_child(lambda: gymnasium.make_vec("jaxprl/Karel-Seeder-v0", num_envs=2).reset(seed=0))
in_child(lambda: LatentSpace.load())
in_child(lambda: jaxprl.check(task))
in_child(lambda: jaxprl.run(jaxprl.Config("Seeder", "hc", budget=10), tempfile.mkdtemp()))
in_child(lambda: in_child(evaluated))
print("--")
def pooled(out):
    try:
        out.put(evaluated())
    except Exception as error:
        out.put(f"True {type(error).__name__}: {error}")
context = multiprocessing.get_context("fork")
queue = context.Queue()
context.Process(target=pooled, args=(queue,)).start()
print(queue.get(timeout=20))
print("--")
in_child(lambda: len(jaxprl.trace(task, program, layout_seed=0).moments))
def walked():
    single = gymnasium.make("jaxprl/Karel-Seeder-v0")
    single.reset(seed=0)
    return single.step(0)[1]
in_child(walked)
forked = {"vectorization_mode": "async", "vector_kwargs": {"context": "fork"}}
envs = gymnasium.make_vec("jaxprl/Karel-Seeder-v0", num_envs=2, **forked)
print(envs.reset(seed=0)[0].shape)
envs.close()
print(evaluated())
"""
    said, pooled, goes_on = (part.strip().splitlines() for part in "\n".join(lines(code)).split("--"))
    assert len(said) == 16
    assert [line for line in said if not refused(line)] == ["True None"]  # of the child that had a child
    assert refused(pooled[0])
    assert goes_on[:3] == ["True 3", "True 0.0", "(2, 16, 8, 8)"]
    assert goes_on[3] == "[['E', 'E']]"


def test_a_fork_before_jax_has_run_is_no_matter():
    code = "import jax, jaxprl\nfrom jaxprl.dsl import sample\nin_child(evaluated)\nprint(evaluated())"
    assert lines(code) == ["True [['E', 'E']]", "[['E', 'E']]"]


def test_a_child_that_imports_the_package_after_the_fork_says_so_too():
    code = """
import jax
jax.numpy.arange(3) + 1
def late():
    global jaxprl
    import jaxprl
    return evaluated()
in_child(late)
"""
    assert refused(*lines(code))
