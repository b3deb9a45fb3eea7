"""Names of runs by what they did, and of stores: what Prefect's lists show."""

import hashlib
import re
from typing import TYPE_CHECKING

from flows.drop import DropSummary
from flows.relabel import RelabelSummary
from pipeline.config import Config
from pipeline.homes import without_tilde

if TYPE_CHECKING:  # these load torch
    from pipeline.clip.captioning import CaptionSummary
    from pipeline.training.train import TrainSummary

_KEY_LENGTH = 40


def store_name(location: str) -> str:
    """Return the last step of where a store lies.

    >>> store_name("s3://bucket/2024/photos/")
    'photos'
    """
    return shown(location.rstrip("/").rpartition("/")[2]) or "store"


def store_key(location: str) -> str:
    """Return what begins the keys of a store's artifacts: no other store's, and always the same.

    >>> store_key("s3://bucket/My Photos")
    'my-photos-2e8fb4bd'
    """
    place = location.rstrip("/")
    if "://" not in place:
        place = str(without_tilde(place).resolve())
    name = re.sub(r"[^a-z0-9]+", "-", store_name(place).lower()).strip("-")[:_KEY_LENGTH]
    digest = hashlib.sha256(place.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{name.strip('-') or 'store'}-{digest}"


def of_drop(config: Config, drop: DropSummary) -> str:
    """Return what a drop brought, or what was made anew without one."""
    scan, store = drop.scan, f"store {store_name(config.store)}"
    came = ", ".join(_nonzero({"new": scan.new, "changed": scan.changed}))
    if came:
        failed = drop.embed.unreadable + scan.unopenable
        more = _nonzero({"gone": scan.gone, "unreadable": failed})
        return ", ".join([f"{came} into {store}", *more])
    if scan.gone:
        return f"{scan.gone} gone from {store}"
    if drop.label is not None and drop.label.labelled:
        return f"{drop.label.labelled} images labelled anew in {store}"
    if drop.report is not None:
        return f"nothing new, but {store} was brought up to its config"
    waiting = scan.waiting + drop.embed.waiting
    return f"nothing new for {store}" + (f", {waiting} waiting" if waiting else "")


def of_relabelling(config: Config, summary: RelabelSummary) -> str:
    """Return how many images were given other labels."""
    return f"{summary.label.labelled} images labelled anew in store {store_name(config.store)}"


def of_captions(config: Config, done: "CaptionSummary") -> str:
    """Return how many captions were written."""
    left = f", {done.left} left" if done.left else ""
    return f"{done.captioned} captions written in store {store_name(config.store)}{left}"


def of_training(config: Config, train: "TrainSummary") -> str:
    """Return which head was trained on how much."""
    return f"{train.kind} trained on {train.train} images of store {store_name(config.store)}"


def _nonzero(numbers: dict[str, int]) -> list[str]:
    return [f"{number} {what}" for what, number in numbers.items() if number]


def shown(name: str) -> str:
    r"""Return a name of a file without what cannot be shown, or is not even text.

    >>> print(ascii(shown("a\nb\udce4")))
    'a\ufffdb\ufffd'
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
