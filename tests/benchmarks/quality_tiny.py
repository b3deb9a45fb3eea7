"""Image sets embedded by the tiny CLIP, with one prompt and with two ensembles of prompts.

A set is a folder of folders named after their classes. Vectors are kept in a folder of caches, so
that processes read them without torch.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.clip.protocol import ImageEncoder
from pipeline.images.decoding import Picture, decode
from pipeline.label_set import DEFAULT_TEMPLATE, LabelSet
from tests.benchmarks.quality_sets import Embedded, Labelled, Words

# Folders of the sets, and the folders' names that are no words the model was made for.
FOLDERS = {
    "CIFAR-10": "cifar10/test",
    "clothing": "clothing",
    "grocery": "grocery",
    "imagenette": "imagenette",
    "flowers": "flowers5",
}
NAMES = {"longsleeve": "long sleeve shirt", "outwear": "jacket"}
# Whose images show nothing of a set.
STRANGERS = {
    "CIFAR-10": ("clothing", "grocery", "flowers"),
    "clothing": ("imagenette", "flowers"),
    "grocery": ("clothing", "imagenette"),
    "imagenette": ("clothing", "flowers"),
    "flowers": ("clothing", "imagenette"),
}
_KINDS = (
    *("photo of", "blurry photo of", "black and white photo of", "low contrast photo of"),
    *("high contrast photo of", "bad photo of", "good photo of"),
)
# CLIP's 18 templates for CIFAR (Radford et al. 2021, data/prompts.md of its repository).
CIFAR_18 = tuple(
    f"a {start} {article} {end}"
    for article in ("a", "the")
    for start, end in (
        *((kind, "{}.") for kind in _KINDS),
        ("photo of", "small {}."),
        ("photo of", "big {}."),
    )
)
ALL_WORDS = "the names of all sets"
_MAX_PIXELS = 100_000_000


def prompt_styles() -> dict[str, tuple[str, ...]]:
    """Return the templates of each style: one, CIFAR's 18, ImageNet's 80."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    eighty = tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    return {"1 prompt": (DEFAULT_TEMPLATE,), "18 of CIFAR": CIFAR_18, "80 of ImageNet": eighty}


def embed_once(folder: Path, kept: Path, model: str) -> None:
    """Embed what is not in the folder of caches yet.

    Args:
        folder: with the folders of the sets; one that is not there is left out.
        kept: the folder of caches; made where there is none.
        model: the tiny CLIP's name.
    """
    missing = [
        name
        for name, path in FOLDERS.items()
        if (folder / path).is_dir() and not (kept / f"{name}.npz").exists()
    ]
    if not missing:
        return
    from pipeline.clip.encoder import load_encoder

    encoder = load_encoder(model, device="cpu", precision="fp32")
    kept.mkdir(parents=True, exist_ok=True)
    for name in missing:
        sys.stderr.write(f"embedding {name}\n")
        arrays = _embedded(folder / FOLDERS[name], encoder)
        np.savez(kept / f"{name}.npz", scale=encoder.identity.logit_scale, **arrays)


def _embedded(folder: Path, encoder: ImageEncoder) -> dict[str, Any]:
    from pipeline.clip.prompts import embed_labels

    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [
        (path, index) for index, c in enumerate(classes) for path in sorted((folder / c).iterdir())
    ]
    batches = []
    for at in range(0, len(files), 256):
        pictures = [
            decode(path.read_bytes(), path.name, encoder.fit, max_pixels=_MAX_PIXELS)
            for path, _ in files[at : at + 256]
        ]
        pixels = [each.pixels for each in pictures if isinstance(each, Picture)]
        if len(pixels) < len(pictures):
            raise ValueError(f"{folder}: an image cannot be read")
        batches.append(encoder.encode_images(np.stack(pixels)))
    words = [NAMES.get(name, name.replace("_", " ").replace("-", " ")) for name in classes]
    arrays = {
        "images": np.concatenate(batches),
        "true": np.array([index for _, index in files]),
        "classes": np.array(words),
    }
    for style, templates in prompt_styles().items():
        asked = LabelSet.model_validate(
            {"name": "asked", "templates": templates, "classes": [{"name": word} for word in words]}
        )
        arrays[style] = embed_labels(asked, encoder).classes
    return arrays


@cache
def tiny(kept: Path, style: str) -> Embedded:
    """Read the caches, asked in one style of prompts."""
    sets = {}
    for name in FOLDERS:
        if (kept / f"{name}.npz").exists():
            held = np.load(kept / f"{name}.npz")
            classes = tuple(map(str, held["classes"]))
            sets[name] = Labelled(
                name, held["images"], held["true"], classes, held[style], float(held["scale"])
            )
    strangers = {
        name: np.concatenate([sets[other].images for other in STRANGERS[name] if other in sets])
        for name in sets
    }
    everything = Words(
        tuple(word for each in sets.values() for word in each.classes),
        np.concatenate([each.texts for each in sets.values()]),
    )
    return Embedded(sets, {ALL_WORDS: everything}, strangers)
