"""Label runs and what changed between two of them, as a person sees it, or as JSON."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from flows.console import out, percent, print_json, show, table

if TYPE_CHECKING:
    from pipeline.labels.label_runs import LabelRunState
    from pipeline.labels.provenance import Provenance
    from pipeline.reports.label_diff import LabelDiff

_ABSTAINED = "(abstained)"
_MOST = 10  # flows and names shown


def show_label_runs(runs: "list[LabelRunState]", *, as_json: bool) -> None:
    """Show the label runs of a store, the one in force first."""
    if as_json:
        print_json([asdict(run) for run in runs])
        return
    if not runs:
        out.print("No labels yet: `pseudolabel run` makes them.", style="bold")
        return
    partial = any(run.unlabelled for run in runs)
    numbers = ("images", *(["not yet"] if partial else []), "abstained", "score")
    shown = table("run", "label set", *numbers, "method", "since", right=numbers)
    for column in shown.columns:
        column.no_wrap = column.header not in ("label set", "method")
    for run in runs:
        told = run.provenance
        mark = " *" if run.current else " -" if run.previous else ""
        shown.add_row(
            f"{run.run}{mark}",
            run.label_set,
            "?" if run.rows is None else str(run.rows),
            *([str(run.unlabelled)] if partial else []),
            "?" if run.abstained is None else str(run.abstained),
            _score(run.mean_score),
            _method(told),
            told.turned_to_at[:10] if told else "?",
        )
    show("Label runs (*: in force, -: before that)", shown)
    if any(run.rows is None for run in runs):
        out.print("?: written by another version; `pseudolabel relabel` labels anew")


def show_label_diff(diff: "LabelDiff", *, as_json: bool) -> None:
    """Show how many labels changed, from which class to which, and examples."""
    if as_json:
        print_json(diff)
        return
    moved = diff.images - diff.same - diff.abstained_in_both
    share = percent(moved / diff.images if diff.images else None)
    out.print(f"\n{diff.before} -> {diff.after}", style="bold", soft_wrap=True)
    out.print(
        f"{moved} of {diff.images} images changed ({share}): {diff.changed} to another class, "
        f"{diff.newly_abstained} abstain now, {diff.newly_labelled} have a label now\n"
        f"mean score {_score(diff.mean_score_before)} before, "
        f"{_score(diff.mean_score_after)} after"
    )
    if diff.only_before or diff.only_after:
        out.print(f"not compared: {diff.only_before} only before, {diff.only_after} only after")
    for names, when in ((diff.classes_only_before, "before"), (diff.classes_only_after, "after")):
        if names:
            more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
            out.print(f"classes only {when}: {', '.join(names[:_MOST])}{more}", soft_wrap=True)
    if moved:
        _show_flows(diff)
    _show_classes(diff)
    if diff.examples:
        _show_examples(diff)


def _show_flows(diff: "LabelDiff") -> None:
    shown = table("images", "before", "after", right=("images",))
    for flow in diff.flows[:_MOST]:
        shown.add_row(str(flow.images), flow.before or _ABSTAINED, flow.after or _ABSTAINED)
    rest = len(diff.flows) - _MOST
    show("What became of what" + (f" (the largest; {rest} more)" if rest > 0 else ""), shown)


def _show_classes(diff: "LabelDiff") -> None:
    grown = sorted(diff.classes, key=lambda c: -abs(c.after - c.before))
    grown = [c for c in grown if c.after != c.before]
    if not grown:
        return
    shown = table("class", "before", "after", "change", right=("before", "after", "change"))
    for c in grown[: 2 * _MOST]:
        shown.add_row(c.label, str(c.before), str(c.after), f"{c.after - c.before:+d}")
    show("Classes that grew or shrank most", shown)


def _show_examples(diff: "LabelDiff") -> None:
    columns = ("path", "before", "score before", "after", "score after")
    shown = table(*columns, right=("score before", "score after"))
    for c in diff.examples:
        before, after = c.before or _ABSTAINED, c.after or _ABSTAINED
        shown.add_row(c.path, before, _score(c.score_before), after, _score(c.score_after))
    show("Examples, the surest first", shown)


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.2f}"


def _method(told: "Provenance | None") -> str:
    """Return who labelled: a head, or the texts by some refinement."""
    if told is None:
        return "?"
    source = str(told.asked.get("source", "texts"))
    return told.method if source == "texts" else source
