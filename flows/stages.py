"""The steps of a drop: each unpacks the config, calls the library and returns its summary.

They take and return names and summaries, never arrays, so that they can run as tasks anywhere.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows.progress import listener
from flows.ray_cluster import require_ray
from flows.resources import (
    encoder,
    model_name,
    question,
    require_device,
    stored_label_vectors,
)
from flows.stale import index_settings, select_settings
from pipeline.captions import current_captions
from pipeline.compaction import CompactSummary, small_parts
from pipeline.compaction import compact as compact_store
from pipeline.config import Config
from pipeline.images.scan import (
    Changes,
    ScanSummary,
    discard_plans,
    find_changes,
    finish_tars,
    record_changes,
)
from pipeline.labels.labelling import (
    LabelSummary,
)
from pipeline.opening import create_store, open_store
from pipeline.runs import new_run_id
from pipeline.search import index as search_index
from pipeline.search.neighbours import load_neighbourhood, update_neighbours
from pipeline.store import Store
from pipeline.training import selection

if TYPE_CHECKING:  # these load torch, which a run that finds nothing new has no time for
    from pipeline.clip.embed import EmbedSummary


def look(config: Config, store: Store, *, retry_failed: bool = False) -> Changes:
    """Compare the sources with the store; nothing is written."""
    return find_changes(
        store,
        config.sources,
        settle_seconds=config.scan.settle_seconds,
        now=datetime.now(UTC),
        retry_failed=retry_failed,
    )


def claim(config: Config) -> None:
    """Load the model and make sure that the store is, or becomes, its own.

    Raises:
        InputError: the model or its device cannot be had, or the store holds embeddings of
            another one.
    """
    if config.run.engine == "ray":
        require_ray(config.run.ray_address)
    else:  # the workers look for theirs
        require_device(config)
    create_store(config.store).claim(encoder(config).identity, model_name(config))


def scan(config: Config, retry_failed: bool) -> ScanSummary:
    """Find what is new and plan who reads it."""
    store, now = create_store(config.store), datetime.now(UTC)
    changes = look(config, store, retry_failed=retry_failed)
    run_id = new_run_id(store, now)
    return record_changes(store, changes, run_id=run_id, now=now, shard_rows=config.run.shard_rows)


def embed(config: Config, run_id: str, shards: int, check: Callable[[], None]) -> "EmbedSummary":
    """Embed the shards of a run's plan: here, or on the workers of a Ray cluster.

    Called again for the same run, it leaves alone what it had committed.

    Args:
        config: what is wanted.
        run_id: the run.
        shards: how many its plan has.
        check: called before each commit; raises when the store is not ours any more.
    """
    from flows.embedding import embed_here
    from pipeline.clip.embed import EmbedSummary
    from pipeline.clip.sharing import committed, counted

    if not shards:
        return EmbedSummary()
    claim(config)
    store = open_store(config.store)
    before = committed(store, run_id)
    left = [shard for shard in range(shards) if shard not in before]
    if config.run.engine == "ray":
        from flows.ray_engine import embed_on_ray

        done = embed_on_ray(config, run_id, left, check)
    else:
        done = embed_here(config, run_id, left, check)
    return counted(store, run_id, before) + done if before else done


def finish_embedding(config: Config, run_id: str) -> None:
    """Record the tars whose members were all read, and clear away what only the shards needed."""
    store = open_store(config.store)
    finish_tars(store, run_id)
    discard_plans(store)


def too_many_parts(config: Config) -> bool:
    """Tell whether the store has more small parts than it should."""
    limit, store = config.run.compact_after, open_store(config.store)
    captions = current_captions(store)
    tables = ["files", "embeddings", *([captions.table] if captions else [])]
    return limit > 0 and any(small_parts(store, table) > limit for table in tables)


def compact(config: Config) -> CompactSummary:
    """Merge small parts."""
    store = open_store(config.store)
    return compact_store(
        store,
        part_rows=config.run.part_rows,
        on_progress=lambda parts: listener.get().advance(parts, 0),
    )


def neighbours(config: Config) -> int:
    """Search the neighbours of images that have none yet; return of how many."""
    store = open_store(config.store)
    return update_neighbours(
        store,
        search_index.load_index(store, exact=True),
        on_progress=lambda images: listener.get().advance(images, 0),
    )


def label(config: Config) -> LabelSummary:
    """Label what has no label of this label set yet, with the confidences that answers give."""
    from pipeline.labels.audit import bring_up
    from pipeline.labels.labelling import label as label_store

    store = open_store(config.store)
    asked = question(config, store)
    near = None
    if asked.refine != "none":
        near = load_neighbourhood(store, search_index.load_index(store, exact=True))
    summary = label_store(
        store,
        asked,
        stored_label_vectors(config, store),
        near=near,
        on_progress=lambda images: listener.get().advance(images, 0),
    )
    bring_up(store)
    return summary


def index(config: Config) -> search_index.IndexSummary:
    """Bring the search index up to the store."""
    return search_index.update_index(open_store(config.store), index_settings(config))


def select(config: Config) -> selection.SelectSummary:
    """Choose the images worth training on."""
    return selection.select(
        open_store(config.store),
        select_settings(config),
        on_progress=lambda images: listener.get().advance(images, 0),
    )
