"""Search a program for a task: the main job.

python experiments/run.py                            # LLM-GS on DoorKey from the bundled answers
python experiments/run.py --task Maze --method hc --seeds 0-7 --out runs/maze
python experiments/run.py --task Maze --method hc --seeds 0-7 --out runs/maze --resume   # after a crash

SIGTERM and SIGINT save and stop: exit codes 75 and 130. Errors: 2.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprl.arguments import parse_seeds, prepare_jax, run_main
from jaxprl.experiment import LLMS, METHODS, Config, run
from jaxprl.hosts import Host, join
from jaxprl.runs.checkpoint import Every
from jaxprl.runs.signals import StopRequest
from jaxprl.worlds import registry


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    host = join(options.hosts) if options.hosts else Host()
    prepare_jax()  # before a task is made: one from a file is tried out
    config = Config(
        task=options.task,
        method=options.method,
        seeds=host.share(parse_seeds(options.seeds)),
        budget=registry.make(options.task).budget if options.budget is None else options.budget,
        layouts=tuple(parse_seeds(options.layouts)),
        llm=options.llm,
    )
    config.check()
    every = Every.parse(options.checkpoint_every)
    name = re.sub(r"[^\w.+-]+", "-", registry.short_name(config.task))
    out = options.out or Path("runs") / time.strftime(f"{name}-{config.method}-%Y%m%d-%H%M%S")
    if host.count > 1:
        out /= host.name
    seeds = options.seeds if host.count == 1 else ",".join(map(str, config.seeds))
    print(f"{config.method} on {config.task}, seeds {seeds}, up to {config.budget:,} programs -> {out}")
    with StopRequest() as stop:
        results = run(config, out, resume=options.resume, workers=options.devices, every=every, stop=stop)
    for result in results:
        print(
            f"seed {result['seed']}: return {result['return']:.4f} ({result['unseen_return']:.4f} on "
            f"{result['unseen_layouts']:,} unseen layouts) after {result['evaluated']:,} programs, {result['stop']}"
        )
        if "llm" in result:
            print(f"  {in_words(result['llm'])}")
    best = max(results, key=lambda result: result["return"])
    print(f"\nBest program (seed {best['seed']}, {out}):\n\n{best['python']}", flush=True)
    return 0


def in_words(counts: dict[str, Any]) -> str:
    """Return what became of the LLM's answers; of an answer's two blocks, one may be rejected and the other not."""
    rejected = [
        f"{number} {block} ({reason})"
        for block in counts["rejected"]
        for reason, number in counts["rejected"][block].items()
    ]
    told = f"{counts['accepted']} of {counts['answers']} LLM answers gave a program"
    return f"{told}; blocks rejected: {', '.join(rejected) or 'none'}"


def parser() -> argparse.ArgumentParser:
    defaults = Config()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--task", default=defaults.task, help="of `python -m jaxprl tasks`, farama:NAME or file.py:NAME"
    )
    parser.add_argument("--method", default=defaults.method, help=", ".join(METHODS))
    parser.add_argument("--seeds", default="0", help="search seeds, like 0-31 or 0,3,7-9")
    parser.add_argument("--budget", type=int, help="programs that a search may evaluate (default: the task's)")
    parser.add_argument("--layouts", default="0-31", help="layout seeds that programs are evaluated on")
    parser.add_argument("--llm", default=defaults.llm, help=f"where LLM answers come from: {', '.join(LLMS)}")
    parser.add_argument("--out", type=_folder, help="run directory (default: a new one under runs/)")
    parser.add_argument(
        "--resume", action="store_true", help="go on in a run directory that is there, from its newest checkpoint"
    )
    parser.add_argument(
        "--checkpoint-every", default="60s", help="how often to save: 60s, 100000 (programs), or both: 60s,100000"
    )
    parser.add_argument("--devices", type=int, help="threads on a CPU (default: its cores)")
    parser.add_argument(
        "--hosts",
        help="share the seeds with other hosts: auto (Slurm and the like), or ADDRESS:PORT,COUNT,INDEX of host 0",
    )
    return parser


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name")
    return Path(text)


if __name__ == "__main__":
    sys.exit(run_main(main))
