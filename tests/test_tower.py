"""What the image tower leaves out must not be missed."""

import copy
from typing import Any

import pytest
import torch
from open_clip.transformer import VisionTransformer

from pipeline.clip.tower import spare_last_block


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
