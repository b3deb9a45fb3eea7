"""Heads by their kind; each is imported when it is asked for."""

from importlib import import_module
from typing import Any, cast

from pipeline.errors import InputError
from pipeline.training.heads.base import Head, HeadSettings, Saved, TextClassifier

# kind -> module and class; the classes know how to `load`.
_HOMES = {
    "linear": ("linear", "LinearHead"),
    "logistic": ("logistic", "LogisticHead"),
    "mlp": ("mlp", "MlpHead"),
    "multimodal": ("multimodal", "MultimodalHead"),
    "pairwise": ("pairwise", "PairwiseHead"),
    "prompt": ("prompt", "PromptHead"),
}
KINDS = tuple(_HOMES)


def make_head(
    kind: str, text: TextClassifier, sizes: tuple[int, int], settings: HeadSettings
) -> Head:
    """Return an unfitted head.

    Args:
        kind: one of KINDS but prompt, which is made from the model's text tower, too.
        text: its classes, and what their texts say of an image.
        sizes: D and S.
        settings: of fitting.

    Raises:
        InputError: there is no such kind, or it cannot be made for these sizes.
    """
    head = _class_of(kind)
    if kind in ("linear", "pairwise"):
        return cast(Head, head(text, settings))
    return cast(Head, head.of(len(text.names), sizes, settings))


def load_head_of(kind: str, saved: Saved) -> Head:
    """Return a head that was saved.

    Raises:
        InputError: there is no such kind.
    """
    return cast(Head, _class_of(kind).load(saved))


def _class_of(kind: str) -> Any:
    if kind not in _HOMES:
        raise InputError(f"there is no head {kind!r}; there are {', '.join(KINDS)}")
    module, name = _HOMES[kind]
    return getattr(import_module(f"pipeline.training.heads.{module}"), name)
