"""The head that everybody compares with: scikit-learn's logistic regression on the images.

Shapes: N images, D image dimensions, C classes.
"""

from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from pipeline.arrays import Floats
from pipeline.errors import InputError
from pipeline.training.checking import require_finite, require_sizes, require_sound
from pipeline.training.gathering import gathered
from pipeline.training.heads.base import HeadSettings, History, OnEpoch, Saved
from pipeline.training.samples import Samples, Source

# In the examples of Radford et al. 2021; theirs came out of a sweep over a validation set.
CLIP_PAPER_C = 0.316
STRENGTHS = tuple(float(c) for c in np.geomspace(1e-2, 1e3, 6))  # tried by cross-validation
_FOLDS = 5
_ITERATIONS = 1000
_MOST_BYTES = 4 << 30  # of image vectors; they must lie in memory


class LogisticHead:
    """Multinomial logistic regression; a class without samples has probability 0."""

    kind: ClassVar[str] = "logistic"

    def __init__(
        self, classes: int, image: int, seed: int = 0, strength: float | None = CLIP_PAPER_C
    ) -> None:
        """Make an unfitted head.

        Args:
            classes: C.
            image: D; side information is not looked at.
            seed: draws the folds.
            strength: scikit-learn's C, above 0, the larger the freer; None: the one of STRENGTHS
                that does best in 5-fold cross-validation on the labels it is given.
        """
        self._classes, self._image, self._seed = classes, image, seed
        self.strength = strength
        self._fitted: tuple[Floats, Floats] | None = None  # (C, D) weights and (C,) bias

    @classmethod
    def of(cls, classes: int, sizes: tuple[int, int], settings: HeadSettings) -> Self:
        """Make one for C classes and images of D = sizes[0], as the CLIP paper has it."""
        return cls(classes, sizes[0], settings.seed)

    def fit(self, train: Source, valid: Source, on_epoch: OnEpoch) -> History:  # noqa: ARG002
        """Fit, as `Head` says; `valid` is not looked at, and there are no epochs.

        Raises:
            InputError: the samples are too many for memory, or of one class only.
        """
        require_sizes(train.sizes, (self._image, train.sizes[1]))
        samples = gathered(train, _MOST_BYTES)
        if samples is None:
            raise InputError(
                f"logistic regression holds all {len(train)} samples in memory, which is too much "
                "here: take the head linear or mlp, which stream them"
            )
        require_sound(samples, self._classes)
        if len(np.unique(samples.labels)) < 2:
            raise InputError("logistic regression needs samples of at least 2 classes")
        # C weighs the sum of all samples against the penalty: as if each weighed 1 in the mean.
        weights = samples.weights / samples.weights.mean()
        if self.strength is None:
            self.strength = _best_strength(samples, weights, self._seed)
        model = _model(self.strength).fit(samples.images, samples.labels, sample_weight=weights)
        self._fitted = _filled(model, self._classes, self._image)
        return History([], 0)

    def predict_proba(self, images: Floats, side: Floats) -> Floats:
        """Return class probabilities (N, C), as `Head` says."""
        if self._fitted is None:
            raise ValueError("the head logistic is not fitted yet")
        require_sizes((images.shape[1], side.shape[1]), (self._image, side.shape[1]))
        require_finite(images, "image vector")
        weights, bias = self._fitted
        answers: Floats = softmax(images @ weights.T + bias, axis=1)
        return answers

    def save(self) -> Saved:
        """Return the fitted head as data."""
        if self._fitted is None:
            raise ValueError("the head logistic is not fitted yet")
        weights, bias = self._fitted
        # JSON and some readers of tensors know no infinity: absent classes are told apart instead.
        present = np.isfinite(bias)
        tensors = {"weights": weights, "bias": np.where(present, bias, 0), "present": present}
        return Saved({"strength": self.strength}, tensors)

    @classmethod
    def load(cls, saved: Saved) -> Self:
        """Return the head that was saved."""
        weights = saved.tensors["weights"]
        classes, image = weights.shape
        head = cls(classes, image, strength=saved.about["strength"])
        bias = np.where(saved.tensors["present"], saved.tensors["bias"], -np.inf)
        head._fitted = weights.astype(np.float32), bias.astype(np.float32)
        return head


def _model(strength: float) -> Any:  # scikit-learn has no types
    return LogisticRegression(C=strength, max_iter=_ITERATIONS)


def _filled(model: Any, classes: int, image: int) -> tuple[Floats, Floats]:
    """Return weights (C, D) and bias (C,) of all classes; absent ones have a bias of -inf."""
    weights = np.zeros((classes, image), np.float32)
    bias = np.full(classes, -np.inf, np.float32)
    of_one, offset = model.coef_, model.intercept_
    if len(of_one) == 1:  # two classes: scikit-learn keeps the logit of the second alone
        of_one, offset = np.vstack([0 * of_one, of_one]), np.array([0, offset[0]])
    weights[model.classes_], bias[model.classes_] = of_one, offset
    return weights, bias


def _best_strength(samples: Samples, weights: Floats, seed: int) -> float:
    """Return the strength whose weighted accuracy on held-out folds is best; of equals the least.

    Accuracy, not the likelihood: a fold may hold the only samples of a class.
    """
    rows = len(samples)
    if rows < _FOLDS:
        return CLIP_PAPER_C
    right = dict.fromkeys(STRENGTHS, 0.0)
    for learn, look in KFold(_FOLDS, shuffle=True, random_state=seed).split(np.empty(rows)):
        if len(np.unique(samples.labels[learn])) < 2:
            continue
        for strength in STRENGTHS:
            model = _model(strength).fit(
                samples.images[learn], samples.labels[learn], sample_weight=weights[learn]
            )
            hits = model.predict(samples.images[look]) == samples.labels[look]
            right[strength] += float(weights[look][hits].sum())
    return max(STRENGTHS, key=lambda strength: right[strength])
