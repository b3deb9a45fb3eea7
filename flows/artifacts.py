"""What Prefect shows of a drop beside its log: the numbers as a table, and where the rest is.

Prefect reads these texts, those in the cells of a table among them, as Markdown, so whatever the
sources and label sets name is escaped here.
"""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from flows.drop import DropSummary
from flows.prefect_progress import rate
from flows.run_names import shown
from flows.sentences import counted, of_training
from pipeline.config import Config
from pipeline.opening import open_store
from pipeline.reports.contact_sheet import clipped
from pipeline.store import Store

Row = dict[str, str | int]
# What Markdown, autolinks of GitHub's kind among it, would read as more than text: anywhere, and at
# the beginning. No more than that is escaped, for Prefect's second UI shows cells as they are.
_SPECIAL = re.compile(r"[\\`*_\[\]<>&|~@]|(?<=www)\.|:(?=//)", re.IGNORECASE)
_FIRST = re.compile(r"^(\d*)([#+\-.)])")
_COMMAND = re.compile(r"\\`([\w ]+)\\`")  # between backticks that were escaped
_KINDS = 5  # of failures that are told of
_LONGEST = 300  # characters of what is told of one thing
_PATH = 4096  # characters that a path may have


def escaped(text: object, longest: int = _LONGEST) -> str:
    r"""Return any text as Markdown that shows just this text, on one line, cut off if too long.

    >>> print(escaped("<b>|`x`"))
    \<b\>\|\`x\`
    >>> print(escaped("1. a - b: http://c"))
    1\. a - b: http\://c
    """
    told = clipped(shown(str(text)).strip(), longest)
    return _FIRST.sub(r"\1\\\2", _SPECIAL.sub(r"\\\g<0>", told))


def drop_table(config: Config, drop: DropSummary) -> list[Row]:
    """Return what arrived, failed, was labelled, selected and trained, a row each."""
    store = open_store(config.store)
    rows = [*_arrived(drop), *_failed(store, drop), *_made(drop)]
    return [{"what": what, "number": number, "more": more} for what, number, more in rows]


def drop_words(config: Config, drop: DropSummary) -> str:
    """Return what needs a person's eye, and where the page and the contact sheet are."""
    report = drop.report
    if report is None:
        return ""
    lines = [f"### {escaped(report.headline)}", ""]
    lines += ["- " + _COMMAND.sub(r"`\1`", escaped(point)) for point in report.points]
    lines += ["", f"Report: {_place(config, report.page)}"]
    if report.contact_sheet:
        lines += ["", f"Contact sheet: {_place(config, report.contact_sheet)}"]
    return "\n".join(lines)


def _arrived(drop: DropSummary) -> Iterator[tuple[str, int, str]]:
    scan, embed = drop.scan, drop.embed
    yield "files new", scan.new, f"of {scan.listed} in the sources"
    yield "files changed", scan.changed, ""
    yield "files gone", scan.gone, ""
    if waiting := scan.waiting + embed.waiting:
        yield "files waiting", waiting, "too young: the next run takes them"
    yield "images embedded", embed.embedded, _rate(drop)
    if embed.known:
        yield "files known", embed.known, "the store has an image of the same bytes"
    if embed.ignored:
        yield "files ignored", embed.ignored, "no images, nor named as such"


def _failed(store: Store, drop: DropSummary) -> Iterator[tuple[str, int, str]]:
    """Tell what could not be read, the most frequent kind of reason first."""
    left = drop.embed.unreadable + drop.scan.unopenable
    told: dict[str, Any] = store.get_json(f"runs/{drop.run_id}/report.json")
    for each in told.get("arrived", {}).get("failures", [])[:_KINDS]:
        yield "files unreadable", each["files"], escaped(each["kind"])
        left -= each["files"]
    if left > 0:
        yield "files unreadable", left, "for other reasons"


def _made(drop: DropSummary) -> Iterator[tuple[str, int, str]]:
    if (label := drop.label) is not None:
        given = label.labelled - label.abstained
        more = f"{label.flipped} changed by similar images" if label.flipped else ""
        yield "images labelled", given, more
        yield "images without a label", label.abstained, "the model abstained"
    if (select := drop.select) is not None:
        parts = f"{select.train} to train on, {select.valid} to tell when to stop"
        yield "images selected", select.kept, f"of the whole store: {parts}"
        if left := select.left_out:
            yield "images left out", sum(left.values()), escaped(counted(left))
    if drop.train is not None:
        yield "samples trained on", drop.train.train, escaped(of_training(drop.train))
    elif drop.not_trained:
        yield "samples trained on", 0, escaped(drop.not_trained)


def _rate(drop: DropSummary) -> str:
    took = drop.seconds.get("embed", 0.0)
    return rate(drop.embed.embedded, took) if drop.embed.embedded and took else ""


def _place(config: Config, file: str) -> str:
    """Return where a file of the store lies: a link where the store is served, else its path."""
    if url := config.run.store_url:
        link = f"{url.rstrip('/')}/{quote(file)}"
        return f"[{escaped(link, _PATH)}](<{link}>)"
    store = open_store(config.store)
    place = store.local.resolve() / file if store.local else f"{store.location}/{file}"
    return escaped(place, _PATH)
