"""The commands that write a store: demo, init, run, relabel, select."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands import (
    Assignments,
    ConfigFile,
    Device,
    Json,
    Labels,
    Model,
    Plain,
    Policy,
    Precision,
    Refine,
    StoreFolder,
    Template,
    TopK,
    Truth,
    Wait,
)

Sources = Annotated[list[str] | None, typer.Argument(help="Folders that images arrive in.")]


def demo(
    store: Annotated[str, typer.Option("--store", help="Folder for the results.")] = "demo-store",
    plain: Plain = False,
    as_json: Json = False,
) -> None:
    """Run the whole main job on the bundled pictures with the bundled model, offline."""
    from flows import driver
    from pipeline.config import make_config

    data = Path(__file__).resolve().parents[2] / "data"
    config = make_config(
        {
            "store": store,
            "sources": [str(data / "images")],
            "encoder": {
                "model": f"local-dir:{data / 'models/tiny-clip'}",
                "precision": "fp32",  # the same numbers on every machine
            },
            "labels": {"label_set": str(data / "labels.toml")},
            "select": {"truth": str(data / "images")},
            "scan": {"settle_seconds": 0},  # nobody is still writing the bundled pictures
        }
    )
    driver.run_and_show(config, plain=plain, as_json=as_json)


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")] = Path(),
) -> None:
    """Write a pseudolabel.toml with every knob, its default and what it means."""
    from flows.console import out
    from pipeline.config import Config, commented_toml
    from pipeline.errors import InputError

    file = folder / "pseudolabel.toml"
    if file.exists():
        raise InputError(f"{file}: is there already; delete it first to start afresh")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(commented_toml(Config()), encoding="utf-8")
    out.print(f"wrote {file}; edit sources and labels.label_set, then: pseudolabel run")


def run(
    sources: Sources = None,
    labels: Labels = None,
    store: StoreFolder = None,
    model: Model = None,
    device: Device = None,
    precision: Precision = None,
    template: Template = None,
    refine: Refine = None,
    truth: Truth = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also try unreadable files again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what a run would do.")] = False,
    wait: Wait = False,
    plain: Plain = False,
    as_json: Json = False,
) -> None:
    """Take one drop through every stage: scan, embed, index, label, select, train, report."""
    from flows import driver
    from flows.settings import resolve

    resolved = resolve(
        config,
        {
            "sources": sources or None,
            "store": store,
            "labels.label_set": labels,
            "labels.template": template,
            "labels.refine": refine,
            "encoder.model": model,
            "encoder.device": device,
            "encoder.precision": precision,
            "select.truth": truth,
        },
        assignments,
    )
    if dry_run:
        driver.show_plan(resolved, retry_failed=retry_failed, as_json=as_json)
        return
    driver.run_and_show(
        resolved,
        plain=plain,
        as_json=as_json,
        retry_failed=retry_failed,
        wait=wait,
    )


def relabel(
    labels: Labels = None,
    store: StoreFolder = None,
    model: Model = None,
    device: Device = None,
    precision: Precision = None,
    template: Template = None,
    refine: Refine = None,
    top_k: TopK = None,
    abstain_below: Annotated[
        float | None, typer.Option("--abstain-below", help="No label below this score, 0 to 1.")
    ] = None,
    selection: Annotated[
        bool,
        typer.Option(
            "--select/--no-select",
            help="Select anew as well; without, the next run does (it compares all images).",
        ),
    ] = True,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    plain: Plain = False,
    as_json: Json = False,
) -> None:
    """Other labels, prompts or thresholds for the images of a store; no image is read."""
    from flows import driver, tables
    from flows.settings import resolve

    resolved = resolve(
        config,
        {
            "store": store,
            "labels.label_set": labels,
            "labels.template": template,
            "labels.refine": refine,
            "labels.top_k": top_k,
            "labels.abstain_below": abstain_below,
            "encoder.model": model,
            "encoder.device": device,
            "encoder.precision": precision,
        },
        assignments,
    )
    summary = driver.relabel(resolved, plain=plain, wait=wait, select=selection)
    tables.show_relabelling(resolved, summary, as_json=as_json)


def select(
    store: StoreFolder = None,
    policy: Policy = None,
    min_confidence: Annotated[
        float | None, typer.Option("--min-confidence", help="Less sure ones are left out, 0 to 1.")
    ] = None,
    max_per_class: Annotated[
        int | None, typer.Option("--max-per-class", help="Images kept of one class at most.")
    ] = None,
    truth: Truth = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Choose the images worth training on, and say why the others are not."""
    from flows import stages, tables
    from flows.settings import resolve
    from pipeline.locking import writer_lock
    from pipeline.opening import open_store

    given = {
        "store": store,
        "select.policy": policy,
        "select.truth": truth,
        "select.min_confidence": min_confidence,
        "select.max_per_class": max_per_class,
    }
    resolved = resolve(config, given, assignments)
    with writer_lock(open_store(resolved.store), wait=wait):
        tables.show_selection(stages.select(resolved), as_json=as_json)
