"""What we call an array, and the one promise we check wherever vectors arrive: rows of length 1."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Ints = npt.NDArray[np.int64]
Shorts = npt.NDArray[np.int32]  # row numbers, where there are many
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]

UNIT_TOLERANCE = 1e-3  # a unit vector that was stored as float16 stays well inside


def require_unit_rows(name: str, rows: npt.NDArray[Any]) -> None:
    """Raise ValueError unless `rows` is (any, D) with every row of length 1; NaN is refused too."""
    if rows.ndim != 2:
        raise ValueError(f"{name} must have 2 dimensions, got shape {rows.shape}")
    wide = rows.astype(np.float32, copy=False)
    # Half the time of np.linalg.norm, which squares into an array of the size of `rows`.
    off = np.abs(np.sqrt(np.einsum("ij,ij->i", wide, wide)) - 1)
    if not np.all(off <= UNIT_TOLERANCE):  # not `any(off > ...)`, which lets NaN through
        worst = int(np.flatnonzero(~(off <= UNIT_TOLERANCE))[0])
        raise ValueError(f"{name} must have rows of unit length; row {worst} is not")


def unit_rows(rows: npt.NDArray[Any]) -> Floats:
    """Return `rows` (N, D) in float32 with every row scaled to length 1.

    Raises:
        ValueError: a row is zero or not finite, and so has no direction.
    """
    wide = rows.astype(np.float32, copy=False)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    if not np.all(np.isfinite(norms) & (norms > 0)):
        bad = int(np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))[0])
        raise ValueError(f"row {bad} has length {norms[bad, 0]}: no direction to normalise")
    scaled: Floats = wide / norms
    return scaled
