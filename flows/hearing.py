"""What the kernel tells of folders: hears of changes below the sources, links followed.

Buckets and network mounts tell nothing, and nothing is told of a folder that took another's place:
so what is heard of is looked at every few seconds, and listened to anew where it has changed.
"""

import asyncio
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.images.paths import local_path, whole_path

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0  # between looks whether the folders are the same ones
_REMOTE = re.compile(
    r"^(nfs4?|cifs|smb3?|smbfs|9p|afs|ceph|lustre|glusterfs|beegfs|gpfs|virtiofs|vboxsf|davfs|fuse\..*)$"
)
_MAGIC = re.compile(r"[*?\[{]")


class Hearing:
    """Hears of the changes in sources."""

    def __init__(self, sources: tuple[str, ...], store: Path) -> None:
        """Listen to these, except for what changes in the store; not before `listen` runs."""
        self.changed = asyncio.Event()  # there may be something new
        self.whole = False  # no source, nor what a link in it leads to, needs to be polled
        self._store = store
        self._folders, remote = split_sources(sources)
        self._all_local = not remote

    async def listen(self) -> None:
        """Set `changed` at each change below the folders; until cancelled."""
        while self._folders:
            before = _identities(self._folders)
            try:
                await self._listen_while_the_same()
            except (OSError, RuntimeError) as error:  # a source went, or too many folders
                logger.warning("changes cannot be heard of (%s): looking now and then", error)
                self.whole = False
                while _identities(self._folders) == before:
                    await asyncio.sleep(_LOOK_SECONDS)
            self.changed.set()  # whatever came while nobody listened

    async def _listen_while_the_same(self) -> None:
        """Listen until a folder is another one, or a new link leads to one more."""
        from watchfiles import Change, awatch

        def matters(_: Change, path: str) -> bool:
            return not Path(path).name.startswith(".") and not Path(path).is_relative_to(
                self._store
            )

        near, far = split(await asyncio.to_thread(_with_linked, self._folders))
        here, known = _identities(near), [folder.resolve() for folder in [*near, *far]]
        changes = awatch(
            *near,
            watch_filter=matters,
            force_polling=False,
            ignore_permission_denied=True,
            debounce=400,
            rust_timeout=int(1000 * _LOOK_SECONDS),
            yield_on_timeout=True,
        )
        self.whole = self._all_local and not far
        self.changed.set()  # what came before the kernel was asked
        async for told in changes:
            if told:
                self.changed.set()
            went = any(change is Change.deleted and Path(path) in near for change, path in told)
            if went or _identities(near) != here:
                return
            added = [Path(path) for change, path in told if change is Change.added]
            if await asyncio.to_thread(_linked, added, known):
                return


def split_sources(sources: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """Tell the folders that changes can be heard of from the sources that tell nothing."""
    places = {source: None if "://" in source else _folder(source) for source in sources}
    heard, _ = split(folder for folder in places.values() if folder)
    return heard, [source for source, folder in places.items() if folder not in heard]


def split(folders: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Tell folders of this machine from those on network mounts."""
    near: list[Path] = []
    far: list[Path] = []
    for folder in folders:
        (far if _REMOTE.match(_file_system(folder)) else near).append(folder)
    return near, far


def _with_linked(folders: list[Path]) -> list[Path]:
    return [*folders, *_linked(folders, [folder.resolve() for folder in folders])]


def _linked(paths: list[Path], known: list[Path]) -> list[Path]:
    """Return the folders that links at or below some paths lead to, outside of those known."""
    found: list[Path] = []
    waiting = list(paths)
    for path in waiting:  # which grows meanwhile
        for link in _links(path):
            target = link.resolve()
            if target.is_dir() and not any(map(target.is_relative_to, [*known, *found])):
                found.append(target)
                waiting.append(target)
    return found


def _links(path: Path) -> Iterator[Path]:
    """Yield a path that is a link, and the links to folders below it, hidden ones left out."""
    if path.is_symlink():
        yield path
    for here, names, _ in os.walk(path):
        names[:] = [name for name in names if not name.startswith(".")]
        yield from (link for name in names if (link := Path(here, name)).is_symlink())


def _identities(folders: list[Path]) -> list[object]:
    """Return what tells folders from others of the same name; None where there is none."""
    told: list[object] = []
    for folder in folders:
        try:
            status = folder.stat()
            told.append((status.st_dev, status.st_ino))
        except OSError:
            told.append(None)
    return told


def _folder(source: str) -> Path:
    """Return the folder that a source, or a pattern of tars, lies in."""
    path = Path(whole_path(local_path(source)))
    while _MAGIC.search(str(path)) or not path.is_dir():
        if path == path.parent:
            break
        path = path.parent
    return path


def _file_system(folder: Path) -> str:
    """Return the type of the file system that holds a folder; empty where that cannot be told."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        fields = line.split()
        place, type_ = fields[4].replace("\\040", " "), fields[fields.index("-") + 1]
        if folder.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, type_
    return kind
