"""What a label set does to the images of a store: counted in one pass, the images are not kept.

The model alone is asked, before any refinement: here it is the label set that is looked at.
Shapes: n images of a batch, C classes, R reject prompts, D embedding dimensions.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import csr_array

from pipeline.arrays import Floats, Halves, require_unit_rows
from pipeline.label_set import LabelVectors
from pipeline.labels.voting import top
from pipeline.store import Store
from pipeline.vectors import stream_vectors

CLOSE = 0.5  # a runner-up with at least this share of the winner's score is close


class Tally:
    """Counts over images: memory grows with C, not with them."""

    def __init__(self, vectors: LabelVectors, *, scale: float) -> None:
        """Begin to count.

        Args:
            vectors: of the label set, rows of unit length.
            scale: the model's own factor on cosine similarity.
        """
        self.vectors, self.scale = vectors, scale
        classes = vectors.classes.shape
        self._texts = np.concatenate([vectors.classes, vectors.rejects]).astype(np.float32).T
        self.images = 0
        self.given = np.zeros(classes[0], np.int64)  # (C,) images whose likeliest class it is
        self.sums = np.zeros(classes, np.float64)  # (C, D) of the vectors of these
        self.total = np.zeros(classes[1], np.float64)  # (D,) of all vectors, rejected ones too
        self.close: Counter[tuple[int, int]] = Counter()  # (winner, runner-up) -> images

    def add(self, images: Floats) -> None:
        """Count (n, D) images.

        Raises:
            ValueError: a row is not of unit length (NaN included).
        """
        require_unit_rows("images", images)
        cosines = images @ self._texts
        classes, rejects = cosines[:, : len(self.given)], cosines[:, len(self.given) :]
        best = top(classes, 2)
        scores = np.take_along_axis(classes, best, axis=1)
        kept = rejects.max(axis=1, initial=-np.inf) <= scores[:, 0]
        self.images += len(images)
        self.total += images.sum(axis=0)
        if not kept.all():
            images, best, scores = images[kept], best[kept], scores[kept]
        self.given += np.bincount(best[:, 0], minlength=len(self.given))
        self.sums += _sums(images, best[:, 0], len(self.given))
        if best.shape[1] == 2:
            # Of softmax scores the ratio is the exponential of the difference of the logits.
            close = self.scale * (scores[:, 1] - scores[:, 0]) >= np.log(CLOSE)
            self.close.update(map(tuple, best[close].tolist()))

    def merge(self, other: "Tally") -> None:
        """Count what another one has counted of the same label set."""
        self.images += other.images
        self.given += other.given
        self.sums += other.sums
        self.total += other.total
        self.close.update(other.close)


def tally_store(
    store: Store,
    vectors: LabelVectors,
    *,
    scale: float,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Tally:
    """Count over every image that a store has a vector of; parts may be merged meanwhile.

    Args:
        store: the store to read from.
        vectors: of the label set, of the store's encoder.
        scale: the encoder's logit scale.
        on_progress: told how many images were counted since it was last told.

    Raises:
        DamagedFileError: a part is not as it was written.
        ValueError: a vector is not of unit length.
    """

    def take(batches: Iterator[tuple[pa.Array, Halves]]) -> Tally:
        tally = Tally(vectors, scale=scale)
        for _, images in batches:
            tally.add(images.astype(np.float32))
        return tally

    def count() -> Tally:
        whole = Tally(vectors, scale=scale)
        for part in store.parts("embeddings"):
            counted = stream_vectors(store, part, take)
            whole.merge(counted)
            on_progress(counted.images)
        return whole

    return store.steadily(count)  # from its start, or some images would count twice


def _sums(images: Floats, label: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float64]:
    """Return (C, D): the sum of each class's images; `np.add.reduceat` takes 50 times as long."""
    ones, ends = np.ones(len(label), np.float32), np.arange(len(label) + 1)
    whose = csr_array((ones, label, ends), shape=(len(label), classes))
    found: npt.NDArray[np.float64] = np.asarray(whose.T @ images, np.float64)
    return found
