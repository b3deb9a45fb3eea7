"""From the name of a model to the model: any open_clip architecture and weights.

A name is one of
    ViT-B-32/laion2b_s34b_b79k    architecture / pretrained tag, fetched once and cached
    ViT-B-32/weights/b32.pt       architecture / checkpoint file
    hf-hub:org/name               a model on the Hugging Face hub
    local-dir:folder              open_clip_config.json with the weights beside it
"""

import difflib
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip

from pipeline.errors import InputError

LOCAL = "local-dir:"
HUB = "hf-hub:"


@dataclass(frozen=True)
class LoadedModel:
    """What open_clip makes of a name, in float32 on the CPU."""

    architecture: str
    model: Any  # a torch module with the two towers of CLIP
    transform: Any  # PIL image -> (3, H, W) float tensor, as open_clip's users call it
    tokenizer: Any  # list of texts -> (N, context) token ids


def load_model(name: str) -> LoadedModel:
    """Load a model by name, weights included.

    Raises:
        InputError: the name is none, the weights cannot be had or do not fit, or the architecture
            computes GELU otherwise than its weights were trained with.
    """
    if name.startswith((LOCAL, HUB)):
        architecture, weights = name, None
        if name.startswith(LOCAL):
            _check_folder(Path(name.removeprefix(LOCAL)))
    else:
        architecture, weights = _split(name)
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            # Without `require_pretrained`, weights that cannot be fetched leave a random model
            # behind, and only a log line tells.
            model, _, transform = open_clip.create_model_and_transforms(
                architecture, pretrained=weights, device="cpu", require_pretrained=True
            )
            tokenizer = open_clip.get_tokenizer(architecture)
    except UserWarning as error:
        raise InputError(
            f"model {name}: {error} Name the variant that matches the weights, "
            f"such as {architecture}-quickgelu/{weights}."
        ) from error
    except Exception as error:  # open_clip, its hub client and torch raise whatever they like
        raise InputError(_explain(name, weights, error)) from error
    model.eval().requires_grad_(False)
    return LoadedModel(architecture, model, transform, tokenizer)


def _split(name: str) -> tuple[str, str]:
    """Split "architecture/weights" and check both against what open_clip knows."""
    architecture, _, weights = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "open_clip.list_models() has them"
        raise InputError(f"model {name}: open_clip knows no architecture {architecture!r}; {hint}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not weights:
        raise InputError(f"model {name}: name its weights too: {_choices(architecture, tags)}")
    if weights not in tags and not Path(weights).is_file():
        raise InputError(
            f"model {name}: {weights!r} is neither a file nor one of the weights of "
            f"{architecture}: {_choices(architecture, tags)}"
        )
    return architecture, weights


def _choices(architecture: str, tags: list[str]) -> str:
    return ", ".join(f"{architecture}/{tag}" for tag in tags) or "none is published; use a file"


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"model {LOCAL}{folder}: no such folder")
    if not (folder / "open_clip_config.json").is_file():
        raise InputError(f"model {LOCAL}{folder}: holds no open_clip_config.json")


def _explain(name: str, weights: str | None, error: Exception) -> str:
    """Say what went wrong and what to do, in one paragraph."""
    first_line = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
    if name.startswith(LOCAL) or (weights and Path(weights).is_file()):
        return f"model {name}: cannot be loaded: {first_line}"
    return (
        f"model {name}: its weights or tokenizer cannot be fetched ({first_line}). "
        "With no way to the hub, point at a local copy: architecture/checkpoint file, such as "
        f"ViT-B-32/downloads/open_clip_model.safetensors, or {LOCAL}folder with "
        "open_clip_config.json and the weights in it."
    )


class _quiet:  # noqa: N801 - reads as a word in a with-statement
    """Keep open_clip's log lines back: what matters of them is in the error we raise."""

    def __enter__(self) -> None:
        self._level = logging.root.manager.disable
        logging.disable(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._level)
