"""`pseudolabel labels check`: what in a label set will label badly, and what to do about it."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands import (
    Assignments,
    ConfigFile,
    Device,
    Json,
    Labels,
    Model,
    StoreFolder,
    Template,
)

if TYPE_CHECKING:
    from pipeline.clip.encoder import Encoder
    from pipeline.config import Config
    from pipeline.label_set import LabelSet, LabelVectors
    from pipeline.labels.checking import Finding
    from pipeline.store import Store

_SHOWN = 10  # findings of a kind


@dataclass(frozen=True)
class Checked:
    """What was looked at, and what was found."""

    label_set: str
    classes: int
    prompts: int
    images: int | None  # of the store; null: there is none with vectors
    findings: "list[Finding]"


def check(
    label_set: Annotated[
        str | None,
        typer.Argument(
            help="A TOML file, or names [default: the config's, or the store's own].",
            show_default=False,
        ),
    ] = None,
    labels: Labels = None,
    store: StoreFolder = None,
    model: Model = None,
    template: Template = None,
    device: Device = None,
    matrix: Annotated[
        Path | None,
        typer.Option("--matrix", help="A CSV file for the cosines of all labels with all."),
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Look at a label set, and at what it does to a store's images: what will label badly."""
    from flows.console import print_json, progress_shown
    from flows.settings import resolve
    from pipeline.errors import InputError

    if label_set is not None and labels is not None:
        raise InputError("labels check: name the label set once: as LABEL_SET or with --labels")
    resolved = resolve(
        config,
        {
            "store": store,
            "labels.label_set": label_set if labels is None else labels,
            "labels.template": template,
            "encoder.model": model,
            "encoder.device": device,
        },
        assignments,
    )
    opened = _store(resolved, must_exist=store is not None)
    asked = _label_set(resolved, opened)
    with progress_shown("load"):
        checked = _check(resolved, asked, opened, matrix)
    if as_json:
        print_json(checked)
    else:
        _show(checked)


def _store(config: "Config", *, must_exist: bool) -> "Store | None":
    from pipeline.opening import open_store, peek_store

    store = open_store(config.store) if must_exist else peek_store(config.store)
    return store if store.identity() is not None and store.parts("embeddings") else None


def _label_set(config: "Config", store: "Store | None") -> "LabelSet":
    """Return the label set that was named; else the one of the labels that the store holds."""
    from flows import resources
    from pipeline.label_set import LabelSet
    from pipeline.labels.labelling import current_labels, current_table

    named = "label_set" in config.labels.model_fields_set
    if named or store is None or current_table(store) is None:
        return resources.label_set(config)
    held = current_labels(store).label_set.model_dump()
    if config.labels.template:
        held["templates"] = config.labels.template
    return LabelSet.model_validate(held)


def _check(
    config: "Config", asked: "LabelSet", store: "Store | None", matrix: Path | None
) -> Checked:
    from flows import resources
    from flows.progress import listener
    from pipeline.clip.prompts import prompts_of
    from pipeline.labels.checking import check_label_set
    from pipeline.labels.judging import judge
    from pipeline.labels.tally import tally_store

    encoder = resources.encoder(config)
    if store is not None:
        store.require(encoder.identity)
    listener.get().stage("embed labels")
    vectors = _vectors(asked, encoder, store)
    if matrix is not None:
        cosines = vectors.classes @ vectors.classes.T
        with matrix.open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(["", *asked.names])
            for name, row in zip(asked.names, cosines, strict=True):
                lines.writerow([name, *(f"{cosine:.4f}" for cosine in row)])
    findings = [*check_label_set(asked, vectors.classes), *_prompt_findings(asked, encoder)]
    images = None
    if store is not None:
        listener.get().stage("count", store.rows("embeddings", *store.parts("embeddings")))
        tally = tally_store(
            store,
            vectors,
            scale=encoder.identity.logit_scale,
            on_progress=lambda done: listener.get().advance(done, 0),
        )
        images = tally.images
        findings += judge(asked.names, tally, rivals=not asked.multi_label)
    count = sum(len(group) for group in prompts_of(asked)) + len(asked.reject)
    return Checked(asked.name, len(asked.classes), count, images, findings)


def _vectors(asked: "LabelSet", encoder: "Encoder", store: "Store | None") -> "LabelVectors":
    """Return the store's own vectors of these labels; else make them, and write nothing."""
    from pipeline.clip.prompts import embed_labels, held_label_vectors

    held = held_label_vectors(store, asked) if store is not None else None
    return held or embed_labels(asked, encoder, warn=False)


def _prompt_findings(asked: "LabelSet", encoder: "Encoder") -> "list[Finding]":
    from pipeline.clip.prompts import cut_prompts, unknown_words
    from pipeline.labels.checking import Finding

    found = [
        Finding(
            "cut prompt",
            () if cut.label is None else (cut.label,),
            float(cut.cut),
            str(cut),
            "say what matters first, or split a description into several `prompts`",
        )
        for cut in cut_prompts(asked, encoder)
    ]
    return found + [
        Finding(
            "unknown word",
            (name,),
            None,
            f"this model's tokenizer has no piece for letters of {', '.join(map(repr, words))}: "
            "the model has hardly seen them",
            "use another word, or the language that the model was trained on (mostly English)",
        )
        for name, words in unknown_words(asked, encoder.unknown).items()
    ]


def _show(checked: Checked) -> None:
    from flows.console import out, show, table

    on = "" if checked.images is None else f", and what it does to {checked.images} images"
    what = (
        f"Label set {checked.label_set}: {checked.classes} classes, {checked.prompts} prompts{on}"
    )
    if not checked.findings:
        out.print(f"{what}: nothing to find fault with", style="bold")
        return
    shown = table("finding", "labels", "what it means", "what to do")
    seen: Counter[str] = Counter()
    for entry in checked.findings:
        seen[entry.kind] += 1
        if seen[entry.kind] <= _SHOWN:
            few = ", ".join(entry.classes[:5]) + (" ..." if len(entry.classes) > 5 else "")
            shown.add_row(entry.kind, few, entry.words, entry.advice)
    show(what, shown)
    for kind, count in seen.items():
        if count > _SHOWN:
            out.print(f"and {count - _SHOWN} more: {kind} (--json tells all)")
