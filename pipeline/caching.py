"""Arrays that can be made again at any time, kept in the store under the digest of their origin."""

import zipfile
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.store import Store

Array = npt.NDArray[Any]


def cached_arrays(store: Store, name: str) -> dict[str, Array] | None:
    """Return what `keep_arrays` kept; None when there is nothing, or it is damaged.

    Args:
        store: the store to look into.
        name: of the file, ending in .npz.
    """
    data = store.get(name)
    if data is None:
        return None
    try:
        with np.load(BytesIO(data)) as arrays:  # a ZIP archive: each array has a CRC-32
            return {key: arrays[key] for key in arrays.files}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # whoever asked makes it again, over the damaged file


def keep_arrays(store: Store, name: str, **arrays: Array) -> None:
    """Keep arrays under `name`."""
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    store.put(name, buffer.getbuffer())
