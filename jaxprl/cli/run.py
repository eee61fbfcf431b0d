"""Search programs for a task: the main job.

jaxprl run                                                        # LLM-GS on DoorKey from the bundled answers
jaxprl run --task Maze --method hc --seeds 0-7 --out runs/maze
jaxprl run --task Maze --method hc --seeds 0-7 --out runs/maze --resume      # after a crash
jaxprl run --published carvalho-hc --task DoorKey --out runs/hc              # as in a paper; `jaxprl published` lists

SIGTERM and SIGINT save and stop: exit codes 75 and 130. Errors: 2.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

from jaxprl.cli.common import check_devices, command_parser, parse_seeds, path, prepare_jax
from jaxprl.cli.published import setting_in_words
from jaxprl.errors import UserError
from jaxprl.experiment import published
from jaxprl.experiment.cluster import Host, join
from jaxprl.experiment.config import LAYOUTS, METHOD, SEEDS, STYLE, TASK, Config
from jaxprl.experiment.job import resolve
from jaxprl.experiment.language_model import LLMAccess
from jaxprl.experiment.run import run
from jaxprl.llm.prompts import STYLES
from jaxprl.llm.settings import Settings
from jaxprl.methods.base import Job, flag, option_lines, option_types
from jaxprl.methods.registry import methods
from jaxprl.report.comparison import compare, lines
from jaxprl.report.groups import group
from jaxprl.report.reading import in_ranges, read
from jaxprl.runs.checkpoint import Every
from jaxprl.runs.mirror import PACKAGES, opener
from jaxprl.runs.record import USAGE
from jaxprl.runs.signals import StopRequest
from jaxprl.types import JSON
from jaxprl.vm.engines import ENGINES, engine_in_words
from jaxprl.worlds.make import short_name
from jaxprl.worlds.variants import FORM

OPTION = "option:"
"""Prefix of the argparse destinations of methods' own options."""


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    if options.resume and not options.out:
        raise UserError("--resume goes on in a run directory: name it with --out")
    every = Every.parse(options.checkpoint_every)
    if options.seeds is not None:
        parse_seeds(options.seeds)
    host = Host() if options.hosts is None else join(options.hosts)  # waits for the others
    prepare_jax()  # before a task is made: one from a file is tried out
    check_devices()
    whole = configuration(options)
    job = dataclasses.replace(whole, seeds=host.share(whole.seeds))
    limit = None if options.max_spend is None else options.max_spend / host.count
    cache = {"cache": options.answers} if options.answers else {}
    access = LLMAccess(**cache, prices=options.prices, limit=limit)
    out = options.out or _new_folder(job)
    if host.count > 1:
        out /= host.name
    if whole.published is not None:
        print("\n".join(setting_in_words(published.get(whole.published), whole)))
    print(f"{job.method.name} on {job.task_name}, seeds {in_ranges(job.seeds)}, up to {job.budget:,} programs -> {out}")
    print(f"programs are run by {engine_in_words(job.task, options.engine)}")
    mirror = None if options.log_to is None else opener(options.log_to)
    with StopRequest() as stop:
        results = run(
            job,
            out,
            resume=options.resume,
            workers=options.devices,
            engine=options.engine,
            every=every,
            stop=stop,
            llm_access=access,
            mirror=mirror,
        )
    for result in results:
        print(
            f"seed {result['seed']}: return {result['return']:.4f} ({result['unseen_return']:.4f} on "
            f"{result['unseen_layouts']:,} unseen layouts) after {result['evaluated']:,} programs, {result['stop']}"
        )
        if "policy" in result:
            print(f"  {policy_in_words(result['policy'])}")
        if "llm" in result:
            print(f"  {in_words(result['llm'])}")
    if job.asks:
        print(spent(json.loads((out / USAGE).read_text())))
    for comparison in compare(group([read(out)])[0]):
        print("\n" + "\n".join(lines(comparison)))
    best = max(results, key=lambda result: result["return"])
    print(f"\nBest program (seed {best['seed']}, {out}):\n\n{best['python']}\n\n{best['program']}", flush=True)
    return 0


def _new_folder(job: Job) -> Path:
    """Return the name of a new run directory: the task, the method and the time."""
    task = re.sub(r"[^\w.+-]+", "-", short_name(job.task_name))
    return Path("runs") / time.strftime(f"{task}-{job.method.name}-%Y%m%d-%H%M%S")


def configuration(options: argparse.Namespace) -> Job:
    """Return what all hosts together are asked to do. Raises UserError if it cannot be done."""
    own = {name.removeprefix(OPTION): value for name, value in vars(options).items() if name.startswith(OPTION)}
    config = Config(
        task=options.task,
        method=options.method,
        seeds=None if options.seeds is None else parse_seeds(options.seeds),
        budget=options.budget,
        layouts=None if options.layouts is None else parse_seeds(options.layouts),
        llm=options.llm,
        settings=settings(options),
        style=options.prompt_style,
        options={name: value for name, value in own.items() if value is not None},
        published=options.published,
    )
    return resolve(config)


def in_words(counts: JSON) -> str:
    """Return in words how many of the LLM's answers gave a program and what was wrong with the others.

    An answer can hold a program in two notations; a mistake in one of them, where the other is right, is a slip.
    """
    rejected, slips = (
        ", ".join(f"{number} {reason}" for reason, number in counts[name].items()) for name in ("rejected", "slips")
    )
    text = f"{counts['accepted']} of {counts['answers']} LLM answers gave a program"
    text += f"; rejected: {rejected}" if rejected else ""
    text += f"; slips in the other block: {slips}" if slips else ""
    if "space" in counts:
        space = counts["space"]
        reasons = collections.Counter(each["reason"] for each in space["outside"])
        outside = ", ".join(f"{number} ({reason})" for reason, number in reasons.items())
        text += (
            f"\n  {space['encoded']} of these programs are starts in the learned program space, {space['unchanged']} "
            f"of them unchanged; not in it: {outside or 'none'}"
        )
    if "parts" in counts:
        kinds = dict(counts["parts"])
        equal, large = kinds.pop("equal runs"), kinds.pop("too large")
        found = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        text += f"\n  their parts: {found}; {equal} more run like another one, {large} are too large for any program"
    return text


def policy_in_words(policy: JSON) -> str:
    """Return in words what a search's policy did (`search.hprl.summary`)."""
    which = "of its last update" if policy["updates"] else "so far"
    return (
        f"the policy, after {policy['updates']:,} updates: mean return {policy['policy_return']:.4f} in the episodes "
        f"{which}; {policy['programs']:,} programs decoded, {policy['invalid']:.1%} of the actions invalid"
    )


def settings(options: argparse.Namespace) -> Settings | None:
    """Return how to ask the language model that the options name, or None if they name none.

    With `--llm openai`, a published setting names the model that was asked.
    """
    names = ("model", "base_url", "temperature", "top_p", "max_tokens", "deadline")
    model = options.model
    if model is None and options.llm == "openai" and options.published is not None:
        model = published.model(published.get(options.published), options.task)
    if model is None:
        others = (*names, "llm_seed", "answers", "prices", "max_spend")
        flags = [flag(name) for name in others if getattr(options, name) is not None]
        if flags:
            raise UserError(f"{', '.join(flags)}: which --model is to be asked? Name it")
        return None
    named = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return Settings(**named | {"model": model}, seed=options.llm_seed)


def spent(usage: JSON) -> str:
    """Return in words what a run has asked a language model for, and what it cost."""
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in usage["requests"].items()) or "none"
    about = "about " if usage["estimated"] else ""
    cost = "price unknown" if usage["cost"] is None else f"{usage['cost']:.4f} dollars"
    return (
        f"LLM requests: {outcomes}; {about}{usage['prompt_tokens']:,} prompt and {usage['completion_tokens']:,} "
        f"completion tokens, {cost}"
    )


def parser() -> argparse.ArgumentParser:
    parser = command_parser("run", __doc__)
    parser.add_argument(
        "--task", help=f"one of `jaxprl tasks`, farama:NAME or file.py:NAME; variants are {FORM} (default: {TASK})"
    )
    parser.add_argument(
        "--published",
        metavar="NAME",
        help=f"as published: what no other option says is as in {', '.join(published.SETTINGS)}",
    )
    parser.add_argument("--method", help=f"{', '.join(methods())} (default: {METHOD})")
    parser.add_argument("--seeds", help=f"search seeds, like 0-31 or 0,3,7-9 (default: {in_ranges(SEEDS)})")
    parser.add_argument("--budget", type=int, help="programs that a search may evaluate (default: the task's)")
    parser.add_argument(
        "--layouts", help=f"layout seeds that programs are evaluated on (default: {in_ranges(LAYOUTS)})"
    )
    parser.add_argument("--out", type=path, help="run directory (default: a new one under runs/)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint of --out; where there is no run yet, begin one",
    )
    parser.add_argument(
        "--checkpoint-every", default="60s", help="how often to save: 60s, 100000 (programs), or both: 60s,100000"
    )
    parser.add_argument("--log-to", help=f"also log to: {', '.join(PACKAGES)} (extras of the same names)")
    parser.add_argument("--devices", type=int, help="threads on a CPU (default: its cores)")
    parser.add_argument(
        "--engine", help=f"what runs programs: {', '.join(ENGINES)} (default: the fastest that there is)"
    )
    parser.add_argument(
        "--hosts",
        help="share the seeds with other hosts: auto (Slurm and the like), or ADDRESS:PORT,COUNT,INDEX of host 0",
    )
    add_method_options(parser.add_argument_group("options of methods"))
    add_language_model(parser.add_argument_group("language model"))
    return parser


def add_method_options(group: argparse._ArgumentGroup) -> None:
    """Add a flag for every option of a method; methods share the flags of options with one name."""
    uses: dict[str, dict[str, list[str]]] = {}
    kinds: dict[str, type] = {}
    for method in methods().values():
        kinds |= option_types(method.options)
        for name, help in option_lines(method.options).items():
            uses.setdefault(name, {}).setdefault(help, []).append(method.name)
    for name, helps in uses.items():
        text = "; ".join(f"{', '.join(names)}: {help}" for help, names in helps.items())
        group.add_argument(
            flag(name),
            dest=f"{OPTION}{name}",
            type=path if kinds[name] is Path else kinds[name],
            metavar=kinds[name].__name__.upper(),
            help=text.replace("%", "%%"),
        )


def _default_sources() -> str:
    """Return in words which source of programs each method uses by default."""
    users: dict[str, list[str]] = {}
    for method in methods().values():
        users.setdefault(method.llms[0], []).append(method.name)
    return "; ".join(f"{source} ({', '.join(names)})" for source, names in users.items())


def add_language_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--llm",
        help="where answers come from: openai (any server with OpenAI's chat completions; key in OPENAI_API_KEY), "
        "recorded (those that ship with the package, or with --model those in the cache), none (random programs). "
        f"Default: recorded with --model; otherwise {_default_sources()}",
    )
    group.add_argument("--model", help="name of the model, as the server knows it")
    group.add_argument(
        "--base-url",
        help="address of the server, like http://localhost:11434/v1 (default: OPENAI_BASE_URL, or else OpenAI's)",
    )
    group.add_argument("--temperature", type=float, help="(default: 1)")
    group.add_argument("--top-p", type=float, help="(default: 1)")
    group.add_argument("--max-tokens", type=int, help="of one answer (default: the server's)")
    group.add_argument("--llm-seed", type=int, help="the server's seed for sampling (default: none is sent)")
    group.add_argument(
        "--deadline",
        type=float,
        help="seconds that a request may take with its retries, as long as no other is answered (default: 120)",
    )
    group.add_argument("--answers", type=path, help="cache of all answers (default: in the user's cache folder)")
    group.add_argument("--prices", type=path, help='JSON: {"MODEL": {"input": 0.15, "output": 0.6}}, $ per 1M tokens')
    group.add_argument(
        "--max-spend",
        type=float,
        help="dollars that a run may spend, an equal share for each of its hosts; needs --prices, --max-tokens",
    )
    group.add_argument("--prompt-style", default=STYLE, help=", ".join(STYLES))
