"""Images that a user names on the command line, and that no store need know: files to vectors.

Shapes: n images, D embedding dimensions.
"""

from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows import resources
from flows.progress import listener
from pipeline.arrays import Floats
from pipeline.config import Config
from pipeline.cores import cores
from pipeline.errors import InputError
from pipeline.images.decoding import Picture, Refusal
from pipeline.images.paths import local_path
from pipeline.images.sources import list_sources

_BATCH = 64  # decoded, then embedded together


@dataclass(frozen=True)
class Asked:
    """Images as vectors."""

    names: list[str]  # n
    vectors: Floats  # (n, D), rows of unit length
    refused: dict[str, str]  # files that are no picture, and why

    def left_out(self) -> list[dict[str, str | None]]:
        """Return a row for each file that has no label, with the reason: nothing is lost."""
        return [{"path": path, "label": None, "reason": why} for path, why in self.refused.items()]


def files_of(given: list[Path]) -> dict[str, bool]:
    """Return files in order, those of folders expanded, and whether the user named each one.

    Raises:
        InputError: a file cannot be read, or no file was found: before a model is loaded.
    """
    files: dict[str, bool] = {}
    for path in given:
        if path.is_dir():
            found = list_sources((str(path),))["path"]
            files |= {local_path(name): False for name in found if local_path(name) not in files}
            continue
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is no file but a device or a pipe: save it to a file")
        try:
            path.open("rb").close()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        files[str(path)] = True
    if not files:
        raise InputError(f"{', '.join(map(str, given))}: no files in it")
    return files


def vectors_of_files(config: Config, files: dict[str, bool]) -> Asked:
    """Decode and embed files, a batch at a time.

    Args:
        config: which model, and how it is run.
        files: as `files_of` returns them; one that the user named must be a picture.

    Raises:
        InputError: a file that the user named is no picture, or no file is one.
    """
    asked = embed_files(config, list(files), {name for name, named in files.items() if named})
    if not asked.names:
        raise InputError(f"none of the {len(files)} files is a picture: {_first(asked.refused)}")
    return asked


def embed_files(config: Config, files: list[str], pictures: Set[str] = frozenset()) -> Asked:
    """Decode and embed files, a batch at a time.

    Args:
        config: which model, and how it is run.
        files: where they lie.
        pictures: those that must be pictures; of the others it is told where they are none.

    Raises:
        InputError: one that must be a picture is none.
    """
    encoder = resources.encoder(config)
    names: list[str] = []
    refused: dict[str, str] = {}
    vectors = [np.empty((0, encoder.identity.dimension), np.float32)]
    heard = listener.get()
    heard.stage("embed", len(files))
    workers = min(cores(), len(files))
    with resources.decoders(config, workers) as pool, ThreadPoolExecutor(workers) as threads:

        def look(name: str) -> Picture | Refusal:
            try:
                return pool.decode(Path(name).read_bytes(), name)
            except OSError as error:
                return Refusal("unreadable", f"cannot be read: {error.strerror}")

        for at in range(0, len(files), _BATCH):
            batch = files[at : at + _BATCH]
            pixels = []
            for name, seen in zip(batch, threads.map(look, batch), strict=True):
                if isinstance(seen, Picture):
                    pixels.append(seen.pixels)
                    names.append(name)
                elif name in pictures:
                    raise InputError(f"{name}: {seen.reason}")
                else:
                    refused[name] = seen.reason
            if pixels:
                vectors.append(encoder.encode_images(np.stack(pixels)))
            heard.advance(len(batch), len(batch) - len(pixels))
    return Asked(names, np.concatenate(vectors), refused)


def _first(refused: dict[str, str]) -> str:
    name, reason = next(iter(refused.items()))
    return f"{name}: {reason}"
