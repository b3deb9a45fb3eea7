"""The pair losses against a case worked by hand and against slow loops over their formulas."""

import math

import numpy as np
import pytest
import torch

from pipeline.training.pair_losses import contrast_of_images, triplet


def unit(rows: list[list[float]]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_triplets_worked_by_hand() -> None:
    texts = unit([[1, 0], [0, 1], [-1, 0]])
    images = unit([[4, 3], [3, 4], [0, 1]])  # cosines .8 .6 -.8; .6 .8 -.6; 0 1 0
    # The first leads by 0.2: short of the margin by 0.3. The second is behind by 0.2: 0.7. The
    # third leads by 1: nothing, and its half weight still counts below the line.
    labels, weights = torch.tensor([0, 0, 1]), torch.tensor([1.0, 2.0, 0.5])
    loss = triplet(images, texts, labels, weights, margin=0.5)
    assert float(loss) == pytest.approx((1 * 0.3 + 2 * 0.7) / 3.5)


def test_what_has_its_margin_pulls_at_nothing() -> None:
    texts = unit([[1, 0], [0, 1]])
    images = unit([[1, 0.01], [1, 0.9]]).requires_grad_()
    loss = triplet(images, texts, torch.tensor([0, 0]), torch.ones(2), margin=0.5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert images.grad[0].tolist() == [0, 0]
    assert images.grad[1].tolist() == pytest.approx([-0.5, 0.5])  # to its own text, off the other


def test_the_contrast_of_images_is_its_formula_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(9, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = [0, 1, 2, 0, 1, 0, 0, 1, 3]  # of 2 and 3 there is one each: no anchors
    weights = rng.uniform(0.2, 1, 9)
    total = norm = 0.0
    for i in range(9):
        others = [j for j in range(9) if j != i]
        mates = [j for j in others if labels[j] == labels[i]]
        if not mates:
            continue
        below = sum(math.exp(float(vectors[i] @ vectors[j]) / 0.3) for j in others)
        terms = [
            weights[j] * -math.log(math.exp(float(vectors[i] @ vectors[j]) / 0.3) / below)
            for j in mates
        ]
        total += weights[i] * sum(terms) / sum(weights[j] for j in mates)
        norm += weights[i]
    got = contrast_of_images(
        torch.from_numpy(vectors),
        torch.tensor(labels),
        torch.from_numpy(weights),
        temperature=0.3,
    )
    assert float(got) == pytest.approx(total / norm)


@pytest.mark.parametrize("count", [1, 3])
def test_no_two_images_of_a_class_give_no_loss_and_no_nan(count: int) -> None:
    images = unit([[1, 0], [0, 1], [1, 1]])[:count].requires_grad_()
    loss = contrast_of_images(images, torch.arange(count), torch.ones(count), temperature=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert images.grad is not None
    assert bool((images.grad == 0).all())
