"""The prompt head through the tiny CLIP's text tower, on images made of texts."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from pipeline.arrays import Floats, unit_rows
from pipeline.clip.encoder import Encoder
from pipeline.clip.learnable import LearnablePrompts
from pipeline.clip.loading import LoadedModel, load_model
from pipeline.errors import InputError
from pipeline.training.fitting import Batch
from pipeline.training.heads.base import TextClassifier
from pipeline.training.heads.prompt import MOST_CLASSES, PromptHead, PromptNetwork, objective
from pipeline.training.samples import Samples
from tests.conftest import TINY
from tests.test_pairwise import SETTINGS as OTHERS

NAMES = ("dog", "cat", "truck", "banana")
SETTINGS = replace(OTHERS, mixup=0.0, batch_size=256, max_epochs=60, patience=60, hold=0.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Hundreds of tiny steps: threads would spend them waiting for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(TINY)


@pytest.fixture(scope="module")
def text(tiny: Encoder) -> TextClassifier:
    vectors = tiny.encode_texts([f"a photo of a {name}." for name in NAMES])
    return TextClassifier(NAMES, vectors, tiny.identity.logit_scale)


@pytest.fixture(scope="module")
def ensemble(tiny: Encoder) -> TextClassifier:
    """A classifier of two templates that are not the one the context begins as."""
    shapes = ("a drawing of the {}.", "one {} on a table")
    both = [tiny.encode_texts([shape.format(name) for name in NAMES]) for shape in shapes]
    return TextClassifier(NAMES, unit_rows(both[0] + both[1]), tiny.identity.logit_scale)


def images(n: int, seed: int, centres: Floats, noise: float = 0.02) -> Samples:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(centres)
    rows = unit_rows(centres[labels] + rng.normal(size=(n, centres.shape[1])) * noise)
    return Samples(rows, np.empty((n, 0), np.float32), labels, np.ones(n, np.float32))


def answers(head: PromptHead, samples: Samples) -> Floats:
    return head.predict_proba(samples.images, samples.side)


@pytest.mark.parametrize("made", ["text", "ensemble"])
def test_it_begins_exactly_as_the_text_classifier(
    made: str, loaded: LoadedModel, request: pytest.FixtureRequest
) -> None:
    text: TextClassifier = request.getfixturevalue(made)
    samples = images(40, 0, text.vectors, noise=0.1)
    expected = softmax(text.scale * samples.images @ text.vectors.T, axis=1)
    head = PromptHead(text, replace(SETTINGS, learning_rate=1e-12, max_epochs=1), lambda: loaded)
    assert answers(head, samples) == pytest.approx(expected, abs=1e-6)
    head.fit(samples, samples, lambda epoch: None)
    assert answers(head, samples) == pytest.approx(expected, abs=1e-4)


def test_from_one_prompt_it_is_the_texts_with_the_learnt_context(
    text: TextClassifier, loaded: LoadedModel
) -> None:
    """Not beside them: where the classifier is of that prompt, nothing is added to CoOp."""
    samples = images(40, 0, text.vectors[::-1])
    head = PromptHead(text, replace(SETTINGS, max_epochs=3), lambda: loaded)
    head.fit(samples, samples, lambda epoch: None)
    saved = head.save()
    prompts = LearnablePrompts(loaded, NAMES)
    with torch.no_grad():
        assert not np.allclose(prompts.context.numpy(), saved.tensors["context"], atol=1e-3)
        prompts.context.copy_(torch.from_numpy(saved.tensors["context"]))
        assert prompts().numpy() == pytest.approx(saved.tensors["vectors"], abs=1e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_separable_classes_are_learnt_whole(
    text: TextClassifier, loaded: LoadedModel, soft: bool
) -> None:
    """Images look as the names read after some words, of which "a photo of a" is a bad guess."""
    teacher = LearnablePrompts(loaded, NAMES)
    with torch.no_grad():
        teacher.context.copy_(0.05 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0)))
        centres = teacher().numpy()
    train, valid, unseen = (images(n, n, centres) for n in (200, 40, 400))
    if soft:
        train, valid = (
            replace(s, soft=np.eye(4, dtype=np.float32)[s.labels], labels=np.zeros_like(s.labels))
            for s in (train, valid)
        )
    head = PromptHead(text, replace(SETTINGS, soft_targets=soft), lambda: loaded)
    assert (answers(head, unseen).argmax(axis=1) == unseen.labels).mean() < 0.6
    head.fit(train, valid, lambda epoch: None)
    assert answers(head, unseen).argmax(axis=1).tolist() == unseen.labels.tolist()
    assert answers(head, unseen).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_the_context_does_not_decay(text: TextClassifier, loaded: LoadedModel) -> None:
    samples = images(40, 0, text.vectors, noise=0.2)
    contexts = []
    for decay in (0.0, 10.0):
        head = PromptHead(text, replace(SETTINGS, weight_decay=decay, max_epochs=2), lambda: loaded)
        head.fit(samples, images(0, 0, text.vectors), lambda epoch: None)
        contexts.append(head.save().tensors["context"])
    assert np.array_equal(contexts[0], contexts[1])


def test_the_same_seed_gives_the_same_context_and_another_does_not(
    text: TextClassifier, loaded: LoadedModel
) -> None:
    samples = images(64, 0, text.vectors, noise=0.2)

    def context(seed: int) -> Floats:
        settings = replace(SETTINGS, seed=seed, max_epochs=2, batch_size=16)
        head = PromptHead(text, settings, lambda: loaded)
        head.fit(samples, images(0, 0, text.vectors), lambda epoch: None)
        found: Floats = head.save().tensors["context"]  # type: ignore[assignment]
        return found

    assert np.array_equal(context(0), context(0))
    assert not np.array_equal(context(0), context(1))  # by the order of the samples


def test_a_saved_head_answers_as_before_without_a_text_tower(
    text: TextClassifier, loaded: LoadedModel
) -> None:
    samples = images(40, 0, text.vectors, noise=0.1)
    head = PromptHead(text, replace(SETTINGS, max_epochs=3), lambda: loaded)
    head.fit(samples, samples, lambda epoch: None)
    again = PromptHead.load(head.save())
    assert np.array_equal(answers(again, samples), answers(head, samples))
    assert again.save().about == head.save().about


def test_the_model_is_left_as_it_was(text: TextClassifier, loaded: LoadedModel) -> None:
    before = {key: value.clone() for key, value in loaded.model.state_dict().items()}
    samples = images(40, 0, text.vectors)
    PromptHead(text, replace(SETTINGS, max_epochs=3), lambda: loaded).fit(
        samples, samples, lambda epoch: None
    )
    after = loaded.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_farther_it_moves_the_more_it_costs(text: TextClassifier, loaded: LoadedModel) -> None:
    samples = images(8, 0, text.vectors)
    batch = Batch(
        torch.from_numpy(samples.images),
        torch.empty(8, 0),
        torch.from_numpy(samples.labels),
        torch.linspace(0.1, 1, 8),
    )
    network = PromptNetwork(text, LearnablePrompts(loaded, NAMES))
    with torch.no_grad():
        network.prompts.context.mul_(-1)
        vectors = network.vectors().numpy()
    logits = text.scale * samples.images @ vectors.T
    own = np.log(softmax(logits, axis=1))[np.arange(8), samples.labels]
    weights = np.linspace(0.1, 1, 8)
    moved = ((vectors - text.vectors) ** 2).sum(axis=1)
    assert moved.min() > 1e-3
    expected = -(weights * own).sum() / weights.sum() + 8 * moved.mean()
    loss = objective(replace(SETTINGS, hold=8.0))(network, batch, 0.0)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_too_many_classes_are_refused_with_what_to_use_instead() -> None:
    names = tuple(f"class {number}" for number in range(MOST_CLASSES + 1))
    text = TextClassifier(names, np.eye(101, dtype=np.float32), 10.0)
    with pytest.raises(InputError, match=r"101 classes, and at most 100 .* Use linear or mlp"):
        PromptHead(text, SETTINGS, lambda: pytest.fail("no model is needed for that"))


def test_vectors_of_another_model_are_refused(text: TextClassifier, loaded: LoadedModel) -> None:
    wide = images(6, 0, np.eye(9, dtype=np.float32)[:4])
    head = PromptHead(text, SETTINGS, lambda: loaded)
    with pytest.raises(InputError, match="images of 9 dimensions, texts of 128"):
        head.fit(wide, wide, lambda epoch: None)
    with pytest.raises(InputError, match="takes 128 numbers of an image, these have 9"):
        answers(head, wide)
