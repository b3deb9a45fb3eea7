"""The siamese head on data whose answer is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from pipeline.arrays import Floats, unit_rows
from pipeline.errors import InputError
from pipeline.training.fitting import Batch
from pipeline.training.heads.base import Epoch, PairLoss, TextClassifier
from pipeline.training.heads.pairwise import PairwiseHead, Projection, Siamese, objective
from pipeline.training.pair_losses import contrast_of_images, triplet
from pipeline.training.samples import Samples
from pipeline.training.scaling import matched_scale
from tests.heads import SETTINGS as OF_ALL

SETTINGS = replace(
    OF_ALL,
    mixup=0.4,  # to be left out
    pull=1.0,
    hidden=16,
    max_epochs=40,
    patience=40,
    image_pairs=1.0,
)
RNG = np.random.default_rng(5)
# Texts that say nothing of the images below: what is right has to be learnt.
TEXT = TextClassifier(("a", "b", "c"), unit_rows(RNG.normal(size=(3, 8))), 14.0)


def blobs(n: int, seed: int, noise: float = 0.05) -> Samples:
    """Make 3 classes in 8 dimensions, separable where there is little noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = unit_rows(np.eye(8)[labels] + rng.normal(size=(n, 8)) * noise)
    return Samples(images, np.empty((n, 0), np.float32), labels, np.ones(n, np.float32))


def fitted(train: Samples, valid: Samples, **settings: object) -> PairwiseHead:
    head = PairwiseHead(TEXT, replace(SETTINGS, **settings))  # type: ignore[arg-type]
    head.fit(train, valid, lambda epoch: None)
    return head


def answers(head: PairwiseHead, samples: Samples) -> Floats:
    return head.predict_proba(samples.images, samples.side)


def test_before_it_is_fitted_it_answers_as_the_texts_do() -> None:
    images = blobs(9, 0).images
    expected = softmax(14.0 * images @ TEXT.vectors.T, axis=1)
    head = PairwiseHead(TEXT, SETTINGS)
    assert answers(head, blobs(9, 0)) == pytest.approx(expected, abs=1e-6)
    assert head.embed_images(images) == pytest.approx(images, abs=1e-6)


@pytest.mark.parametrize("loss", ["contrastive", "triplet"])
def test_separable_classes_are_learnt_whole(loss: PairLoss) -> None:
    unseen = blobs(300, 2)
    before = answers(PairwiseHead(TEXT, SETTINGS), unseen).argmax(axis=1)
    assert np.mean(before == unseen.labels) < 0.7
    head = fitted(blobs(120, 0), blobs(30, 1), pair_loss=loss)
    probabilities = answers(head, unseen)
    assert probabilities.argmax(axis=1).tolist() == unseen.labels.tolist()
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_images_and_texts_of_a_class_are_found_by_one_another() -> None:
    head, unseen = fitted(blobs(120, 0), blobs(30, 1)), blobs(30, 2)
    images, texts = head.embed_images(unseen.images), head.embed_texts(TEXT.vectors)
    assert np.linalg.norm(images, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(texts, axis=1) == pytest.approx(1, abs=1e-5)
    for label, text in enumerate(texts):
        nearest = (images @ text).argsort()[::-1][:10]
        assert set(unseen.labels[nearest]) == {label}
    probabilities = softmax(float(head._network.scale) * images @ texts.T, axis=1)
    assert answers(head, unseen) == pytest.approx(probabilities, abs=1e-5)


def test_images_of_a_class_draw_together() -> None:
    unseen = blobs(60, 2, noise=0.3)
    same = (unseen.labels[:, None] == unseen.labels) & ~np.eye(60, dtype=bool)

    def nearness(head: PairwiseHead) -> float:
        cosines = head.embed_images(unseen.images) @ head.embed_images(unseen.images).T
        return float(cosines[same].mean() - cosines[~same].mean())

    learnt = fitted(blobs(120, 0, noise=0.3), blobs(30, 1, noise=0.3))
    assert nearness(learnt) > nearness(PairwiseHead(TEXT, SETTINGS))


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    first, again, other = (
        fitted(blobs(60, 0), blobs(15, 1), seed=seed, max_epochs=3).save().tensors
        for seed in (0, 0, 1)
    )
    assert all(np.array_equal(first[key], again[key]) for key in first)
    weights = "image_side.layers.1.weight"
    assert not np.array_equal(first[weights], other[weights])


def test_a_saved_head_answers_as_before() -> None:
    head, unseen = fitted(blobs(60, 0), blobs(15, 1), max_epochs=3), blobs(30, 2)
    loaded = PairwiseHead.load(head.save())
    assert np.array_equal(answers(loaded, unseen), answers(head, unseen))
    assert np.array_equal(loaded.embed_texts(TEXT.vectors), head.embed_texts(TEXT.vectors))


def test_making_a_head_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    PairwiseHead(TEXT, SETTINGS)
    assert torch.equal(torch.rand(3), expected)


def test_a_projection_moves_a_row_by_what_its_layers_say() -> None:
    torch.manual_seed(0)
    projection = Projection(4, 3, 0.0)
    row = torch.tensor([0.5, -0.5, 0.5, 0.5])
    projection.requires_grad_(False)
    first, last = projection.layers[1], projection.layers[-1]
    assert isinstance(first, torch.nn.Linear)
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight)
    normal = (row - row.mean()) / row.std(correction=0)  # of variance 3/16: eps is next to nothing
    hidden = first.weight @ normal + first.bias
    gelu = torch.tensor([float(h) * 0.5 * (1 + math.erf(float(h) / 2**0.5)) for h in hidden])
    moved = row + last.weight @ gelu / 2
    expected = moved / moved.norm()
    assert projection(row[None])[0].tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_loss_is_of_texts_and_of_images() -> None:
    """Every part beside the same part by itself, as its own tests have it."""
    samples = blobs(12, 0)
    images, labels = torch.from_numpy(samples.images), torch.from_numpy(samples.labels)
    weights = torch.linspace(0.1, 1, 12)
    batch = Batch(images, torch.empty(12, 0), labels, weights)
    network = Siamese(TEXT.vectors, 14.0, 4, 0.0)
    logits = 14.0 * samples.images @ TEXT.vectors.T
    logs = np.log(softmax(logits, axis=1))[np.arange(12), samples.labels]
    with_texts = -float((weights.numpy() * logs).sum() / weights.sum())
    among = float(contrast_of_images(images, labels, weights, temperature=0.1))
    loss = objective(replace(SETTINGS, image_pairs=0.5))(network, batch, 0.0)
    assert float(loss.detach()) == pytest.approx(with_texts + 0.5 * among, rel=1e-4)
    soft = replace(batch, targets=torch.nn.functional.one_hot(labels, 3).float())
    again = objective(replace(SETTINGS, image_pairs=0.5))(network, soft, 0.0)
    assert float(again.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    by_triplets = objective(replace(SETTINGS, pair_loss="triplet", margin=0.3))
    texts = torch.from_numpy(TEXT.vectors)
    expected = float(triplet(images, texts, labels, weights, margin=0.3))
    for one in (batch, soft):
        assert float(by_triplets(network, one, 0.0).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_scale_is_where_the_mean_confidence_is_the_one_asked_for() -> None:
    cosines = blobs(200, 3, noise=0.6).images[:, :3]
    grid = np.geomspace(0.5, 50, 2001)
    sure = np.array([softmax(scale * cosines, axis=1).max(axis=1).mean() for scale in grid])
    best = grid[int(np.abs(sure - 0.7).argmin())]
    assert 0.6 < best < 40  # not at an end: there is something to find
    assert matched_scale(cosines, 0.7, 5.0) == pytest.approx(best, rel=0.01)
    assert matched_scale(cosines, 1.0, 5.0) == 100.0  # out of reach
    assert matched_scale(cosines, 0.34, 5.0) == 0.25


@pytest.mark.parametrize("loss", ["contrastive", "triplet"])
def test_it_is_as_sure_as_the_texts_were(loss: PairLoss) -> None:
    valid = blobs(60, 1, noise=0.3)
    head = fitted(blobs(120, 0, noise=0.3), valid, pair_loss=loss, max_epochs=5)
    texts = softmax(14.0 * valid.images @ TEXT.vectors.T, axis=1).max(axis=1).mean()
    assert answers(head, valid).max(axis=1).mean() == pytest.approx(texts, abs=1e-3)


def test_with_nothing_held_out_the_training_samples_decide() -> None:
    told: list[Epoch] = []
    head = PairwiseHead(TEXT, replace(SETTINGS, max_epochs=2))
    history = head.fit(blobs(60, 0), blobs(0, 0), told.append)
    assert history.epochs == told
    assert len(told) == 2


def test_vectors_of_another_model_are_refused() -> None:
    wide = replace(blobs(6, 0), images=unit_rows(np.ones((6, 9))))
    with pytest.raises(InputError, match="images of 9 dimensions, texts of 8"):
        PairwiseHead(TEXT, SETTINGS).fit(wide, wide, lambda epoch: None)
    with pytest.raises(InputError, match="takes vectors of 8 dimensions, these have 9"):
        answers(PairwiseHead(TEXT, SETTINGS), wide)
    broken = replace(blobs(6, 0), images=np.full((6, 8), np.nan, np.float32))
    with pytest.raises(InputError, match="no number"):
        answers(PairwiseHead(TEXT, SETTINGS), broken)
