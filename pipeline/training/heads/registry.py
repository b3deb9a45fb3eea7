"""Heads by their kind; each is imported when it is asked for."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from pipeline.errors import InputError
from pipeline.sections import HEAD_KINDS
from pipeline.training.heads.base import Head, HeadSettings, Saved, TextClassifier

if TYPE_CHECKING:
    from pipeline.clip.loading import LoadedModel  # it loads torch and open_clip


def make_head(
    kind: str,
    text: TextClassifier,
    sizes: tuple[int, int],
    settings: HeadSettings,
    model: "Callable[[], LoadedModel] | None" = None,
) -> Head:
    """Return an unfitted head.

    Args:
        kind: one of HEAD_KINDS.
        text: its classes, and what their texts say of an image.
        sizes: D and S.
        settings: of fitting.
        model: loads the model of the text classifier; the head prompt needs it to be fitted, the
            others do not.

    Raises:
        InputError: there is no such kind, or it cannot be made for these sizes or classes.
    """
    head = _class_of(kind)
    if kind not in ("linear", "logistic"):
        # The first AdamW imports this for seconds, which are not of the head that comes first.
        import_module("torch._dynamo")
    if kind == "prompt":
        return cast(Head, head(text, settings, model))
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
    """Return the class of a kind: that of "mlp" is MlpHead in mlp.py, and so on."""
    if kind not in HEAD_KINDS:
        raise InputError(f"there is no head {kind!r}; there are {', '.join(HEAD_KINDS)}")
    return getattr(import_module(f"pipeline.training.heads.{kind}"), f"{kind.capitalize()}Head")
