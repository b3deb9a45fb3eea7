"""The pictures of an evaluation, as PNG: reliability, coverage and confusion; losses of a head.

Figures are drawn without pyplot, which would keep them in global state.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from pipeline.reports.bands import AgreementTold
from pipeline.reports.confusion import Grid
from pipeline.reports.curves import Bin, Point, Reach

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 120
_BLUE, _RED, _GREY = "#2b6cb0", "#c53030", "#a0aec0"
_LONGEST = 24  # letters of a class name beside a confusion matrix
_WITH_NUMBERS = 16  # rows up to which a confusion matrix shows them in each cell


def reliability_png(bins: Sequence[Bin], *, word: str, error: float) -> bytes:
    """Draw accuracy against confidence, a point for each bin; on the diagonal they agree.

    Args:
        bins: lowest confidence first.
        word: "confidence", or "score" where it is not calibrated.
        error: the expected calibration error.
    """
    figure, axes = _square(f"{word} (mean of the bin)", "share that is right")
    mean, right = [b.confidence for b in bins], [b.accuracy for b in bins]
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", label="calibrated")
    axes.vlines(mean, mean, right, color=_RED, alpha=0.6, label="gap")
    axes.plot(mean, right, "o-", color=_BLUE, label=f"{len(bins)} bins of equal mass")
    axes.set_title(f"Reliability: expected calibration error {100 * error:.1f} %")
    axes.legend(loc="best")
    return _png(figure)


def coverage_png(curve: Sequence[Point], reached: Sequence[Reach], *, word: str) -> bytes:
    """Draw the accuracy of the surest labels against how many there are.

    Args:
        curve: highest confidence first; may be empty.
        reached: what is marked on it.
        word: "confidence", or "score" where it is not calibrated.
    """
    figure, axes = _square("coverage: share of images that keep their label", "share that is right")
    axes.plot([p.coverage for p in curve], [p.accuracy for p in curve], color=_BLUE)
    accuracy_at = {point.confidence: point.accuracy for point in curve}
    for found in reached:
        axes.axhline(found.precision, color=_GREY, linestyle=":", linewidth=1)
        if found.threshold is not None:
            label = f"{100 * found.precision:g} % right: {100 * found.coverage:.1f} % of images"
            label += f", {word} {found.threshold:.3f} and above"
            height = accuracy_at.get(found.threshold, found.precision)
            axes.plot([found.coverage], [height], "o", label=label)
    axes.set_ylim(max(0.0, min([*accuracy_at.values(), 0.9]) - 0.05), 1.01)
    axes.set_title(f"Accuracy of the labels of highest {word}")
    if any(found.threshold is not None for found in reached):
        axes.legend(loc="lower left", fontsize=8)
    return _png(figure)


def agreement_png(told: AgreementTold, *, word: str) -> bytes:
    """Draw the accuracy in each band of agreement, and in each of confidence.

    Args:
        told: what is drawn; bands without images are left out.
        word: "confidence", or "score" where it is not calibrated.
    """
    figure, axes = _square(f"agreement with neighbours, or {word}", "share that is right")
    for name, found, colour in (
        ("agreement", told.by_agreement, _BLUE),
        (word, told.by_confidence, _RED),
    ):
        seen = [(band, band.accuracy) for band in found if band.accuracy is not None]
        middle = [(band.lowest + band.highest) / 2 for band, _ in seen]
        axes.plot(middle, [accuracy for _, accuracy in seen], "o-", color=colour, label=name)
        for place, (band, accuracy) in zip(middle, seen, strict=True):
            axes.annotate(f"{band.images}", (place, accuracy), fontsize=7)
    axes.set_title(f"Right among {told.images} images, by bands (and how many images)")
    axes.legend(loc="best")
    return _png(figure)


def confusion_png(grid: Grid, classes: int) -> bytes:
    """Draw a confusion matrix; colours are shares of a row.

    Args:
        grid: what is shown.
        classes: how many there are in all.
    """
    from matplotlib.figure import Figure

    rows, columns = grid.images.shape
    inches = (3.0 + 0.34 * columns, 2.6 + 0.34 * rows)
    figure = Figure(figsize=inches, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    share = grid.images / np.maximum(grid.images.sum(axis=1, keepdims=True), 1)
    drawn = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    _name_cells(axes, grid)
    if rows <= _WITH_NUMBERS:
        for row, column in zip(*np.nonzero(grid.images), strict=True):
            count, dark = grid.images[row, column], share[row, column] > 0.5
            colour = "white" if dark else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=7)
    title = "Confusion"
    if grid.shown < classes:
        title += f": the {grid.shown} of {classes} classes most often mistaken"
    axes.set_title(title)
    figure.colorbar(drawn, ax=axes, label="share of the true class", shrink=0.8)
    return _png(figure)


def losses_png(losses: Sequence[tuple[float, float]], *, head: str) -> bytes:
    """Draw the losses of each epoch, in training and in validation.

    Args:
        losses: (training, validation) of each epoch, at least one.
        head: its name.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6, 4), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no half an epoch
    epochs = range(1, len(losses) + 1)
    training, validation = zip(*losses, strict=True)
    axes.plot(epochs, training, color=_BLUE, label="training")
    if training != validation:  # a head that needs no validation has one loss
        axes.plot(epochs, validation, color=_RED, label="validation")
        best = min(epochs, key=lambda epoch: validation[epoch - 1])
        axes.axvline(best, color=_GREY, linestyle="--", label=f"best: {best}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.25)
    axes.legend(loc="best")
    axes.set_title(f"Head {head}")
    return _png(figure)


def _name_cells(axes: "Axes", grid: Grid) -> None:
    axes.set_xlabel("label given")
    axes.set_ylabel("true class")
    # A name is no formula: without this, "$" in it would begin one.
    columns, rows = ([_short(name) for name in names] for names in (grid.columns, grid.rows))
    axes.set_xticks(range(len(columns)), columns, rotation=90, parse_math=False, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, parse_math=False, fontsize=8)


def _short(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _square(x: str, y: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.grid(alpha=0.25)
    return figure, axes


def _png(figure: "Figure") -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)  # whatever MPLBACKEND says
    buffer = io.BytesIO()
    with _letters_may_be_missing():
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


@contextmanager
def _letters_may_be_missing() -> Iterator[None]:
    """Say nothing of letters that the font lacks: they are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
