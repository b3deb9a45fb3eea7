"""How many cores there are for us."""

import os

_share: list[int] = []  # one number at most: this process shares its machine with others


def cores() -> int:
    """Return the number of cores that this process may use, which may be fewer than there are."""
    there = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        there = len(os.sched_getaffinity(0))
    return min([there, *_share])


def take_share(count: int) -> None:
    """Have this process count with so many cores only, 1 or more, from now on.

    For one that is given a part of a machine and not told which: it is pinned to no core.
    """
    _share[:] = [max(1, count)]
