"""How long a run would take, by what earlier runs of the store took: a range, never one number.

Rates are of runs like the one that is planned: same model, device, precision and decoding. Nothing
is measured or loaded here.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flows.resources import model_name
from pipeline.config import Config
from pipeline.cores import cores

ENOUGH = 100  # images of a run whose rate counts; starting up would hide that of fewer
ALONE = 1.5  # what the rate of a single run is taken to be off by, either way
_NEWEST, _LOOK_BACK = 5, 100  # runs whose rates count; runs that are looked at for them
_UNLIKE = 2.0  # files so many times larger or smaller than those measured are told of


@dataclass(frozen=True)
class Seconds:
    """From the least to the most."""

    low: float = 0.0
    high: float = 0.0

    def __add__(self, other: "Seconds") -> "Seconds":
        """Add up what comes one after the other."""
        return Seconds(round(self.low + other.low, 3), round(self.high + other.high, 3))


@dataclass(frozen=True)
class Estimate:
    """What a run would take."""

    in_all: Seconds
    start: Seconds  # the model, and Prefect where it is used
    embed: Seconds
    stages: dict[str, Seconds]  # the others, by name
    images_per_second: tuple[float, float] | None  # slowest and fastest run; null: none to embed
    runs: list[str]  # that the rates are of, newest first
    ran_with: dict[str, object]  # the circumstances of the newest
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Past:
    """What is of use in the summary of an earlier run."""

    run_id: str
    ran_with: dict[str, object]
    files: int
    embedded: int
    bytes: int
    wall: float  # seconds of embedding
    images: int  # that the store held afterwards
    seconds: dict[str, float]  # by stage
    start: float | None
    load: float

    @property
    def rate(self) -> float | None:
        """Images a second; None where too few of its files were images to be embedded."""
        enough = self.embedded >= ENOUGH and 2 * self.embedded >= self.files and self.wall > 0
        return self.embedded / self.wall if enough else None


def estimate(
    config: Config,
    past: Iterable[tuple[str, dict[str, object]]],
    *,
    files: int,
    size: int,
    stale: list[str],
) -> Estimate | None:
    """Tell what a run would take; None where no run tells of the embedding that it needs.

    Args:
        config: of the run.
        past: name and summary of earlier runs, newest first.
        files: to be read, all taken for images that are new.
        size: of these files, in bytes.
        stale: the later stages that would run if there were none.
    """
    known, alike = _told(config, past)
    counted = [run for run in alike if run.rate is not None]
    small = [run for run in alike if run.rate is None and run.embedded and run.wall > 0]
    rates = _rates(counted) if files and counted else None
    embed: Seconds | None = Seconds()
    if rates:
        # What small runs took is, at the least, what it takes to begin and to end.
        fixed = min((run.wall for run in small), default=0.0)
        embed = Seconds(round(files / rates[1], 3), round(files / rates[0] + fixed, 3))
    elif files:
        embed = _by_small(small, files)
    if not known or embed is None:
        return None
    start = _start(alike or known, loads=bool(files))
    stages = _stages(known, files, None if files else stale)
    newest = ((counted or small if files else known) or known)[0]
    return Estimate(
        in_all=sum(stages.values(), start + embed),
        start=start,
        embed=embed,
        stages=stages,
        images_per_second=rates,
        runs=[run.run_id for run in (counted or small)] if files else [newest.run_id],
        ran_with=newest.ran_with,
        warnings=_warnings(newest, files, size) if files else [],
    )


def _told(
    config: Config, past: Iterable[tuple[str, dict[str, object]]]
) -> tuple[list[Past], list[Past]]:
    """Return the runs that were looked at, and those of them that embedded as this one would."""
    known: list[Past] = []
    alike: list[Past] = []
    for _, (run_id, summary) in zip(range(_LOOK_BACK), past, strict=False):
        try:
            run = _past(run_id, summary)
            known.append(run)
            if run.ran_with and _alike(config, run.ran_with):
                alike.append(run)
        except (KeyError, TypeError, ValueError, AttributeError):  # of another version
            continue
        if sum(run.rate is not None for run in alike) == _NEWEST:
            break
    return known, alike


def _past(run_id: str, summary: dict[str, object]) -> Past:
    embed, scan, index = (_part(summary, name) for name in ("embed", "scan", "index"))
    seconds = {name: float(took) for name, took in _part(summary, "seconds").items()}
    ran_with, split = _part(summary, "ran_with"), _part(embed, "seconds")
    # Lanes at work and lanes idle make up the time of one process; of many only the step's counts.
    wall = float(split.get("inference", 0)) + float(split.get("waiting", 0))
    if ran_with.get("engine", "local") != "local":
        wall = seconds.get("embed", 0.0)
    start = ran_with.get("start_seconds")
    return Past(
        run_id=run_id,
        ran_with=ran_with,
        files=int(embed.get("files", 0)),
        embedded=int(embed.get("embedded", 0)),
        bytes=int(scan.get("bytes", 0)),
        wall=wall,
        images=int(index.get("vectors", 0)),
        seconds=seconds,
        start=None if start is None else float(start),
        load=float(ran_with.get("load_seconds", 0)),
    )


def _part(summary: dict[str, Any], name: str) -> dict[str, Any]:
    part = summary.get(name)
    return part if isinstance(part, dict) else {}


def _alike(config: Config, ran_with: dict[str, object]) -> bool:
    """Tell whether a run embedded as the config's would; `auto` is as what was `auto` before."""
    wanted = config.encoder
    as_asked = ran_with["asked_device"] == wanted.device
    device = as_asked or ran_with["device"] == wanted.device.partition(":")[0]
    as_asked = ran_with["asked_precision"] == wanted.precision
    same = {
        "model": model_name(config),
        "compile": wanted.compile,
        "decode": wanted.decode,
        "engine": config.run.engine,
    }
    precision = as_asked or ran_with["precision"] == wanted.precision
    return device and precision and all(ran_with[name] == value for name, value in same.items())


def _rates(counted: list[Past]) -> tuple[float, float]:
    rates = [run.rate for run in counted if run.rate is not None]
    if len(rates) == 1:
        return rates[0] / ALONE, rates[0] * ALONE
    return min(rates), max(rates)


def _by_small(small: list[Past], files: int) -> Seconds | None:
    """Return what few files take, by runs of as few; they tell nothing of many."""
    walls = [run.wall for run in small if run.files >= files]
    if not walls:
        return None
    least = min(run.wall * min(1.0, files / run.files) for run in small if run.files >= files)
    return Seconds(round(least, 3), max(walls))


def _start(runs: list[Past], *, loads: bool) -> Seconds:
    """Return what passes before the first step; a run that embeds nothing may load no model."""
    took = [(run.start, run.load) for run in runs if run.start is not None][:_NEWEST]
    if not took:
        return Seconds(0.0, max((run.load for run in runs[:_NEWEST]), default=0.0))
    low = min(start - (0 if loads else load) for start, load in took)
    return Seconds(round(max(0.0, low), 3), max(start for start, _ in took))


def _stages(known: list[Past], files: int, only: list[str] | None) -> dict[str, Seconds]:
    """Scale each stage from the run most like the one planned.

    Whether a stage looks at what is new or at all there is, it takes between the least and the most
    that growing with the one, with the other or not at all would make of it.
    """
    images = max((run.images for run in known), default=0) + files
    worked = [run for run in known if len(run.seconds) > 1]
    names = dict.fromkeys(name for run in worked[:_NEWEST] for name in run.seconds)
    if only is not None:
        also = {"neighbours"} if {"index", "label"} & set(only) else set()
        names = dict.fromkeys(name for name in names if name in {"scan", "report", *only, *also})
    found = {}
    for name in names:
        if name == "embed":
            continue
        runs = [run for run in worked if name in run.seconds]
        run = min(runs, key=lambda run: _unlike(run.embedded, files) + _unlike(run.images, images))
        growth = [1.0, _times(files, run.embedded), _times(images, run.images)]
        took = run.seconds[name]
        least = 0.0 if name == "compact" else took * min(growth)  # merging is not always due
        found[name] = Seconds(round(least, 3), round(took * max(growth), 3))
    return found


def _times(now: int, then: int) -> float:
    return (now + 1) / (then + 1)


def _unlike(then: int, now: int) -> float:
    return abs(math.log(_times(now, then)))


def _warnings(newest: Past, files: int, size: int) -> list[str]:
    told, measured_on = [], newest.ran_with.get("cores")
    if measured_on != cores():
        told.append(f"measured on {measured_on} cores, here are {cores()}")
    if newest.bytes and newest.files and size:
        times = (size / files) / (newest.bytes / newest.files)
        if not 1 / _UNLIKE < times < _UNLIKE:
            what = f"{times:.1f} times as large" if times > 1 else f"{1 / times:.1f} times smaller"
            told.append(f"these files are {what} on average than those that were measured")
    return told
