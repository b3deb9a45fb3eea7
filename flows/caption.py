"""Captions for the images of a store, written by a model of their own.

Written once over `Tasks`: Prefect runs it, and so does `--plain`.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows import resources, stages
from flows.drop import Options
from flows.progress import listener
from flows.runners import Steps, Tasks
from pipeline.captions import current_captions, uncaptioned, way_of
from pipeline.catalog import present_images
from pipeline.clock import Clock
from pipeline.config import Config
from pipeline.cores import cores
from pipeline.errors import InputError
from pipeline.locking import writer_lock
from pipeline.opening import open_store

if TYPE_CHECKING:  # it loads torch, which a call that finds nothing new has no time for
    from pipeline.clip.captioning import CaptionSummary


def all_captioned(config: Config) -> int | None:
    """Return how many captions the store holds, where the config's model has nothing to add.

    The model is known by its name here, so that it need not be loaded.

    Raises:
        InputError: there is no store, or no image in it.
    """
    store = open_store(config.store)
    images = len(present_images(store))
    if not images:
        raise InputError(f"{store.location}: holds no images yet; `pseudolabel run` takes them in")
    run, wanted = current_captions(store), config.caption
    if run is None or run.model != resources.captioner_name(config):
        return None
    if run.way != way_of(wanted.sample, wanted.seed) or len(uncaptioned(store, run.table)):
        return None
    return images


def caption_store(config: Config, tasks: Tasks, options: Options, limit: int) -> "CaptionSummary":
    """Caption what has no caption yet, then merge small parts where there are too many.

    Args:
        config: its sources are not listed; images are read from where the last run saw them.
        tasks: where the stages run.
        options: whether to wait for another writer.
        limit: images at most; 0: all.

    Raises:
        InputError: a bad model, or no store.
        StoreBusyError: another writer holds the store.
    """
    store, clock = open_store(config.store), Clock()
    with writer_lock(store, wait=options.wait) as check_lock:
        run = Steps(tasks, clock, check_lock).run
        table = resources.captioner(config).table
        files = len(uncaptioned(store, table))
        files = min(files, limit) if limit else files
        summary: CaptionSummary = run("caption", caption, config, limit, check_lock, files=files)
        if stages.too_many_parts(config):
            run("compact", stages.compact, config)
        return replace(summary, seconds={**clock.seconds(), **summary.seconds})


def caption(config: Config, limit: int, check: Callable[[], None]) -> "CaptionSummary":
    """Caption at most so many images; `check` is called before each commit."""
    from pipeline.clip.captioning import caption_images

    captioner = resources.captioner(config)
    workers = config.run.decode_workers or cores()
    with resources.decoders_for(config, captioner.fit, workers) as pool:
        return caption_images(
            open_store(config.store),
            captioner,
            decode=pool.decode,
            now=datetime.now(UTC),
            batch_size=config.caption.batch_size,
            limit=limit,
            commit_seconds=config.caption.commit_seconds,
            check=check,
            on_progress=listener.get().advance,
        )
