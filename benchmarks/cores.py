"""Whose cores are whose: what is measured has some of its own, what asks and what answers behind it have the others.

On a GPU or another machine nobody takes a program's time either; on one processor the scheduler puts whom a program
wakes beside it and lets it wait.
"""

import os
from collections.abc import Iterator, Set
from contextlib import contextmanager


def split() -> tuple[Set[int], Set[int]]:
    """(of what is measured, of everything else); both all of them where there is one."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    return set(cores[:half] or cores), set(cores[half:])


@contextmanager
def children_on(cores: Set[int]) -> Iterator[None]:
    """Processes started in here run on these only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
