"""The verdict on a run: its report in; what happened and what needs a person's eye, in words."""

from dataclasses import dataclass
from typing import Literal

from pipeline.reports.run_report import RunReport

Weight = Literal["bad", "look", "note"]
MANY_UNREADABLE = 0.1  # share of the files that were read
MANY_WITHOUT = 0.2  # share of images without a label that is worth a look


@dataclass(frozen=True)
class Point:
    """One thing that a person should look at, and where on the page it stands."""

    weight: Weight
    words: str
    place: str = ""  # anchor


@dataclass(frozen=True)
class Verdict:
    """What a person reads first."""

    headline: str
    happened: list[str]
    points: list[Point]  # the heaviest first


def verdict(report: RunReport) -> Verdict:
    """Say what a run did and what needs a look."""
    points = [*_files(report), *_labels(report), *_drift(report), *_training(report)]
    points += [Point("note", note) for note in report.notes]
    points.sort(key=lambda point: ("bad", "look", "note").index(point.weight))
    eyes = [point for point in points if point.weight != "note"]
    if not eyes:
        headline = "All is well: nothing needs your eye."
    elif len(eyes) == 1:
        headline = "One thing needs your eye."
    else:
        headline = f"{len(eyes)} things need your eye."
    return Verdict(headline, _happened(report), points)


def number(count: int, one: str, many: str) -> str:
    """Return a count with its noun.

    >>> number(1, "file", "files"), number(1200, "file", "files")
    ('1 file', '1,200 files')
    """
    return f"{count:,} {one if count == 1 else many}"


def _happened(report: RunReport) -> list[str]:
    seen = report.arrived
    words = [f"{number(len(seen.images), 'new image', 'new images')} arrived"]
    if seen.known:
        words.append(f"{number(seen.known, 'file holds', 'files hold')} an image known before")
    if changed := seen.total("changed"):
        words.append(f"{number(changed, 'file', 'files')} changed")
    if gone := seen.total("gone"):
        words.append(f"{number(gone, 'file is', 'files are')} gone")
    if report.labelled:
        given = report.labelled.images - report.labelled.abstained
        words.append(f"{given:,} of {report.labelled.images:,} images have a label")
    if report.select:
        words.append(f"{report.select['kept']:,} images of the store are selected for training")
    if report.train:
        words.append(f"the head “{report.train['kind']}” was trained")
    return words


def _files(report: RunReport) -> list[Point]:
    points, failed = [], report.arrived.total("unreadable")
    if failed:
        read = len(report.arrived.images) + report.arrived.known
        weight: Weight = "bad" if failed >= MANY_UNREADABLE * (failed + read) else "look"
        kinds = number(len(report.arrived.failures), "reason", "reasons")
        said = f"{number(failed, 'file', 'files')} could not be read, for {kinds}."
        points.append(Point(weight, said, "failures"))
    if report.waiting:
        who = number(report.waiting, "file was", "files were")
        points.append(
            Point("note", f"{who} still being written and will be taken by the next run.")
        )
    if ignored := report.arrived.total("ignored"):
        who = number(ignored, "file is", "files are")
        points.append(Point("note", f"{who} no image, and left alone."))
    return points


def _labels(report: RunReport) -> list[Point]:
    found, near = report.labelled, report.disagreement
    if found is None:
        return []
    points = []
    if found.abstained >= MANY_WITHOUT * found.images:
        said = f"{found.abstained:,} of {found.images:,} images got no label."
        points.append(Point("look", said, "labels"))
    if near.number:
        said = "lies among neighbours" if near.number == 1 else "lie among neighbours"
        who = number(near.number, "image", "images")
        points.append(Point("look", f"{who} {said} with another label.", "neighbours"))
    if found.word.startswith("score"):
        points.append(
            Point("note", "Scores are not calibrated: `pseudolabel audit` makes them confidences.")
        )
    if found.multi_label:
        points.append(
            Point("note", "An image may have several labels: the likeliest is told of here.")
        )
    return points


def _drift(report: RunReport) -> list[Point]:
    drift = report.drift
    if drift.verdict in ("some", "strong"):
        weight: Weight = "bad" if drift.verdict == "strong" else "look"
        return [Point(weight, f"Drift is {drift.verdict}: {drift.reason}.", "drift")]
    return []


def _training(report: RunReport) -> list[Point]:
    points = []
    leak = (report.train or {}).get("leakage")
    if leak and leak.get("verdict") == "leak":
        points.append(Point("look", str(leak["words"]), "training"))
    if report.not_trained and not report.not_trained.startswith(("train.every_run", "the selec")):
        points.append(Point("note", f"Not trained: {report.not_trained}.", "training"))
    return points
