"""How far similar images have the same label, as a person sees it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.console import out, percent, show, table

if TYPE_CHECKING:
    from pipeline.search.agreement import AgreementSummary, ClassAgreement, Tally


def show_classes(title: str, classes: "Sequence[ClassAgreement]") -> None:
    """Show the agreement of some classes, and what their neighbours are called instead."""
    shown = table("class", "images", "agreement", "next to", right=("images", "agreement"))
    for each in classes:
        shown.add_row(each.label, str(each.images), percent(each.agreement), each.next_to or "-")
    show(title, shown)


def show_agreement(found: "AgreementSummary | None") -> None:
    """Show what a run tells of agreement, or why it tells nothing."""
    if found is None:
        out.print(
            "\nagreement of similar images: not known, for a run searches neighbours only where "
            "labels.refine asks for them; `pseudolabel labels agreement` does it",
            soft_wrap=True,
        )
        return
    if found.worst:
        show_classes("Neighbours with the same label: the classes that agree least", found.worst)
    out.print(f"of all images: {_in_words(found.all)}", soft_wrap=True)
    if found.drop.images and found.drop != found.all:
        out.print(f"of this drop: {_in_words(found.drop)}", soft_wrap=True)


def _in_words(told: "Tally") -> str:
    return (
        f"{percent(told.mean)} of the neighbours agree ({told.images} images); "
        f"{told.alone} images have none that does"
    )
