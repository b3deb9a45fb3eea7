"""What people write without us: loops over CLIP, each a program of its own.

    python -m tests.benchmarks.embed_loops readme FOLDER --model MODEL --out F.npy
    python -m tests.benchmarks.embed_loops loader FOLDER --model MODEL --out F.npy --workers 2

`readme` is the example of CLIP's README in a loop over files: one image at a time. `loader` feeds
batches from a torch DataLoader, whose workers run open_clip's transform. Both in float32, as the
model is loaded. MODEL is as in `pseudolabel --model`.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tests.benchmarks.embed_inputs import images_in

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Photos(Dataset[torch.Tensor]):
    """The images of a folder, transformed."""

    def __init__(self, paths: list[Path], transform: Any) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        tensor: torch.Tensor = self.transform(Image.open(self.paths[index]))
        return tensor


def readme(model: Any, transform: Any, paths: list[Path]) -> torch.Tensor:
    """Embed one image after the other."""
    features = []
    for path in paths:
        image = transform(Image.open(path)).unsqueeze(0)
        with torch.no_grad():
            features.append(model.encode_image(image.to(DEVICE)).cpu())
    return torch.cat(features)


def loader(model: Any, transform: Any, paths: list[Path], workers: int, size: int) -> torch.Tensor:
    """Embed batch after batch."""
    features = []
    with torch.no_grad():
        for images in DataLoader(Photos(paths, transform), batch_size=size, num_workers=workers):
            features.append(model.encode_image(images.to(DEVICE)).cpu())  # noqa: PERF401
    return torch.cat(features)


def load(name: str) -> tuple[Any, Any]:
    """Return model and transform, as open_clip's users get them."""
    architecture, weights = (name, None) if ":" in name else name.split("/", 1)
    model, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=weights)
    return model.eval().to(DEVICE), transform


def main() -> None:
    """Embed a folder and keep the vectors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("readme", "loader"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    asked = parser.parse_args()
    model, transform = load(asked.model)
    paths = images_in(asked.folder)
    if asked.kind == "readme":
        features = readme(model, transform, paths)
    else:
        features = loader(model, transform, paths, asked.workers, asked.batch_size)
    features /= features.norm(dim=-1, keepdim=True)
    np.save(asked.out, features.numpy())


if __name__ == "__main__":
    main()
