"""Several processes embed the shards of one run: who may write, and what is put right afterwards.

One process holds the store's lock, and others, on any host, write the parts of their shards for it.
Each has a permit: files of the store that hold what they held when it was given. It ends when the
lock goes to another, when the run ends, or when the worker is replaced; a worker that was taken for
dead looks before each commit, so it writes nothing more.

No worker knows what others embed meanwhile: the same bytes in two shards may be embedded twice.
The first shard of the plan keeps the vector, as on one machine.
"""

import json
import re
import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from pipeline.clip.embed import EmbedSummary
from pipeline.errors import StoreError
from pipeline.identity import digest
from pipeline.images.scan import PLANS, discard_plans, shard_sizes
from pipeline.store import LOCK, Store, part_name


@dataclass(frozen=True)
class Permit:
    """Lets another process write for the holder of a store's lock; goes to any host."""

    name: str  # of its own file in the store
    held: dict[str, bytes | None]  # files of the store, and what they hold while it is good

    def good(self, store: Store) -> bool:
        """Tell whether its holder may write."""
        return all(store.folder.read(name) == content for name, content in self.held.items())

    def check(self, store: Store) -> None:
        """Raise StoreError when its holder may write no more; call it before each commit."""
        if not self.good(store):
            raise StoreError(
                f"{store.location}: this worker may write no more: its run ended, or another "
                "worker took its place"
            )


def permit(store: Store, run_id: str, worker: int) -> Permit:
    """Let a worker write; its file goes with the plan of the run.

    Args:
        store: its lock must be held by this process.
        run_id: the run.
        worker: its number, of which there was none before in this run.
    """
    name = f"{PLANS}/{run_id}-worker-{worker}.json"
    store.put_json(name, {"worker": worker, "token": uuid.uuid4().hex})
    return Permit(name, {name: store.folder.read(name), **_lock(store)})


def committed(store: Store, run_id: str) -> set[int]:
    """Return the numbers of the shards of a run whose parts are all there.

    A shard whose files all wait for the next run has no part and is never among them.
    """
    names = (re.fullmatch(rf"{run_id}-(\d+)", part) for part in store.parts("files"))
    return {int(name[1]) for name in names if name}


def counted(store: Store, run_id: str, shards: Collection[int]) -> EmbedSummary:
    """Return what became of the files of some shards, by what the store holds of them.

    They must have been embedded, by whomever. Seconds and batch size are not known.
    """
    names = {part_of(run_id, shard) for shard in shards}
    observed = [part for part in store.parts("files") if part in names]
    with_vectors = [part for part in store.parts("embeddings") if part in names]
    status = Counter(store.read("files", ["status"], observed)["status"])
    embedded = store.rows("embeddings", *with_vectors)
    sizes = shard_sizes(store, run_id)
    files = sum(sizes[shard] for shard in shards)
    return EmbedSummary(
        files=files,
        embedded=embedded,
        known=status["ok"] - embedded,
        unreadable=status["unreadable"],
        ignored=status["ignored"],
        waiting=files - status.total(),
    )


def drop_copies(store: Store, run_id: str) -> int:
    """Leave each vector that shards of a run have twice to the first of them in the plan.

    Nothing may be made of these parts yet. Interrupted, it is done again by `close_runs`.

    Args:
        store: its lock must be held by this process.
        run_id: the run.

    Returns:
        How many vectors were dropped.
    """
    dropped = 0
    seen: set[str] = set()
    for part in store.parts("embeddings"):
        if not part.startswith(f"{run_id}-"):
            continue
        ids: list[str] = store.read("embeddings", ["image_id"], [part])["image_id"].to_list()
        first = [image_id not in seen for image_id in ids]
        seen.update(ids)
        if not all(first):
            dropped += first.count(False)
            _keep(store, part, first)
    return dropped


def close_runs(store: Store) -> None:
    """Put right what interrupted runs have left, and remove the plans of all.

    Args:
        store: its lock must be held by this process.

    Raises:
        DamagedFileError: a part of such a run is not as it was written.
    """
    for run_id in sorted({re.split(r"[-.]", name)[0] for name in store.folder.names(PLANS)}):
        drop_copies(store, run_id)
    discard_plans(store)


def part_of(run_id: str, shard: int) -> str:
    """Return the name of the parts of a shard."""
    return f"{run_id}-{shard:05d}"


def _keep(store: Store, part: str, which: list[bool]) -> None:
    """Write a part of `embeddings` again with some of its rows, as if it had never had others."""
    identity = store.identity()
    assert identity is not None  # there are vectors
    rows = store.read_part("embeddings", part).filter(which).combine_chunks()
    if not len(rows):
        store.delete(part_name("embeddings", part))
        return
    made_of = digest([vars(identity), rows["image_id"].to_pylist()])
    store.write_part("embeddings", part, rows, made_of)


def _lock(store: Store) -> dict[str, bytes | None]:
    """Return the entries of the store's lock; the next holder writes over them, or removes them."""
    if store.local is not None:
        return {LOCK: store.folder.read(LOCK)}
    tickets = {f"{LOCK}/{name}" for name in store.folder.names(LOCK)}
    written = {name: store.folder.read(name) for name in sorted(tickets)}
    return {name: data for name, data in written.items() if data and json.loads(data).get("held")}
