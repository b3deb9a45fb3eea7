"""Embed some shards of a run in this process, be it the run's own or a worker's on another host."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from flows.progress import listener
from flows.resources import decoders, device_decoder, encoder, require_device
from pipeline.clip.embed import EmbedSummary, embed_shards
from pipeline.config import Config
from pipeline.cores import cores
from pipeline.opening import open_store

_REMOTE_READERS = 16  # an object takes long to come, and little of this machine meanwhile


def embed_here(
    config: Config, run_id: str, shards: Iterable[int], check: Callable[[], None]
) -> EmbedSummary:
    """Embed some shards of a run's plan in this process, in one go.

    Args:
        config: what is wanted; its store is this encoder's already.
        run_id: the run.
        shards: their numbers; the next is asked for when it is reached.
        check: called before each commit; raises when nothing more may be written.
    """
    require_device(config)
    workers = config.run.decode_workers or cores()
    remote = any("://" in source for source in config.sources)
    with decoders(config, workers) as pool:
        gpu = device_decoder(config, pool.decode) if config.encoder.decode == "gpu" else None
        return embed_shards(
            open_store(config.store),
            run_id,
            shards,
            encoder(config),
            decode=gpu.decode if gpu else pool.decode,
            encode=gpu.encode if gpu else None,
            now=datetime.now(UTC),
            batch_size=config.encoder.batch_size,
            threads=max(workers, _REMOTE_READERS) if remote else workers,
            check=check,
            on_progress=listener.get().advance,
        )
