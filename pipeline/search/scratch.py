"""Scratch: arrays that grow with the store, in files that are mapped, not in the process's memory.

The files have no name, so nobody meets them and nothing is left of them, however the process ends.
"""

import tempfile
from math import prod
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.folder import TEMPORARY
from pipeline.store import Store

_BLOCK = 1 << 18  # numbers written at a time

Number = TypeVar("Number", bound=np.generic)


def scratch(store: Store, shape: tuple[int, ...], fill: Number) -> npt.NDArray[Number]:
    """Return an array that lies on the disk as long as it is in use.

    Args:
        store: whose folder the file lies in, where that is of this machine; the default folder for
            temporary files, taken otherwise, is memory on many machines.
        shape: of the array.
        fill: the number that it is full of.

    Raises:
        OSError: the disk is full.
    """
    # A file system that cannot do without a name has it for a moment: `Folder.sweep` knows it.
    with tempfile.TemporaryFile(prefix=TEMPORARY, dir=store.local) as file:
        # Written, not only made so long: else a full disk would kill who writes to the mapping.
        block, left = fill.tobytes() * _BLOCK, prod(shape) * fill.nbytes
        while left > 0:
            left -= file.write(block[:left])
        file.flush()
        return np.memmap(file, dtype=fill.dtype, mode="r+", shape=shape)
