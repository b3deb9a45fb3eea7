"""What a step did, as a sentence: for the log, and for whoever else tells of it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flows.reporting import ReportSummary
from pipeline.clip.embed import EmbedSummary
from pipeline.compaction import CompactSummary
from pipeline.images.scan import ScanSummary
from pipeline.labels.labelling import LabelSummary
from pipeline.search.index import IndexSummary
from pipeline.training.selection import SelectSummary

if TYPE_CHECKING:  # these load torch, which a run that finds nothing new has no time for
    from pipeline.clip.captioning import CaptionSummary
    from pipeline.training.train import TrainSummary


def of_step(name: str, summary: Any) -> str:
    """Return what a step of this name says of itself by its summary."""
    tell = _STEPS.get(name)
    return f"{name}: {tell(summary) if tell else summary}"


def of_drop(scan: ScanSummary, embed: EmbedSummary) -> str:
    """Return what came and what became of it."""
    waiting = scan.waiting + embed.waiting
    return (
        f"{scan.new} new, {scan.changed} changed, {scan.gone} gone: "
        f"{of_embedding(embed, unopenable=scan.unopenable)}"
        + (f", {waiting} waiting for the next run" if waiting else "")
    )


def of_embedding(embed: EmbedSummary, *, unopenable: int = 0) -> str:
    """Return what became of the files that were read, and of those that could not be opened."""
    return (
        f"{embed.embedded} images embedded, {embed.known} known already, "
        f"{embed.unreadable + unopenable} unreadable, {embed.ignored} no images"
    )


def of_labelling(label: LabelSummary) -> str:
    """Return how many images were given which kind of label."""
    if not label.labelled:
        return "all images had these labels already: they are in force"
    return (
        f"{label.labelled} images labelled, {label.abstained} of them abstained, "
        f"{label.flipped} changed by refinement"
    )


def _scanning(scan: ScanSummary) -> str:
    said = (
        f"{scan.listed} files in the sources: {scan.new} new, {scan.changed} changed, "
        f"{scan.gone} gone"
    )
    if scan.waiting:
        said += f", {scan.waiting} too young: they wait for the next run"
    if scan.unopenable:
        said += f", {scan.unopenable} that cannot be opened"
    return said


def _indexing(index: IndexSummary) -> str:
    return f"{index.vectors} vectors, {index.added} of them added now"


def _selecting(select: SelectSummary) -> str:
    said = (
        f"{select.kept} images kept: {select.train} to train on, {select.valid} to tell when to "
        f"stop; {select.test} are held out for testing"
    )
    return f"{said}; left out: {counted(select.left_out)}" if select.left_out else said


def of_training(train: "TrainSummary") -> str:
    """Return which head was saved, why, and how good it is by what is known."""
    own = (line.accuracy for line in train.comparison if line.method == train.kind)
    accuracy = next(own, None)
    by = "accuracy" if train.measured_by == "truth" else "agreement with pseudo-labels"
    said = f"{train.kind} saved ({train.chosen}), of {train.train} samples"
    if accuracy is None:
        return said
    return f"{said}: {100 * accuracy:.1f} % {by} on {train.measured_on} held out"


def of_captions(done: "CaptionSummary") -> str:
    """Return how many captions were written, and of what none could be."""
    said = f"{done.captioned} images captioned, {done.known} had a caption"
    if done.empty:
        said += f"; {done.empty} captions are empty"
    if done.failed:
        said += f"; {sum(done.failed.values())} images could not be read"
    return f"{said}; {done.left} are left" if done.left else said


def _compacting(done: CompactSummary) -> str:
    return f"{done.before} parts are {done.after} now, {done.rows} rows were written again"


def _reporting(report: ReportSummary) -> str:
    drifted = report.drift in ("some", "strong")
    drift = f" Drift is {report.drift}: {report.drift_reason}." if drifted else ""
    return f"{report.headline}{drift} The page is {report.page}"


def counted(numbers: Mapping[str, int]) -> str:
    """Return numbers with what they are of.

    >>> counted({"unsure": 3, "near-duplicate": 1})
    '3 unsure, 1 near-duplicate'
    """
    return ", ".join(f"{number} {what}" for what, number in numbers.items())


_STEPS: dict[str, Callable[[Any], str]] = {
    "scan": _scanning,
    "embed": of_embedding,
    "index": _indexing,
    "neighbours": lambda images: f"searched of {images} images",
    "encode labels": lambda classes: f"{classes} classes",
    "label": of_labelling,
    "select": _selecting,
    "train": of_training,
    "caption": of_captions,
    "compact": _compacting,
    "report": _reporting,
}
