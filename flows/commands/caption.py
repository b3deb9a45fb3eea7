"""The command that writes captions: side text for the images of a store."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands import (
    Assignments,
    ConfigFile,
    Device,
    Json,
    Plain,
    Precision,
    StoreFolder,
    Wait,
)

if TYPE_CHECKING:
    from pipeline.clip.captioning import CaptionSummary

_SHOWN_REASONS = 10


def caption(
    store: StoreFolder = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="A CoCa: architecture/tag, architecture/file.pt, local-dir:."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Images at most; 0: all.", min=0)] = 0,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images written of at once.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Sample, with this seed; without, the likeliest words."),
    ] = None,
    device: Device = None,
    precision: Precision = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    plain: Plain = False,
    as_json: Json = False,
) -> None:
    """Write captions for the images of a store that have none, as side text for training."""
    from flows import driver
    from flows.caption import all_captioned
    from flows.console import out, print_json
    from flows.settings import resolve

    resolved = resolve(
        config,
        {
            "store": store,
            "caption.model": model,
            "caption.batch_size": batch_size,
            "caption.sample": None if seed is None else True,
            "caption.seed": seed,
            "encoder.device": device,
            "encoder.precision": precision,
        },
        assignments,
    )
    known = all_captioned(resolved)
    if known is None:
        summary = driver.caption(resolved, plain=plain, wait=wait, limit=limit)
        print_json(summary) if as_json else _show(resolved.store, summary)
    elif as_json:
        print_json({"nothing_new": True, "known": known})
    else:
        out.print(f"Nothing new: all {known} images of {resolved.store} have captions.")


def _show(store: str, summary: "CaptionSummary") -> None:
    """Tell a person what was written, and of what nothing could be."""
    from flows.console import out

    took = summary.seconds["caption"]
    out.print(
        f"\n{summary.captioned} images captioned in {took:.1f} s: "
        f"{summary.captioned / max(took, 1e-3):.1f} images/s; {summary.known} had a caption"
        + (f", {summary.left} are left" if summary.left else ""),
        style="bold",
    )
    if summary.empty:
        out.print(f"{summary.empty} captions are empty: the model wrote no word; notes say what")
    for reason, images in list(summary.failed.items())[:_SHOWN_REASONS]:
        out.print(f"  {images} not captioned: {reason}", style="red", soft_wrap=True)
    if len(summary.failed) > _SHOWN_REASONS:
        out.print(f"  and for {len(summary.failed) - _SHOWN_REASONS} other reasons (--json)")
    out.print(f"The captions are in {store}/{summary.table}")
    if not summary.in_force:
        out.print("Those of another model stay in force until these are as many")
