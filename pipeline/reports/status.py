"""Status: what is in a store, told from its tables alone."""

from dataclasses import dataclass

import polars as pl

from pipeline.captions import captions_of, current_captions
from pipeline.catalog import current_files
from pipeline.errors import InputError
from pipeline.labels.labelling import current_labels
from pipeline.search.facts import IndexFacts, index_facts
from pipeline.store import Store


@dataclass(frozen=True)
class Status:
    """A store in numbers."""

    store: str
    encoder: str | None
    runs: int
    last_run: str | None
    files: dict[str, int]  # by status
    embeddings: int  # distinct images ever embedded
    label_set: str | None
    labels: dict[str, int]  # present images by label; abstained ones under "(none)"
    selected: int
    indexed: int
    index: IndexFacts | None  # null: none yet
    captioned: int  # present images with a caption
    caption_model: str | None
    trained: bool
    bytes: int  # on disk


def status(store: Store) -> Status:
    """Count what is in a store."""
    files = current_files(store, ["image_id", "status", "run_id"])
    diary = store.read("files", ["run_id"])["run_id"]
    present = files.filter(pl.col("status") == "ok").select("image_id").unique()
    label_set, counts = None, {}
    try:
        run = current_labels(store)
    except InputError:  # nothing labelled yet, which is no fault here
        pass
    else:
        label_set = run.label_set.name
        labels = store.read(run.table, ["image_id", "label"]).unique("image_id")
        shown = labels.join(present, on="image_id", how="semi")["label"].fill_null("(none)")
        counts = dict(shown.value_counts(sort=True).iter_rows())
    identity = store.identity()
    selection = store.read("selections/default", ["kept"])["kept"]
    index = index_facts(store)
    captioner = current_captions(store)
    return Status(
        store=store.location,
        encoder=str(identity) if identity else None,
        runs=diary.n_unique(),
        last_run=str(diary.max()) if len(diary) else None,
        files=dict(sorted(files["status"].value_counts().iter_rows())),
        embeddings=store.read("embeddings", ["image_id"])["image_id"].n_unique(),
        label_set=label_set,
        labels=counts,
        selected=int(selection.sum() or 0),
        indexed=index.vectors if index else 0,
        index=index,
        captioned=len(set(captions_of(store)).intersection(present["image_id"])),
        caption_model=captioner.model if captioner else None,
        trained=bool(store.get_json("models/head/head.json")),
        bytes=sum(store.folder.sizes().values()),
    )
