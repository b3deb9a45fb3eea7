"""The steps that make and use heads: each unpacks the config, calls the library, returns a summary.

They take and return names and summaries, never arrays, so that they can run as tasks anywhere.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows import resources
from flows.progress import listener
from flows.stale import recipe, select_settings
from pipeline.config import Config
from pipeline.labels.label_runs import run_of, use_run
from pipeline.labels.labelling import current_labels
from pipeline.opening import open_store
from pipeline.store import Store
from pipeline.training.freshness import FOLDER

if TYPE_CHECKING:  # these load torch, which a run that finds nothing new has no time for
    import polars as pl

    from flows.asking import Asked
    from pipeline.training.head_labels import HeadLabels
    from pipeline.training.heads.base import Epoch, OnEpoch
    from pipeline.training.self_training import SelfTraining
    from pipeline.training.train import MakeHead, TrainSummary

_LOSSES = f"{FOLDER}/losses.png"


def train(config: Config) -> "TrainSummary":
    """Train heads on the selection, save the best one and the picture of its losses."""
    from pipeline.labels.truth import read_truth
    from pipeline.reports.plots import losses_png
    from pipeline.training.train import train as train_heads

    store, truth = open_store(config.store), config.select.truth
    label_set = current_labels(store).label_set
    known = read_truth(store, truth, label_set) if truth else None
    text, _ = resources.text_classifier(config, store, label_set)
    summary = train_heads(
        store,
        recipe(config, _device(config)),
        text,
        make_head=_maker(config),
        encoder=lambda: resources.encoder(config),
        truth=known,
        on_head=_on_head(config),
    )
    if summary.epochs:
        store.put(_LOSSES, losses_png(summary.epochs, head=summary.kind))
    else:
        store.delete(_LOSSES)  # it would be another head's
    return summary


def predict(config: Config, *, use: bool) -> "HeadLabels":
    """Label every image of the store by the saved head; with `use` these labels come into force."""
    from pipeline.training.predict import predict_store

    store = open_store(config.store)
    listener.get().stage("predict", store.rows("embeddings", *store.parts("embeddings")))
    written = predict_store(
        store,
        lambda label_set: resources.question(config, store, label_set),
        lambda label_set: resources.stored_label_vectors(config, store, label_set),
        encoder=lambda: resources.encoder(config),
        now=datetime.now(UTC),
        on_progress=lambda images: listener.get().advance(images, 0),
    )
    if use:
        _put_in_force(store, written.table)
    return written


def predict_files(config: Config, asked: "Asked") -> "pl.DataFrame":
    """Return path, label, score, topk_labels and topk_scores of images that no store need know.

    Raises:
        InputError: the store holds no head, or one of another model.
    """
    import polars as pl

    from pipeline.training.models import load_head
    from pipeline.training.predict import predict_vectors, ranked_labels

    store = open_store(config.store)
    head, encoder = load_head(store), resources.encoder(config)
    store.require(encoder.identity)
    images = pl.DataFrame({"image_id": [""] * len(asked.names), "path": asked.names})
    answers = predict_vectors(store, head, asked.vectors, images, lambda: encoder)
    rows = ranked_labels(answers, head.classes, config.labels.top_k)
    return rows.select(pl.Series("path", asked.names), pl.all())


def self_train(config: Config, *, use: bool) -> "SelfTraining":
    """Relabel the store in rounds, each kept as a label run; with `use` the last comes into force.

    Not one that does not count.
    """
    from pipeline.training.self_training import self_train as train_in_rounds

    store = open_store(config.store)
    text, vectors = resources.text_classifier(config, store, current_labels(store).label_set)
    summary = train_in_rounds(
        store,
        recipe(config, _device(config)),
        select_settings(config).rules,
        text,
        vectors,
        make_head=_maker(config),
        encoder=lambda: resources.encoder(config),
        now=datetime.now(UTC),
        on_head=_on_head(config),
    )
    if use:
        _put_in_force(store, summary.table)
    return summary


def _put_in_force(store: Store, table: str) -> None:
    """Turn to a label run, with the confidences that answers give."""
    from pipeline.labels.audit import bring_up

    use_run(store, run_of(table), now=datetime.now(UTC))
    bring_up(store)


def _device(config: Config) -> str:
    from pipeline.training.devices import usual_device

    wanted = config.encoder.device
    return usual_device() if wanted == "auto" else wanted


def _maker(config: Config) -> "MakeHead":
    """Return what makes heads; the one that learns prompts is given the config's model."""
    from functools import partial

    from pipeline.training.heads.registry import make_head

    return partial(make_head, model=lambda: resources.loaded_model(config))


def _on_head(config: Config) -> "Callable[[str], OnEpoch]":
    """Return what tells the listener of each head and epoch."""
    heard = listener.get()

    def begin(kind: str) -> "OnEpoch":
        heard.stage(f"train {kind}", config.train.max_epochs, "epochs")

        def epoch(_: "Epoch") -> None:
            heard.advance(1, 0)

        return epoch

    return begin
