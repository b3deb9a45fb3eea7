"""Look first: what a run would do now, told without loading torch or Prefect."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from flows import resources, stages
from flows.stale import stale_stages
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.images.changes import Changes
from pipeline.images.sources import source_root
from pipeline.labels.truth import truth_state
from pipeline.opening import peek_store

_NAMED = 100  # files that wait
_SEEN = ("path", "bytes", "mtime")


@dataclass(frozen=True)
class WaitingFile:
    """A file that is not taken yet, and when it will be if it does not change."""

    path: str
    taken_from: datetime
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a run would do now."""

    to_read: int
    new: int
    changed: int
    gone: int
    tars: int  # to be looked into
    waiting: int
    known: int  # files that need no reading
    stale: list[str]  # later stages that would run
    bytes: int = 0  # of the files to read
    waiting_files: list[WaitingFile] = field(default_factory=list)  # those due first
    mark: int = 0  # of the files that a run would take: another where these are others

    @property
    def any(self) -> bool:
        """Whether there is anything to do."""
        found = self.to_read or self.new or self.changed or self.gone or self.tars
        return bool(found or self.stale)


def plan(config: Config, *, retry_failed: bool = False) -> Plan:
    """Find out what a run would do.

    Raises:
        InputError: bad sources or label set, or the truth is not there.
    """
    resources.label_set(config)
    if config.select.truth:
        truth_state(config.select.truth)  # one that is not there is told before anything is done
    if not config.sources:
        raise InputError("no source: name a folder, or set sources in the config file")
    for source in config.sources:
        source_root(source)
    changes = stages.look(config, peek_store(config.store), retry_failed=retry_failed)
    return Plan(
        to_read=len(changes.to_read),
        new=changes.new,
        changed=changes.changed,
        gone=len(changes.gone),
        tars=len(changes.tars),
        waiting=changes.waiting,
        known=changes.listed - changes.new - changes.changed - changes.waiting,
        stale=stale_stages(config),
        bytes=int(changes.to_read["bytes"].sum()),
        waiting_files=_waiting(changes, config.scan.settle_seconds, datetime.now(UTC)),
        mark=_mark(changes),
    )


def _mark(changes: Changes) -> int:
    taken = (changes.to_read, changes.problems, changes.gone, changes.tars)
    return hash(tuple(int(rows.select(_SEEN).hash_rows().sum() or 0) for rows in taken))


def _waiting(changes: Changes, settle_seconds: float, now: datetime) -> list[WaitingFile]:
    young = changes.young.sort("mtime", "path").head(_NAMED)
    return [
        WaitingFile(
            path,
            taken_from=dated + timedelta(seconds=settle_seconds),
            reason="dated in the future" if dated > now else f"younger than {settle_seconds:g} s",
        )
        for path, dated in young.iter_rows()
    ]
