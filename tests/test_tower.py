"""What the image tower leaves out must not be missed."""

import copy
from typing import Any

import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import nn

from pipeline.clip.loading import load_model
from pipeline.clip.tower import fold_norms, spare_last_block
from tests.conftest import TINY


def vit(**options: Any) -> Any:
    torch.manual_seed(0)
    made = VisionTransformer(
        image_size=32,
        patch_size=8,
        width=64,
        layers=3,
        heads=2,
        mlp_ratio=4,
        output_dim=16,
        **options,
    )
    return made.eval()


@pytest.mark.parametrize("after", [False, True])
def test_a_spared_block_gives_the_same_features(after: bool) -> None:
    whole = vit(final_ln_after_pool=after)
    spared = copy.deepcopy(whole)
    assert spare_last_block(spared)
    seen: list[torch.Size] = []
    for block in spared.transformer.resblocks:
        block.mlp.register_forward_hook(lambda _, given, out: seen.append(out.shape))
    pixels = torch.randn(5, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(spared(pixels), whole(pixels), atol=1e-5)
    assert seen == [(5, 17, 64), (5, 17, 64), (5, 1, 64)]  # 16 patches and the class token


@pytest.mark.parametrize(
    "options",
    [
        {"pool_type": "avg"},
        {"attentional_pool": True, "attn_pooler_queries": 4},
        {"output_tokens": True},
    ],
)
def test_who_looks_at_other_tokens_keeps_them(options: dict[str, Any]) -> None:
    whole = vit(**options)
    spared = copy.deepcopy(whole)
    assert not spare_last_block(spared)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        before, after = whole(pixels), spared(pixels)
    for one, other in zip(
        before if isinstance(before, tuple) else [before],
        after if isinstance(after, tuple) else [after],
        strict=True,
    ):
        assert torch.equal(one, other)


def test_other_towers_are_left_alone() -> None:
    assert not spare_last_block(torch.nn.Linear(2, 2))


def with_norms() -> list[Any]:
    """Return image towers whose batch norms have seen something: traced whole, and in parts."""
    torch.manual_seed(0)
    towers = [
        load_model(TINY).model.visual,
        ModifiedResNet(layers=(1, 1, 1, 1), output_dim=16, heads=4, image_size=64, width=8),
    ]
    for tower in towers:
        for norm in tower.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.normal_(norm.get_buffer("running_mean"))
                nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 2)
                nn.init.normal_(norm.weight, 1, 0.2)
                nn.init.normal_(norm.bias)
    return [tower.eval() for tower in towers]


def norms(tower: nn.Module) -> int:
    return sum(isinstance(each, nn.BatchNorm2d) for each in tower.modules())


@pytest.mark.parametrize(("which", "left"), [(0, 0), (1, 3)])
def test_folded_norms_give_the_same_features(which: int, left: int) -> None:
    whole = with_norms()[which]
    folded = copy.deepcopy(whole)
    fold_norms(folded)
    pixels = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(folded(pixels), whole(pixels), rtol=1e-3, atol=1e-4)
    assert norms(folded) == left < norms(whole)


def test_a_model_without_norms_stays_as_it_is() -> None:
    whole = vit()
    before = list(whole.modules())
    fold_norms(whole)
    assert all(one is other for one, other in zip(whole.modules(), before, strict=True))
