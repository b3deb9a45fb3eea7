"""The command that asks a model: classify."""

from dataclasses import asdict
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
    Precision,
    Template,
    TopK,
)

Images = Annotated[list[Path], typer.Argument(help="Image files or folders.", show_default=False)]


def classify(
    images: Images,
    labels: Labels = None,
    model: Model = None,
    template: Template = None,
    top_k: TopK = None,
    device: Device = None,
    precision: Precision = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Zero-shot answers for single images; no store is needed."""
    from flows import resources
    from flows.asking import files_of, vectors_of_files
    from flows.console import percent, print_json, show, table, tell_refused
    from flows.settings import resolve
    from pipeline.labels.classify import classify as classify_vectors

    resolved = resolve(
        config,
        {
            "labels.label_set": labels,
            "labels.template": template,
            "labels.top_k": top_k,
            "encoder.model": model,
            "encoder.device": device,
            "encoder.precision": precision,
        },
        assignments,
    )
    label_set = resources.label_set(resolved)
    asked = vectors_of_files(resolved, files_of(images))
    encoder = resources.encoder(resolved)
    answers = classify_vectors(
        asked.vectors,
        label_set,
        resources.label_vectors(resolved),
        encoder.identity,
        top_k=resolved.labels.top_k,
        abstain_below=resolved.labels.abstain_below,
    )
    if as_json:
        told = [{"path": p, **asdict(a)} for p, a in zip(asked.names, answers, strict=True)]
        print_json([*told, *asked.left_out()])
        return
    for path, answer in zip(asked.names, answers, strict=True):
        note = "" if answer.label else "  (abstained)"
        shown = table("label", "score", right=("score",))
        for entry in answer.top:
            shown.add_row(entry.label, percent(entry.score))
        show(f"{path}{note}", shown)
    tell_refused(asked.refused)
