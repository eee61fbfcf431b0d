"""Search a program for a task: the main job.

python experiments/run.py                            # LLM-GS on DoorKey from the bundled answers
python experiments/run.py --task Maze --method hc --seeds 0-7 --out runs/maze
python experiments/run.py --task Maze --method hc --seeds 0-7 --out runs/maze --resume   # after a crash

SIGTERM and SIGINT save and stop: exit codes 75 and 130. Errors: 2.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprl.arguments import cache_folder, parse_seeds, prepare_jax, run_main
from jaxprl.asking import Means
from jaxprl.config import LATENT, METHODS, Config
from jaxprl.errors import UserError
from jaxprl.experiment import run
from jaxprl.hosts import Host, join
from jaxprl.llm.prompts import STYLES
from jaxprl.llm.settings import Settings
from jaxprl.runs.checkpoint import Every
from jaxprl.runs.mirror import PACKAGES, opener
from jaxprl.runs.record import USAGE
from jaxprl.runs.signals import StopRequest
from jaxprl.worlds import registry


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    host = join(options.hosts) if options.hosts else Host()
    prepare_jax()  # before a task is made: one from a file is tried out
    config = configuration(options, host)
    limit = None if options.max_spend is None else options.max_spend / host.count
    means = Means(options.answers or cache_folder() / "answers.sqlite", options.prices, limit)
    every = Every.parse(options.checkpoint_every)
    name = re.sub(r"[^\w.+-]+", "-", registry.short_name(config.task))
    out = options.out or Path("runs") / time.strftime(f"{name}-{config.method}-%Y%m%d-%H%M%S")
    if host.count > 1:
        out /= host.name
    seeds = options.seeds if host.count == 1 else ",".join(map(str, config.seeds))
    print(f"{config.method} on {config.task}, seeds {seeds}, up to {config.budget:,} programs -> {out}")
    mirror = opener(options.log_to) if options.log_to else None
    with StopRequest() as stop:
        results = run(
            config,
            out,
            resume=options.resume,
            workers=options.devices,
            every=every,
            stop=stop,
            means=means,
            mirror=mirror,
        )
    for result in results:
        print(
            f"seed {result['seed']}: return {result['return']:.4f} ({result['unseen_return']:.4f} on "
            f"{result['unseen_layouts']:,} unseen layouts) after {result['evaluated']:,} programs, {result['stop']}"
        )
        if "llm" in result:
            print(f"  {in_words(result['llm'])}")
    if config.asks:
        print(spent(json.loads((out / USAGE).read_text())))
    best = max(results, key=lambda result: result["return"])
    print(f"\nBest program (seed {best['seed']}, {out}):\n\n{best['python']}", flush=True)
    return 0


def configuration(options: argparse.Namespace, host: Host) -> Config:
    """Return what a host is asked to do. Raises UserError if it cannot be done."""
    config = Config(
        task=options.task,
        method=options.method,
        seeds=host.share(parse_seeds(options.seeds)),
        budget=registry.make(options.task).budget if options.budget is None else options.budget,
        layouts=tuple(parse_seeds(options.layouts)),
        llm=options.llm,
        settings=settings(options),
        style=options.prompt_style,
        revise_every=options.revise_every,
        k=options.k,
        elite=options.elite,
        sigma=options.sigma,
        space=options.space,
    )
    config.check()
    return config


def in_words(counts: dict[str, Any]) -> str:
    """Return what became of the LLM's answers, and what was wrong with the other block of those that gave a program."""
    rejected, slips = (
        ", ".join(f"{number} {reason}" for reason, number in counts[name].items()) for name in ("rejected", "slips")
    )
    told = f"{counts['accepted']} of {counts['answers']} LLM answers gave a program"
    told += f"; rejected: {rejected}" if rejected else ""
    told += f"; slips in the other block: {slips}" if slips else ""
    if "space" in counts:
        space = counts["space"]
        reasons = collections.Counter(each["reason"] for each in space["outside"])
        outside = ", ".join(f"{number} ({reason})" for reason, number in reasons.items())
        told += (
            f"\n  {space['encoded']} of these programs are starts in the learned program space, {space['unchanged']} "
        )
        told += f"of them unchanged; not in it: {outside or 'none'}"
    return told


def settings(options: argparse.Namespace) -> Settings | None:
    """Return the language model that is named, if one is."""
    names = ("model", "base_url", "temperature", "top_p", "max_tokens", "deadline")
    if options.model is None:
        others = (*names, "llm_seed", "answers", "prices", "max_spend")
        given = [f"--{name.replace('_', '-')}" for name in others if getattr(options, name) is not None]
        if given:
            raise UserError(f"{', '.join(given)}: which --model is to be asked?")
        return None
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return Settings(**given, seed=options.llm_seed)


def spent(usage: dict[str, Any]) -> str:
    """Return what a run has asked of a language model, in words."""
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in usage["requests"].items()) or "none"
    about = "about " if usage["estimated"] else ""
    cost = "price unknown" if usage["cost"] is None else f"{usage['cost']:.4f} dollars"
    return (
        f"LLM requests: {outcomes}; {about}{usage['prompt_tokens']:,} prompt and {usage['completion_tokens']:,} "
        f"completion tokens, {cost}"
    )


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
    parser.add_argument("--out", type=_folder, help="run directory (default: a new one under runs/)")
    parser.add_argument(
        "--resume", action="store_true", help="go on in a run directory that is there, from its newest checkpoint"
    )
    parser.add_argument(
        "--checkpoint-every", default="60s", help="how often to save: 60s, 100000 (programs), or both: 60s,100000"
    )
    parser.add_argument("--log-to", help=f"also log to: {', '.join(PACKAGES)} (extras of the same names)")
    parser.add_argument("--devices", type=int, help="threads on a CPU (default: its cores)")
    parser.add_argument(
        "--hosts",
        help="share the seeds with other hosts: auto (Slurm and the like), or ADDRESS:PORT,COUNT,INDEX of host 0",
    )
    add_language_model(parser.add_argument_group("language model"))
    add_latent_search(parser.add_argument_group(f"search in the learned program space ({', '.join(LATENT)})"))
    return parser


def add_latent_search(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--k", type=int, help="candidates of a generation, or of a neighbourhood (default: published)")
    group.add_argument("--elite", type=int, help="the best ones that the next generation comes from (cem, cebs)")
    group.add_argument("--sigma", type=float, help="standard deviation of candidates (default: published)")
    group.add_argument("--space", type=Path, help="model file of the program space (default: the one that ships)")


def add_language_model(group: argparse._ArgumentGroup) -> None:
    defaults = Config()
    group.add_argument(
        "--llm",
        default="",
        help="where answers come from: openai (any server with OpenAI's chat completions; key in OPENAI_API_KEY), "
        "recorded (those that ship with the package, or with --model those in the cache), none (random programs; the "
        "default of the latent searches)",
    )
    group.add_argument("--model", help="name of the model, as the server knows it")
    group.add_argument("--base-url", help="address of the server, like http://localhost:11434/v1 (default: OpenAI's)")
    group.add_argument("--temperature", type=float, help="(default: 1)")
    group.add_argument("--top-p", type=float, help="(default: 1)")
    group.add_argument("--max-tokens", type=int, help="of one answer (default: the server's)")
    group.add_argument("--llm-seed", type=int, help="the server's seed for sampling (default: none is sent)")
    group.add_argument(
        "--deadline",
        type=float,
        help="seconds that a request may take with its retries, as long as no other is answered (default: 120)",
    )
    group.add_argument("--answers", type=Path, help="cache of all answers (default: in the user's cache folder)")
    group.add_argument("--prices", type=Path, help='JSON: {"MODEL": {"input": 0.15, "output": 0.6}}, $ per 1M tokens')
    group.add_argument(
        "--max-spend",
        type=float,
        help="dollars that a run may spend, an equal share for each of its hosts; needs --prices, --max-tokens",
    )
    group.add_argument("--prompt-style", default=defaults.style, help=", ".join(STYLES))
    group.add_argument(
        "--revise-every", type=int, help="ask again after so many climbs in a row without a new best (llm-gs)"
    )


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name")
    return Path(text)


if __name__ == "__main__":
    sys.exit(run_main(main))
