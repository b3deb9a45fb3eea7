"""Learnable prompts against open_clip's own `encode_text` of the same words."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from torch.nn import functional

from pipeline.clip.learnable import LearnablePrompts
from pipeline.clip.loading import LoadedModel, load_model
from pipeline.errors import InputError
from tests.conftest import TINY

NAMES = ["dog", "red envelope", "guinea pig", "t-shirt"]
VISION = CLIPVisionCfg(layers=1, width=64, head_width=32, patch_size=16, image_size=32)
SMALL = {"context_length": 32, "width": 64, "heads": 2, "layers": 3}


def random_model(kind: type = CLIP, **text: Any) -> LoadedModel:
    """Return a model whose text tower is as described, its weights random, its images small."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(embed_dim=48, vision_cfg=VISION, text_cfg=CLIPTextCfg(**text))
    model.eval().requires_grad_(False)
    length = text["context_length"]
    tokenizer = open_clip.SimpleTokenizer(context_length=length)
    return LoadedModel("random", model, None, tokenizer)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(TINY)


def encoded(loaded: LoadedModel, texts: Sequence[str]) -> torch.Tensor:
    with torch.no_grad():
        return functional.normalize(loaded.model.encode_text(loaded.tokenizer(list(texts))), dim=1)


def close(prompts: LearnablePrompts, loaded: LoadedModel, texts: Sequence[str]) -> bool:
    return torch.allclose(prompts().detach(), encoded(loaded, texts), rtol=0, atol=1e-5)


def say(prompts: LearnablePrompts, loaded: LoadedModel, words: str) -> None:
    """Put the tokens of some words, as many as the context has, in its place."""
    ids = torch.tensor(loaded.tokenizer.encode(words))
    inner = getattr(loaded.model, "text", loaded.model)
    with torch.no_grad():
        prompts.context.copy_(inner.token_embedding(ids))


@pytest.mark.parametrize(
    ("tokens", "words"),
    [(1, "a"), (2, "of a"), (4, "a photo of a"), (6, "x x a photo of a")],
)
def test_at_the_start_the_context_says_a_photo_of_a(
    loaded: LoadedModel, tokens: int, words: str
) -> None:
    prompts = LearnablePrompts(loaded, NAMES, tokens=tokens)
    assert prompts.context.shape == (tokens, 64)
    assert close(prompts, loaded, [f"{words} {name}." for name in NAMES])


def test_an_article_gives_way_to_the_context(loaded: LoadedModel) -> None:
    prompts = LearnablePrompts(loaded, ["a dog", "the sea"])
    assert close(prompts, loaded, ["a photo of a dog.", "a photo of a sea."])


def test_whatever_the_context_says_is_read_as_the_words_would_be(loaded: LoadedModel) -> None:
    prompts = LearnablePrompts(loaded, NAMES)
    say(prompts, loaded, "many small blurry things")
    expected = [f"many small blurry things {name}." for name in NAMES]
    assert close(prompts, loaded, expected)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (CLIP, vars(CLIPTextCfg()) | open_clip.get_model_config("ViT-B-32")["text_cfg"]),
        (CLIP, SMALL | {"pool_type": "eos", "eos_id": 49407}),
        (CustomTextCLIP, SMALL),
        (CustomTextCLIP, SMALL | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}),
        (CustomTextCLIP, SMALL | {"no_causal_mask": True, "pool_type": "first"}),
    ],
    ids=["ViT-B-32", "eos", "custom", "as in SigLIP", "first"],
)
def test_other_towers_read_them_as_they_read_texts(kind: type, text: dict[str, Any]) -> None:
    made = random_model(kind, **text)
    prompts = LearnablePrompts(made, NAMES)
    assert close(prompts, made, [f"a photo of a {name}." for name in NAMES])
    say(prompts, made, "many small blurry things")
    assert close(prompts, made, [f"many small blurry things {name}." for name in NAMES])


def test_the_gradient_flows_to_the_context_only(loaded: LoadedModel) -> None:
    prompts = LearnablePrompts(loaded, NAMES)
    assert [name for name, _ in prompts.named_parameters()] == ["context"]
    assert list(prompts.state_dict()) == ["context"]
    (prompts() @ torch.ones(128)).sum().backward()
    assert prompts.context.grad is not None
    assert bool((prompts.context.grad.abs().sum(dim=1) > 0).all())
    assert all(p.grad is None for p in loaded.model.parameters())


def test_the_gradient_is_the_slope(loaded: LoadedModel) -> None:
    """A step along the gradient changes the answer by what the gradient says."""
    prompts = LearnablePrompts(loaded, NAMES)
    target = encoded(loaded, ["a red envelope on a beach"])[0]
    before = (prompts() @ target).sum()
    before.backward()
    slope = prompts.context.grad
    assert slope is not None
    step = 1e-3 / float(slope.norm())
    with torch.no_grad():
        prompts.context.add_(step * slope)
        after = (prompts() @ target).sum()
    expected = step * float((slope**2).sum())
    assert float(after - before.detach()) == pytest.approx(expected, rel=0.05)


def test_what_the_model_does_not_read_to_its_end_is_told(loaded: LoadedModel) -> None:
    long = "a very long name of many words that the model has no room for at all"
    LearnablePrompts(loaded, ["dog", long], tokens=2)
    with pytest.raises(InputError, match=r"class 'a very long name .*after 10 context tokens"):
        LearnablePrompts(loaded, ["dog", long], tokens=10)


def test_towers_of_other_kinds_are_refused() -> None:
    hugging_face = SimpleNamespace(text=torch.nn.Identity())
    with pytest.raises(InputError, match=r"model some: no prompt can be learnt.*Identity"):
        LearnablePrompts(LoadedModel("some", hugging_face, None, None), NAMES)


def test_a_tower_that_takes_other_steps_is_refused() -> None:
    made = random_model(CustomTextCLIP, **SMALL, embed_cls=True)  # as CoCa's
    with pytest.raises(InputError, match="model random: its text tower goes its own ways"):
        LearnablePrompts(made, NAMES)
