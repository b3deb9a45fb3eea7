"""The command `labels agreement`: do similar images have the same label?"""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands import Assignments, ConfigFile, Json, StoreFolder, Wait

_SHOWN = 10


def agreement(
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A CSV file for all images, the least agreeing first."),
    ] = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Compare the label of each image with those of its ten nearest: a hint, no accuracy."""
    from flows.agreement_tables import show_classes
    from flows.console import out as console
    from flows.console import print_json
    from flows.neighbours import with_neighbours
    from flows.settings import resolve
    from pipeline.opening import open_store
    from pipeline.search.agreement import agreement as compare

    opened = open_store(resolve(config, {"store": store}, assignments).store)
    with_neighbours(opened, wait=wait)
    found = compare(opened)
    if out is not None:
        found.images.write_csv(out)
    apart = found.images.head(_SHOWN)
    if as_json:
        classes = [vars(each) for each in found.per_class]
        print_json({"mean": found.mean, "classes": classes, "least": apart.to_dicts()})
        return
    show_classes("Neighbours that have the same label", found.per_class)
    for path, label, share, theirs in apart.select(
        "path", "label", "agreement", "neighbours_say"
    ).iter_rows():
        if share < 0.5:
            console.print(f"  {path}: {label}, but its neighbours say {theirs}", soft_wrap=True)
    if out is not None:
        console.print(f"wrote {len(found.images)} images to {out}")
