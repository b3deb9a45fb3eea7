"""Networks over image and side information, restated sample by sample."""

from typing import cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.training.heads.fusion import (
    FUSIONS,
    DynamicBlock,
    DynamicFusion,
    GatedFusion,
    Shape,
    Standardise,
)
from tests.heads import random_rows

# H / 4 = 4: LayerNorm over two numbers knows only which is larger, and hides what went before.
SHAPE = Shape(image=12, side=5, hidden=16, classes=3, dropout=0.5)


def rows(n: int, width: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(random_rows(n, width, seed))


def linear(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    assert isinstance(layer, nn.Linear)
    return layer.weight @ x if layer.bias is None else layer.weight @ x + layer.bias


def norm(layer: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + layer.eps).sqrt() * layer.weight + layer.bias


def unsettle(network: nn.Module) -> None:
    """Give LayerNorms weights that are not 1 and 0."""
    torch.manual_seed(0)
    for each in network.modules():
        if isinstance(each, nn.LayerNorm):
            nn.init.normal_(each.weight)
            nn.init.normal_(each.bias)


def slow_block(block: DynamicBlock, z: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
    """Type C for one sample: z (H,), side features (H,), by loops over the generated matrix."""
    both = torch.cat([z, side])
    a = linear(block.to_a[2], torch.relu(linear(block.to_a[0], both)))
    made = linear(block.to_weights[2], torch.relu(linear(block.to_weights[0], both)))
    product = []
    for column in range(block.narrow):
        total = torch.zeros(())
        for row in range(block.hidden):
            total = total + a[row] * made[row * block.narrow + column]
        product.append(total)
    inner = torch.relu(norm(block.inner, torch.stack(product)))
    return torch.relu(norm(block.outer, linear(block.last, inner)))


def test_a_dynamic_blocks_generated_weights_equal_a_slow_loop() -> None:
    block = DynamicBlock(16)
    unsettle(block)
    z, side = rows(6, 16, 1), rows(6, 16, 2)
    assert (block.hidden, block.narrow) == (16, 4)
    expected = torch.stack([slow_block(block, *each) for each in zip(z, side, strict=True)])
    assert torch.allclose(block(z, side), expected, atol=1e-5)


def test_dynamic_mlp_equals_its_formulas_sample_by_sample() -> None:
    network = DynamicFusion(SHAPE).eval()
    unsettle(network)
    images, sides = rows(4, 12, 1), rows(4, 5, 2)
    assert len(network.blocks) == 2
    for row, (image, side) in enumerate(zip(images, sides, strict=True)):
        features = torch.relu(linear(network.of_side[0], side))
        for residual in list(network.of_side)[2:6]:
            layers = cast(nn.Sequential, residual.layers)
            inner = torch.relu(linear(layers[0], features))
            features = features + torch.relu(linear(layers[3], inner))
        features = linear(network.of_side[6], features)
        assert cast(nn.Linear, network.of_side[6]).bias is None
        image = norm(network.norm, image)
        z = linear(network.narrow, image)
        for block in network.blocks:
            z = slow_block(cast(DynamicBlock, block), z, features)
        widened = norm(cast(nn.LayerNorm, network.widen[1]), linear(network.widen[0], z))
        expected = linear(network.last[1], image + widened)
        assert torch.allclose(network(images, sides)[row], expected, atol=1e-4)


def test_each_sample_goes_through_weights_of_its_own() -> None:
    block = DynamicBlock(8)
    z = rows(1, 8, 1).expand(2, 8)
    one, other = block(z, rows(2, 8, 2))
    assert not torch.allclose(one, other)


def test_the_gate_equals_its_formula() -> None:
    network = GatedFusion(SHAPE).eval()
    image, side = rows(1, 12, 1), rows(1, 5, 2)
    x, y = norm(network.norm, image[0]), side[0]
    share = torch.sigmoid(linear(network.gate, torch.cat([x, y])))
    hidden = share * torch.tanh(linear(network.of_image, x))
    hidden = hidden + (1 - share) * torch.tanh(linear(network.of_side, y))
    expected = linear(network.last[1], hidden)
    assert torch.allclose(network(image, side)[0], expected, atol=1e-5)


@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_every_weight_is_learnt(fusion: str) -> None:
    network = FUSIONS[fusion](SHAPE)  # type: ignore[index]
    logits = network(rows(40, 12, 1), rows(40, 5, 2))
    functional.cross_entropy(logits, torch.arange(40) % 3).backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_side_columns_are_standardised_by_what_was_learnt() -> None:
    side = np.stack([random_rows(50, 1, 0)[:, 0] * 1000 + 7, random_rows(50, 1, 1)[:, 0]], axis=1)
    standardise = Standardise(2)
    standardise.learn(torch.from_numpy(side * np.array([1, 500], np.float32)))
    got = standardise(torch.from_numpy(side * np.array([1, 500], np.float32))).numpy()
    assert got.mean(axis=0) == pytest.approx([0, 0], abs=1e-5)
    assert got.std(axis=0) == pytest.approx([1, 1], abs=1e-5)


def test_columns_that_hardly_or_never_change_are_not_blown_up() -> None:
    side = torch.zeros(1000, 3)
    side[:, 0] = rows(1000, 1, 0)[:, 0]
    side[0, 1] = 1  # seen once: its own deviation is 0.03
    side[:, 2] = 5
    standardise = Standardise(3)
    standardise.learn(side)
    got = standardise(side)
    assert float(got[0, 1]) < 20
    assert torch.equal(got[:, 2], torch.zeros(1000))
    constant = Standardise(1)
    constant.learn(torch.full((10, 1), 3.0))
    assert torch.equal(constant(torch.full((2, 1), 3.0)), torch.zeros(2, 1))
