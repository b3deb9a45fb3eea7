"""An evaluation as a person sees it: tables and lines, or JSON."""

from pathlib import Path
from typing import TYPE_CHECKING

from flows.console import out, percent, print_json, show, table

if TYPE_CHECKING:
    from pipeline.reports.bands import AgreementTold
    from pipeline.reports.curves import Reach
    from pipeline.reports.evaluate import Evaluation
    from pipeline.reports.metrics import ClassMetrics

_MOST_CLASSES = 40  # in the table; of more, those of lowest recall
_MOST_PAIRS = 5


def show_evaluation(
    evaluation: "Evaluation", *, as_json: bool, written: list[Path] | None = None
) -> None:
    """Show metrics against a truth, class by class.

    Args:
        evaluation: what was measured.
        as_json: as JSON on standard output.
        written: the files that hold all of it.
    """
    if as_json:
        print_json(evaluation)
        return
    metrics = evaluation.metrics
    per_class = [c for c in metrics.per_class if c.images or c.precision is not None]
    _show_classes(per_class, evaluation.agreement)
    out.print(
        f"accuracy {percent(metrics.accuracy)} of {metrics.images} images, "
        f"top-k {percent(metrics.top_k_accuracy)}, mean recall {percent(metrics.macro_recall)}\n"
        f"at {evaluation.word} {metrics.threshold:g} and above: "
        f"coverage {percent(metrics.coverage)}, accuracy {percent(metrics.accuracy_above)}"
    )
    out.print(_in_words(evaluation))
    if evaluation.confused:
        told = "; ".join(evaluation.confused[:_MOST_PAIRS])
        out.print(f"most often mistaken: {told}", soft_wrap=True)
    if evaluation.agreement is not None:
        _show_agreement(evaluation.agreement, evaluation.word)
    _show_left_out(evaluation)
    for path in written or []:
        out.print(f"wrote {path}", soft_wrap=True)


def _show_classes(classes: "list[ClassMetrics]", told: "AgreementTold | None") -> None:
    agreement = {each.label: each.agreement for each in told.per_class} if told else {}
    columns = ("class", "images", "recall", "precision", *(["agreement"] if told else []))
    shown = table(*columns, right=columns[1:])
    title = "Zero-shot labels against the truth"
    if len(classes) > _MOST_CLASSES:
        seen = sorted((c for c in classes if c.recall is not None), key=lambda c: c.recall or 0.0)
        title += f": the {min(_MOST_CLASSES, len(seen))} classes of lowest recall"
        classes = seen[:_MOST_CLASSES]
    for entry in classes:
        cells = [str(entry.images), percent(entry.recall), percent(entry.precision)]
        if told:
            cells.append(percent(agreement.get(entry.label)))
        shown.add_row(entry.label, *cells)
    show(title, shown)


def _show_agreement(told: "AgreementTold", word: str) -> None:
    columns = ("band", "by agreement", "right", f"by {word}", "right")
    shown = table(*columns, right=columns[1:])
    for ours, theirs in zip(told.by_agreement, told.by_confidence, strict=True):
        cells = [f"{100 * ours.lowest:.0f} to {100 * ours.highest:.0f} %"]
        for band in (ours, theirs):
            cells += [str(band.images), percent(band.accuracy)]
        shown.add_row(*cells)
    show(f"Does agreement with neighbours tell who is right? {told.images} images", shown)
    if told.agreement_tells is not None:
        out.print(
            f"of a right and a wrong label the right one agrees more in "
            f"{percent(told.agreement_tells)} of the pairs, and has the higher {word} in "
            f"{percent(told.confidence_tells)}",
            soft_wrap=True,
        )


def _in_words(evaluation: "Evaluation") -> str:
    metrics, word = evaluation.metrics, evaluation.word
    return "\n".join(
        [
            f"worst class: {metrics.worst_class}, recall {percent(metrics.worst_recall)}",
            *(_reached(found, word) for found in metrics.coverage_at),
            f"calibration error of the {word} (ECE) {percent(metrics.ece)}, Brier score "
            f"{_number(metrics.brier)}",
            f"area under risk and coverage (AURC) {_number(metrics.aurc)}",
        ]
    )


def _reached(found: "Reach", word: str) -> str:
    goal = f"{100 * found.precision:g} % right, in hindsight: "
    if found.threshold is None:
        return f"{goal}at no {word}"
    return (
        f"{goal}{percent(found.coverage)} of the images, at {word} {found.threshold:.3f} and above"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _show_left_out(evaluation: "Evaluation") -> None:
    left_out = {
        "images whose true label is not in the label set": evaluation.unmatched,
        "images with two true labels": evaluation.contradictions,
        "images not labelled yet": evaluation.unlabelled,
        "rows of the truth that name no image of the store": evaluation.absent,
    }
    told = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
    if told:
        out.print(f"left out: {told}")
