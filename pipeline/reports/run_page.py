"""The page of a run: its report in, one self-contained HTML file out.

It holds its pictures, has no script and asks nothing of a network, and its own rules keep it from
doing so. Whatever stands in a path, label or caption is shown as text. Pictures and rows are capped
in number, pictures in bytes as well, so that it stays a few megabytes whatever the store holds.
"""

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape
from PIL import Image

from pipeline.images.decoding import Decode
from pipeline.reports.contact_sheet import clipped, decoded
from pipeline.reports.drift import Sign
from pipeline.reports.examples import Example
from pipeline.reports.run_report import BINS, Labelled, RunReport
from pipeline.reports.verdict import number, verdict

PICTURE_BYTES = 3_500_000  # of all pictures together, as they stand in the page
_PAGE = Path(__file__).with_name("run_page.html")
_BARS = 30
_QUALITY = 80
_SECTIONS = {
    "arrived": "What arrived",
    "failures": "What failed",
    "labels": "Labels",
    "drift": "Drift",
    "examples": "Examples",
    "strangest": "Fit least",
    "neighbours": "Neighbours",
    "training": "Training",
    "timings": "Timings",
    "config": "Config",
}
_SIGNS = {
    "labels": ("Mix of labels", "Jensen-Shannon divergence in bits; before: what chance makes"),
    "content": ("What is shown", "distance of the mean vectors, in spreads"),
    "spread": ("Variety", "variance of the vectors, 0 (all the same) to 1"),
    "strange": ("Fit no class well", "share above the 95 % mark of the images before"),
    "confidence": ("Mean confidence or score", ""),
}


def run_page(report: RunReport, *, decode: Decode) -> str:
    """Return the page.

    Args:
        report: what is told.
        decode: makes thumbnails, as by `contact_sheet.THUMBNAIL`; called from many threads.
    """
    found, told = report.labelled, verdict(report)
    bars = _bars(found) if found else []
    rest = found.classes[len(bars) :] if found else []
    absent = {"examples"} if not report.examples else set()
    absent |= {"strangest"} if not report.strangest else set()
    embedded, took = report.embed.get("embedded", 0), report.seconds.get("embed", 0)
    return _template().render(
        report=report,
        verdict=told,
        at=report.at.replace("T", " ").replace("+00:00", " UTC"),
        found=found,
        tiles=list(_tiles(report)),
        places=[(place, name) for place, name in _SECTIONS.items() if place not in absent],
        bars=bars,
        more_classes=len(rest),
        more_images=sum(line.images for line in rest),
        bins=_bins(found) if found else [],
        signs=[_sign(sign) for sign in report.drift.signs],
        pictures=_data_uris(list(_shown(report)), decode),
        slowest=max([*report.seconds.values(), 1e-9]),
        rate=f"{embedded / took:.{0 if embedded >= 10 * took else 1}f}"
        if embedded and took
        else "",
        config=json.dumps(report.config, indent=2, ensure_ascii=False) if report.config else "",
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"clip": clipped, "tail": tail, "code": _code}
    environment.filters |= {"count": _count, "of": number}
    return environment.from_string(_PAGE.read_text(encoding="utf-8"))


def tail(text: object, width: int) -> str:
    """Return the end of a text: of a path it tells most.

    >>> tail("abcdef", 4)
    '…def'
    """
    told = str(text)
    return told if len(told) <= width else f"…{told[1 - width :]}"


def _code(text: str) -> Markup:
    """Mark up what stands between backticks; all of it is escaped first."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704


def _count(number: int) -> str:
    return f"{number:,}"


def _tiles(report: RunReport) -> Iterator[tuple[str, str]]:
    seen = report.arrived
    yield _count(len(seen.images)), "new images"
    yield _count(seen.total("unreadable")), "files unreadable"
    yield _count(seen.total("gone")), "files gone"
    if report.waiting is not None:
        yield _count(report.waiting), "files waiting"
    if report.labelled:
        yield f"{report.labelled.mean:.2f}", f"mean {report.labelled.word.split(' ')[0]}"
    yield report.drift.verdict, "drift"


def _bars(found: Labelled) -> list[dict[str, Any]]:
    shown = found.classes[:_BARS]
    widest = max(max(line.share, line.share_before or 0) for line in shown)
    return [
        {
            "label": line.label if line.label is not None else "(no label)",
            "images": line.images,
            "share": line.share,
            "width": 100 * line.share / widest,
            "before": None if line.share_before is None else 100 * line.share_before / widest,
        }
        for line in shown
    ]


def _bins(found: Labelled) -> list[dict[str, Any]]:
    """Return heights from 0 to 1 of the tallest bar."""
    total = sum(found.histogram)
    now = [count / total for count in found.histogram]
    held = found.histogram_before or [0] * BINS
    before = [count / max(1, sum(held)) for count in held]
    tallest = max([*now, *before])
    return [
        {
            "now": now[at] / tallest,
            "before": before[at] / tallest,
            "title": f"{at / BINS:.2f} to {(at + 1) / BINS:.2f}: {found.histogram[at]:,} images",
        }
        for at in range(BINS)
    ]


def _sign(sign: Sign) -> dict[str, str]:
    form = "{:.1%}" if sign.name == "strange" else "{:.3f}"
    name, about = _SIGNS[sign.name]
    return {
        "name": name,
        "about": about,
        "before": "-" if sign.before is None else form.format(sign.before).replace("%", " %"),
        "now": "-" if sign.now is None else form.format(sign.now).replace("%", " %"),
        "p": f"{100 * sign.p:.2g} %",
        "level": sign.level,
    }


def _shown(report: RunReport) -> Iterator[Example]:
    for one in report.examples:
        yield from [*one.best, *one.unsure, *one.worst]
    yield from report.disagreement.images
    yield from report.strangest


def _data_uris(examples: list[Example], decode: Decode) -> dict[str, str]:
    """Return pictures by path, as many as may stand in the page; the first come first."""
    times = Counter(each.path for each in examples)  # a picture shown twice stands there twice
    pictures, left = decoded(times, decode), PICTURE_BYTES
    made: dict[str, str] = {}
    for path, shown in times.items():
        uri = _data_uri(pictures[path]) if path in pictures else ""
        if uri and shown * len(uri) <= left:
            made[path] = uri
            left -= shown * len(uri)
    return made


def _data_uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
