"""Other labels for the vectors that a store holds: no image is read and no source is listed.

Written once over `Tasks`: Prefect runs it, and so does `--plain`.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from flows import resources, stages
from flows.drop import Options
from flows.labelling import answer
from flows.runners import Steps, Tasks
from pipeline.clock import Clock
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.labels.labelling import LabelSummary, recover_vectors
from pipeline.locking import writer_lock
from pipeline.opening import open_store
from pipeline.search.index import IndexSummary
from pipeline.training.selection import SelectSummary


@dataclass(frozen=True)
class RelabelSummary:
    """What one relabelling did."""

    label: LabelSummary
    images_per_second: float  # labelled; 0 when all had these labels already
    index: IndexSummary
    select: SelectSummary | None = None  # null: left to the next run, as asked
    seconds: dict[str, float] = field(default_factory=dict)  # by stage


def relabel_store(config: Config, tasks: Tasks, options: Options, select: bool) -> RelabelSummary:
    """Ask the config's question of every stored vector, then select anew.

    The selection is made of the labels, so it would be stale. A head is not trained: the next run
    does it where `train.every_run` says so.

    Args:
        config: its sources are not looked at.
        tasks: where the stages run.
        options: whether to wait for another writer.
        select: whether the selection is made anew; without, the next run does it.

    Raises:
        InputError: a bad label set or model, no store, or nothing in it.
        StoreBusyError: another writer holds the store.
    """
    resources.label_set(config)  # a bad one is told before anything is waited for
    store = open_store(config.store)
    clock = Clock()
    with writer_lock(store, wait=options.wait) as check_lock:
        run = Steps(tasks, clock, check_lock).run
        # Else nobody would notice, once the labels of vectors that went are out of force.
        recover_vectors(store, now=datetime.now(UTC))
        if not store.parts("embeddings"):
            raise InputError(
                f"{store.location}: holds no embeddings yet; `pseudolabel run` makes them"
            )
        run("encode labels", encode_labels, config)
        answered = answer(config, run)
        speed = round(answered.label.labelled / max(clock.seconds()["label"], 1e-3), 1)
        summary = RelabelSummary(answered.label, speed, answered.index)
        if select:
            summary = replace(summary, select=run("select", stages.select, config))
        return replace(summary, seconds=clock.seconds())


def encode_labels(config: Config) -> int:
    """Have the label set's vectors in the store's cache; return how many classes there are."""
    return len(resources.stored_label_vectors(config, open_store(config.store)).classes)
