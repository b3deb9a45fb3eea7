"""The command `duplicates`: which images show the same, and which of them is best."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands import Assignments, ConfigFile, Json, StoreFolder, Wait

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.search.groups import Groups


def duplicates(
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            help="Cosine from which on images are near-duplicates, above 0 to 1 "
            "[default: select.duplicate_cosine].",
            show_default=False,
        ),
    ] = None,
    crowds: Annotated[
        bool,
        typer.Option(
            "--crowds",
            help="Group all that similar images lead to, as splits do: the ends of such a chain "
            "need not be similar.",
        ),
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="A PNG with the largest groups.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A table of all groups: a file named .parquet or .csv."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", help="Groups to print and draw; JSON has all.", min=1)
    ] = 20,
    store: StoreFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Group images that show the same, the best of each group first, and say why it is best.

    Groups are made as `select` makes them: every image of a group is at least as similar to its
    best as the threshold says, and no two best ones are. Best here is the one with the most pixels,
    then the clearest label, the most bytes, the first path; `select` asks for answers of an audit
    and confidence first. Files with the same bytes are one image and are told of apart.
    """
    from flows.answering import require_png
    from flows.console import print_json
    from flows.neighbours import with_neighbours
    from flows.settings import resolve
    from pipeline.opening import open_store
    from pipeline.reports.hits import hits_file, require_format
    from pipeline.search.groups import find_groups, require_cosine

    if out is not None:
        require_format(out)
    if sheet is not None:
        require_png(sheet)
    resolved = resolve(config, {"store": store}, assignments)
    cosine = resolved.select.duplicate_cosine if threshold is None else threshold
    require_cosine(cosine)
    opened = open_store(resolved.store)
    index = with_neighbours(opened, wait=wait)
    found = find_groups(opened, index, cosine=cosine, crowds=crowds)
    if out is not None:
        with hits_file(out) as file:
            file.write(found.members)
    if sheet is not None:
        _draw(resolved, found, cosine, sheet, limit)
    if as_json:
        print_json(_whole(found, cosine, crowds=crowds))
        return
    _show(found, cosine, limit)
    _tell(out, sheet)


def _whole(found: "Groups", cosine: float, *, crowds: bool) -> dict[str, object]:
    groups = [
        {"size": len(group), "best": group["image_id"][0], "reason": group["reason"][0]}
        | {"images": group.drop("group", "reason").to_dicts()}
        for group in found.members.partition_by("group", maintain_order=True)
    ]
    return {
        "threshold": cosine,
        "grouped_as": "crowds" if crowds else "leaders",
        "images": found.images,
        "pairs": found.pairs,
        "recall": found.recall,
        "neighbour_recall": found.neighbour_recall,
        "groups": groups,
        "exact": found.copies.to_dicts(),
    }


def _show(found: "Groups", cosine: float, limit: int) -> None:
    from flows.console import out, percent, show, table

    members = found.members
    groups = members["group"].n_unique()
    out.print(
        f"\n{groups} groups of near-duplicates (cosine {cosine:g} and above) with {len(members)} "
        f"of {found.images} images; {found.pairs} pairs are among the nearest neighbours kept",
        style="bold",
    )
    if found.recall is not None:
        out.print(f"of the true pairs of a sample {percent(found.recall)} are found")
    shown = table("images", "best", "why", "least cosine", right=("images", "least cosine"))
    largest = members.filter(members["group"] < limit)
    for group in largest.partition_by("group", maintain_order=True):
        best = group.row(0, named=True)
        least = float(str(group["cosine"].min()))
        shown.add_row(str(len(group)), best["path"], best["reason"], f"{least:.3f}")
    if groups:
        show("The largest groups" if groups > limit else "Groups", shown)
    if len(found.copies):
        paths = table("paths", "the same bytes", right=("paths",))
        for names in found.copies["paths"].head(limit):
            paths.add_row(str(len(names)), "\n".join(names))
        images = "1 image" if len(found.copies) == 1 else f"{len(found.copies)} images"
        show(f"Exact duplicates: {images} under several paths", paths)


def _draw(config: "Config", found: "Groups", cosine: float, sheet: Path, limit: int) -> None:
    from flows.resources import thumbnail_decoders
    from pipeline.folder import LocalFolder
    from pipeline.reports.duplicate_sheet import duplicate_sheet

    groups = found.members["group"].n_unique()
    title = f"{groups} groups of near-duplicates, cosine {cosine:g} and above"
    with thumbnail_decoders(config) as pool:
        png = duplicate_sheet(found.members, title, decode=pool.decode, limit=limit)
    LocalFolder(sheet.parent).write(sheet.name, png)


def _tell(*written: Path | None) -> None:
    from flows.console import out

    for path in written:
        if path is not None:
            out.print(f"wrote {path}", soft_wrap=True)
