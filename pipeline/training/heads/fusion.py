"""Networks over an image vector and side information, and the ways of joining the two.

All end in a linear layer over the classes. Images are brought to one scale by LayerNorm; side
values, among them numbers that LayerNorm would take the size from, by the training samples' own
mean and deviation.
Shapes: n samples, D image dimensions, S side dimensions, C classes, H hidden dimensions.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from pipeline.training.heads.base import Fusion

_DYNAMIC_BLOCKS = 2
_SIDE_BLOCKS = 4
_NARROW = 4  # H / 4 in the middle of a dynamic block: 256 -> 64 -> 256 in the paper
_FLATTEST = 0.1  # of the usual deviation: rare values must not be blown up to dozens


@dataclass(frozen=True)
class Shape:
    """What a network is made from."""

    image: int  # D
    side: int  # S
    hidden: int  # H
    classes: int  # C
    dropout: float
    fusion: Fusion = "concat"


class Standardise(nn.Module):
    """(side - mean) / deviation, with both as they were in the training samples."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, side: int) -> None:
        """Make one that changes nothing yet."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(side))
        self.register_buffer("deviation", torch.ones(side))

    def learn(self, side: torch.Tensor) -> None:
        """Take mean and deviation from (n, S) rows; a column that never changes stays near 0."""
        spread = side.double().std(dim=0, correction=0)
        usual = spread.square().mean().sqrt()
        spread = spread.clamp(min=float(usual) * _FLATTEST)
        self.mean.copy_(side.double().mean(dim=0))
        self.deviation.copy_(torch.where(spread > 0, spread, 1.0))

    def forward(self, side: torch.Tensor) -> torch.Tensor:
        """Return (n, S)."""
        return (side - self.mean) / self.deviation


class ConcatFusion(nn.Module):
    """One hidden layer over both, side by side; with S = 0 an MLP over the image alone."""

    def __init__(self, shape: Shape) -> None:
        """Make it with fresh weights."""
        super().__init__()
        self.norm, self.standardise = nn.LayerNorm(shape.image), Standardise(shape.side)
        self.layers = nn.Sequential(
            nn.Linear(shape.image + shape.side, shape.hidden),
            nn.GELU(),
            nn.Dropout(shape.dropout),
            nn.Linear(shape.hidden, shape.classes),
        )

    def forward(self, images: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        """Return logits (n, C)."""
        both = self.norm(images)
        if side.shape[1]:  # else a copy for nothing: a tenth of a step
            both = torch.cat([both, self.standardise(side)], dim=1)
        return cast(torch.Tensor, self.layers(both))


class GatedFusion(nn.Module):
    """How much of each hidden number comes from the image is decided sample by sample.

    The gated multimodal unit of Arevalo et al. 2017, arXiv 1702.01992, section 3.1:
    h = z tanh(V image) + (1 - z) tanh(T side), z = sigmoid(G [image; side]).
    """

    def __init__(self, shape: Shape) -> None:
        """Make it with fresh weights."""
        super().__init__()
        self.norm, self.standardise = nn.LayerNorm(shape.image), Standardise(shape.side)
        self.of_image = nn.Linear(shape.image, shape.hidden)
        self.of_side = nn.Linear(shape.side, shape.hidden)
        self.gate = nn.Linear(shape.image + shape.side, shape.hidden)
        self.last = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(shape.hidden, shape.classes))

    def forward(self, images: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        """Return logits (n, C)."""
        images, side = self.norm(images), self.standardise(side)
        share = torch.sigmoid(self.gate(torch.cat([images, side], dim=1)))
        hidden = torch.lerp(
            torch.tanh(self.of_side(side)), torch.tanh(self.of_image(images)), share
        )
        return cast(torch.Tensor, self.last(hidden))


class DynamicBlock(nn.Module):
    """z' = ReLU(LN(W3 ReLU(LN(a D)))): a matrix D made for each sample by the sample itself.

    Type C of Dynamic MLP (Yang et al. 2022, arXiv 2203.03253, section 3.3): with h = [z; l],
    a = W12 ReLU(W11 h) and D = W22 ReLU(W21 h), read as H x H/4.
    """

    def __init__(self, hidden: int) -> None:
        """Make it with fresh weights."""
        super().__init__()
        self.hidden, self.narrow = hidden, max(1, hidden // _NARROW)
        self.to_a = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden)
        )
        self.to_weights = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden * self.narrow)
        )
        self.inner, self.outer = nn.LayerNorm(self.narrow), nn.LayerNorm(hidden)
        self.last = nn.Linear(self.narrow, hidden)

    def forward(self, z: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        """Return z' (n, H) of z (n, H) and side features l (n, H)."""
        both = torch.cat([z, side], dim=1)
        weights = self.to_weights(both).view(-1, self.hidden, self.narrow)
        product = torch.bmm(self.to_a(both)[:, None], weights)[:, 0]
        inner = torch.relu(self.inner(product))
        return torch.relu(cast(torch.Tensor, self.outer(self.last(inner))))


class DynamicFusion(nn.Module):
    """Dynamic MLP: the side information makes the weights that the image goes through.

    Yang et al. 2022, arXiv 2203.03253: the image narrowed to H, two dynamic blocks, widened again
    and added to the image through LayerNorm. Here the image is normalised first: the paper's were
    features of a CNN and not of length 1, beside which what LayerNorm gives would be all.
    """

    def __init__(self, shape: Shape) -> None:
        """Make it with fresh weights."""
        super().__init__()
        self.norm, self.standardise = nn.LayerNorm(shape.image), Standardise(shape.side)
        self.of_side = nn.Sequential(
            nn.Linear(shape.side, shape.hidden),
            nn.ReLU(),
            *(_Residual(shape.hidden, shape.dropout) for _ in range(_SIDE_BLOCKS)),
            nn.Linear(shape.hidden, shape.hidden, bias=False),
        )
        self.narrow = nn.Linear(shape.image, shape.hidden)
        self.blocks = nn.ModuleList(DynamicBlock(shape.hidden) for _ in range(_DYNAMIC_BLOCKS))
        self.widen = nn.Sequential(nn.Linear(shape.hidden, shape.image), nn.LayerNorm(shape.image))
        self.last = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(shape.image, shape.classes))

    def forward(self, images: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        """Return logits (n, C)."""
        images, side = self.norm(images), self.of_side(self.standardise(side))
        z = self.narrow(images)
        for block in self.blocks:
            z = block(z, side)
        return cast(torch.Tensor, self.last(images + self.widen(z)))


class _Residual(nn.Module):
    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows + cast(torch.Tensor, self.layers(rows))


FusionNetwork = ConcatFusion | GatedFusion | DynamicFusion
FUSIONS: dict[Fusion, type[FusionNetwork]] = {
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "dynamic": DynamicFusion,
}
