"""What 1,000 images take in runs of more and more images, and how much memory.

Every run starts on an empty store. What a run over a few images takes, starting and loading for the
most part, is taken off before dividing.
"""

import argparse
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.embed_inputs import bring_to_memory, copy_photos
from tests.benchmarks.embed_parties import OURS, run_command, told_by_ours
from tests.benchmarks.process_tree import finish

_FEW = 200
_EACH = 120_000  # bytes of a photo, about

Measured = dict[str, float]


def measure_growth(
    asked: argparse.Namespace,
    root: Path,
    model: str,
    quiet: Callable[[], AbstractContextManager[None]],
) -> dict[str, Any]:
    """Run over a few images and over each count of `asked.counts`, in turn, and print the table."""
    counts = [_FEW, *sorted(asked.counts)]
    if shutil.disk_usage(root).free < 2 * counts[-1] * _EACH:
        raise SystemExit(f"{root}: too little room; choose another place with --folder")
    folders = {
        count: root / "in" / str(count) for count in counts
    }  # of a folder, what the one before does not hold
    for before, count in zip([0, *counts], counts, strict=False):
        copy_photos(asked.photos, folders[count], before, count - before)
    rounds: list[dict[int, Measured]] = []
    for _ in range(asked.rounds):
        measured = {}
        for count in counts:
            sources = [folders[each] for each in counts if each <= count]
            for source in sources:
                bring_to_memory(source)
            with quiet():
                measured[count] = _run(model, sources, root / OURS, count)
            told = ", ".join(f"{name} {value:.1f}" for name, value in measured[count].items())
            print(f"{count} images: {told}", flush=True)
        rounds.append(measured)
    _show(rounds, counts)
    return {"rounds": rounds}


def _run(model: str, sources: list[Path], results: Path, count: int) -> Measured:
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir()
    ended = finish(run_command(model, sources, results), watch=True)
    seconds = told_by_ours(ended, count)["seconds"]
    return {
        "embed": seconds["scan"] + seconds["embed"],
        "whole": ended.seconds,
        "peak": ended.peak or 0.0,
        **{f"stage {name}": value for name, value in seconds.items()},
    }


def _show(rounds: list[dict[int, Measured]], counts: list[int]) -> None:
    """Print medians; the ratios are to the smallest count, within each round."""

    def per_thousand(each: dict[int, Measured], count: int, name: str) -> float:
        return 1000 * (each[count][name] - each[_FEW][name]) / (count - _FEW)

    print(f"s per 1,000 images beyond the first {_FEW}; ratios to {counts[1]} images")
    print(f"{'images':>8} {'scan+embed':>10} {'ratio':>6} {'whole run':>10} {'ratio':>6}", end="")
    print(f" {'peak MB':>8} {'ratio':>6}")
    for count in counts[1:]:
        line = f"{count:>8}"
        for name, width in (("embed", 10), ("whole", 10)):
            values = [per_thousand(each, count, name) for each in rounds]
            ratios = [
                value / per_thousand(each, counts[1], name)
                for value, each in zip(values, rounds, strict=True)
            ]
            line += f" {median(values):{width}.2f} {median(ratios):6.2f}"
        peaks = [each[count]["peak"] for each in rounds]
        ratios = [p / each[counts[1]]["peak"] for p, each in zip(peaks, rounds, strict=True)]
        print(f"{line} {median(peaks):8.0f} {median(ratios):6.2f}")
