"""The command `audit`: ask a person about some images, and make of the answers what they prove."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands import Assignments, ConfigFile, Json, StoreFolder, Wait

if TYPE_CHECKING:
    from flows.audit import AuditSummary, DrawSummary
    from pipeline.labels.certify import Certificate
    from pipeline.labels.findings import Findings, Region
    from pipeline.labels.methods import Choice

_SIZE = 200


def audit(
    answers: Annotated[
        Path | None, typer.Option("--answers", help="Take the answers of this CSV file.")
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(
            "--truth", help="Answers from a CSV file (path,label), or folders named as the labels."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size", help=f"Images to draw [default: {_SIZE}; with --truth: all it knows].", min=1
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Only tell what the answers so far say.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the sheet.")] = Path(),
    by: Annotated[str | None, typer.Option("--by", help="Who answers [default: you].")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same images.", min=0)] = 0,
    store: StoreFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Draw images for a person to check, or take the answers: how good are the labels?"""
    from flows import audit as steps
    from flows.console import print_json, progress_shown
    from flows.settings import resolve
    from pipeline.errors import InputError

    if sum([answers is not None, truth is not None, report]) > 1:
        raise InputError("audit: give one of --answers, --truth and --report, or none to draw")
    resolved = resolve(config, {"store": store}, assignments)
    summary: DrawSummary | AuditSummary
    with progress_shown("load"):
        if answers is not None:
            summary = steps.take_answers(resolved, answers, by=by, wait=wait)
        elif truth is not None:
            summary = steps.take_truth(resolved, truth, size=size, seed=seed, by=by, wait=wait)
        elif report:
            summary = steps.tell(resolved)
        else:
            summary = steps.leave_sheet(resolved, size=size or _SIZE, seed=seed, out=out, wait=wait)
    if as_json:
        print_json(summary)
    elif isinstance(summary, steps.DrawSummary):
        _show_draw(summary)
    else:
        _show_audit(summary)


def _show_draw(summary: "DrawSummary") -> None:
    from flows.console import out

    drawn = "drawn before and not answered yet" if summary.again else "drawn at random"
    out.print(f"{summary.images} images {drawn} (round {summary.round})", style="bold")
    out.print(
        f"Open {summary.page} in a browser, answer, and download audit.csv; or fill in the column "
        f"answer of {summary.csv} (a label, right, none of these, cannot tell). You may stop "
        "anywhere: the order is random. Then: pseudolabel audit --answers audit.csv",
        soft_wrap=True,
    )


def _show_audit(summary: "AuditSummary") -> None:
    from flows.console import out

    found = summary.findings
    if summary.by:
        out.print(f"{summary.taken} new answers by {summary.by}", style="bold")
    if summary.truth_images is not None:
        out.print(
            f"the truth knows {summary.truth_images} images; what follows holds for the others as "
            f"far as they are alike. {summary.truth_unmatched} images left out: their true label "
            "is none of the label set"
        )
    told = f"{found.answers} answers count"
    for number, what in (
        (found.none_of_these, "none of these"),
        (found.cannot_tell, "cannot tell, which do not count"),
        (found.learnt, "do not count, for the head that gave these labels has learnt from them"),
        (found.unanswered, "drawn and not answered"),
    ):
        told += f"; {number} {what}" if number else ""
    out.print(told)
    if found.accuracy is None:
        out.print("No answers yet that count: `pseudolabel audit` draws images to ask about.")
        return
    sure = found.accuracy
    out.print(
        f"accuracy {100 * sure.value:.1f} %, 95 % interval {100 * sure.low:.1f} to "
        f"{100 * sure.high:.1f} %, of {found.images} images",
        style="bold",
    )
    if found.unaudited:
        out.print(
            f"{found.unaudited} images came later: nothing here is proven of them. Audit again",
            style="bold",
        )
    _show_calibration(found)
    _show_regions(found)
    if found.known is not None:
        _show_known(found.known)
    if summary.choice is not None:
        _show_choice(summary.choice)


def _show_known(proven: "Certificate") -> None:
    from flows.console import out, percent

    if proven.threshold is None:
        more = f"; some {proven.more} more answers may do" if proven.more else ""
        out.print(f"no unknown_score is certified to tell the unknown{more}")
        return
    out.print(
        f"of the {percent(proven.coverage)} of images with an unknown_score of "
        f"{proven.threshold:.4f} and below, {proven.target:.0%} or more show one of the classes: "
        f"labels.unknown_above = {proven.threshold:.4f} leaves the others without a label"
    )


def _show_choice(choice: "Choice") -> None:
    from flows.console import out

    told = ", ".join(
        f"{each.method} {each.right} (p = {each.p:.2g})"
        if each.p < 1
        else f"{each.method} {each.right}"
        for each in choice.compared
    )
    out.print(
        f"right, of {choice.answers} answers, by the way to refine: {told}. "
        f'labels.refine = "auto" takes {choice.method}, from the next run or relabel on'
    )


def _show_calibration(found: "Findings") -> None:
    from flows.console import out
    from pipeline.labels.audit import LEAST_ANSWERS

    if found.method is None:
        out.print(
            f"not calibrated: that takes {LEAST_ANSWERS} answers. Confidence is still the score"
        )
        return
    losses = f"log loss {found.platt_loss:.3f}"
    if found.isotonic_loss is not None:
        losses = f"log loss: platt {found.platt_loss:.3f}, isotonic {found.isotonic_loss:.3f}"
    out.print(
        f"confidence calibrated by {found.method} ({losses}, by cross-validation)\n"
        f"calibration error in {found.bins} bins: score {_points(found.ece_before)}, confidence "
        f"{_points(found.ece_after)}; chance alone gives {_points(found.ece_by_chance)} with so "
        "few answers"
    )


def _show_regions(found: "Findings") -> None:
    from flows.console import out, percent, show, table

    columns = ("precision", "expected", "certified", "min_confidence")
    shown = table(*columns, "proof", right=columns[1:])
    for region in found.regions:
        proven = region.certificate
        bar = "-" if region.min_confidence is None else f"{region.min_confidence:.8f}"
        shown.add_row(
            f"{region.target:.0%}",
            percent(region.expected_coverage),
            percent(proven.coverage) if proven.threshold is not None else "none",
            bar,
            _proof(region),
        )
    show("Share of the images that reach a precision", shown)
    certified = [region for region in found.regions if region.min_confidence is not None]
    if certified:
        best = max(certified, key=lambda region: region.target)
        out.print(
            f"For a precision of at least {best.target:.0%} put into the config, under [select]: "
            f"min_confidence = {best.min_confidence:.8f}. Each line holds with 95 % confidence"
        )
    if found.method is not None:
        out.print("The selection is made anew by `pseudolabel select` or the next run.")


def _proof(region: "Region") -> str:
    proven = region.certificate
    if proven.threshold is not None:
        return (
            f"{proven.errors} of {proven.answers} wrong at score {proven.threshold:.4f} and above"
        )
    if proven.more is None:
        return "nothing can be certified: too many of the surest answered so far are wrong"
    return f"nothing can be certified yet: some {proven.more} more answers may do"


def _points(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
