"""Runs jobs in several threads. Compiled functions release Python's lock (the GIL), so they run at the same time."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(jobs: Sequence[Callable[[], T]], workers: int) -> list[T]:
    """Return the results of jobs that are done in `workers` threads, of which the present one is one."""
    if workers == 1 or len(jobs) <= 1:
        return [job() for job in jobs]
    waiting = iter(range(len(jobs)))
    found: dict[int, T] = {}

    def work() -> None:
        for number in waiting:  # each number goes to one thread
            found[number] = jobs[number]()

    others = [_pool(workers - 1).submit(work) for _ in range(min(workers, len(jobs)) - 1)]
    work()
    for other in others:
        other.result()
    return [found[number] for number in range(len(jobs))]


@functools.cache
def _pool(workers: int) -> concurrent.futures.ThreadPoolExecutor:
    # Kept, since starting threads takes as long as running some dozens of programs.
    return concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="evaluate")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
