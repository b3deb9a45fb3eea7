"""One drop, in order: scan, embed, index, label, select, train, report.

Written once over `Tasks`: Prefect runs it, and so does `--plain`.
"""

import logging
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from flows import metrics, reporting, stages, training
from flows.circumstances import Circumstances, circumstances, started
from flows.labelling import answer
from flows.notify import tell_drift, watched
from flows.progress import listener
from flows.runners import Steps, Tasks
from flows.stale import head_is_current, recipe, select_settings, stale_stages
from flows.watchdog import ends_when_stalled
from pipeline.clip.embed import EmbedSummary
from pipeline.clip.sharing import close_runs
from pipeline.clock import Clock
from pipeline.compaction import CompactSummary
from pipeline.config import Config
from pipeline.errors import DamagedFileError, LeakageError, StoreBusyError
from pipeline.images.scan import ScanSummary, together
from pipeline.labels.labelling import LabelSummary, recover_vectors
from pipeline.locking import Check, writer_lock
from pipeline.opening import create_store, open_store, peek_store
from pipeline.repair import set_aside
from pipeline.search.index import IndexSummary
from pipeline.training import freshness, selection
from pipeline.training.selection import SelectSummary

if TYPE_CHECKING:
    from pipeline.training.train import TrainSummary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the caller of a single run may ask for beside the config."""

    retry_failed: Annotated[bool, Field(description="try unreadable files again")] = False
    wait: Annotated[bool, Field(description="for another writer to finish")] = False


DEFAULT_OPTIONS = Options()


@dataclass(frozen=True)
class DropSummary:
    """What one run did."""

    run_id: str
    scan: ScanSummary
    embed: EmbedSummary
    label: LabelSummary | None = None
    index: IndexSummary | None = None
    select: SelectSummary | None = None
    train: "TrainSummary | None" = None
    not_trained: str | None = None  # the reason, where `train` is null
    compact: CompactSummary | None = None  # null: there were not too many parts
    report: reporting.ReportSummary | None = None  # null: there was nothing to do
    seconds: dict[str, float] = field(default_factory=dict)  # by stage; `embed` has its own split
    ran_with: Circumstances | None = None  # null: nothing was embedded


def process_drop(config: Config, tasks: Tasks, options: Options) -> DropSummary:
    """Take one drop through every stage; a stage with nothing to do costs next to nothing.

    A damaged file of the store is set aside, and the drop is taken again from the start: what was
    committed is not done twice.

    Raises:
        InputError: bad sources, label set, model or truth.
        StoreBusyError: another writer holds the store.
    """
    started()
    with watched(config):
        drop = _hold_and_take(config, tasks, options)
        tell_drift(config, drop.run_id, drop.report)  # a slow hook does not hold the store
    return drop


def _hold_and_take(config: Config, tasks: Tasks, options: Options) -> DropSummary:
    store = create_store(config.store)
    set_aside_already: set[str] = set()
    taken: list[tuple[ScanSummary, EmbedSummary]] = []
    with writer_lock(store, wait=options.wait) as check_lock, ends_when_stalled(config):
        while True:
            try:
                close_runs(store)  # an interrupted one may have left its plan
                return _take_drop(config, tasks, options, check_lock, taken)
            except DamagedFileError as damage:
                if damage.name in set_aside_already:
                    raise
                set_aside_already.add(damage.name)
                done = set_aside(store, damage.name, now=datetime.now(UTC))
                logger.warning("%s is damaged (%s): %s", damage.name, damage.why, done)


def _take_drop(
    config: Config,
    tasks: Tasks,
    options: Options,
    check_lock: Check,
    taken: list[tuple[ScanSummary, EmbedSummary]],
) -> DropSummary:
    """Take the drop once; `taken` tells what was scanned and embedded, by attempts before too."""
    store = open_store(config.store)
    clock = Clock()
    run = Steps(tasks, clock, check_lock).run
    recover_vectors(store, now=datetime.now(UTC))
    scan = run("scan", stages.scan, config, options.retry_failed)
    embedded = EmbedSummary()
    if scan.shards:
        plan = (scan.run_id, scan.shards)
        files = scan.new + scan.changed
        embedded = run("embed", stages.embed, config, *plan, check_lock, files=files)
    stages.finish_embedding(config, scan.run_id)
    taken.append((scan, embedded))
    scans, embeds = zip(*taken, strict=True)
    drop = DropSummary(
        scan.run_id,
        together(scans),
        sum(embeds, EmbedSummary()),
        seconds=clock.seconds(),
        ran_with=circumstances(config) if embedded.files else None,
    )
    if scan.nothing_new and not stale_stages(config):
        logger.info("nothing new")
        waiting = {"waiting": drop.scan.waiting + drop.embed.waiting}
        metrics.record(config, store, "nothing new", waiting)
        return drop
    if store.parts("embeddings"):
        answered = answer(config, run)
        drop = replace(
            drop,
            label=answered.label,
            index=answered.index,
            select=run("select", stages.select, config),
        )
    reason = _why_not_train(config, has_selection=drop.select is not None)
    trained = None
    if reason is None:
        try:
            trained = run("train", training.train, config)
        except LeakageError as leak:  # the labels stand, whatever is known beside the pixels
            reason = str(leak)
            freshness.refuse(open_store(config.store), recipe(config), reason)
    if stages.too_many_parts(config):
        drop = replace(drop, compact=run("compact", stages.compact, config))
    drop = replace(drop, train=trained, not_trained=reason, seconds=clock.seconds())
    report = run("report", reporting.report, config, scan.run_id, asdict(drop))
    return replace(drop, report=report, seconds=clock.seconds())


def tidy(config: Config, waiting: int) -> None:
    """Sweep what a killed run left half-written, where the next one finds nothing to do.

    Args:
        config: of the run that has nothing to do.
        waiting: files that the next one will take.
    """
    metrics.record_outside(config, "nothing new", {"waiting": waiting})
    store = peek_store(config.store)
    if store.local is None or not store.local.is_dir():
        return
    # Whoever holds the store tidies it; one that may not be written to stays as it is, and what is
    # damaged there is told by the next run that reads it.
    with suppress(StoreBusyError, DamagedFileError, OSError), writer_lock(store):
        close_runs(store)


def train_head(config: Config, tasks: Tasks, options: Options) -> "TrainSummary":
    """Fit a head to the selection that the store holds, changed or not.

    Where a truth is given and the selection is not of it and of this config, it is made anew.

    Raises:
        InputError: there is no store, or nothing in it to learn from.
        StoreBusyError: another writer holds the store.
    """
    store = open_store(config.store)
    with writer_lock(store, wait=options.wait):
        # What a truth tells of must not be trained on: the selection may be of another truth.
        if config.select.truth and not selection.is_current(store, select_settings(config)):
            listener.get().stage("select")
            tasks.run("select", stages.select, config)
        listener.get().stage("train")
        return tasks.run("train", training.train, config)


def _why_not_train(config: Config, *, has_selection: bool) -> str | None:
    if not config.train.every_run:
        return "train.every_run is off"
    if not has_selection:
        return "the store holds no images yet"
    store = open_store(config.store)
    reason = freshness.why_not(store) or freshness.refused(store, recipe(config))
    if reason:
        return reason
    return "the selection has not changed" if head_is_current(config) else None
