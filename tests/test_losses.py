"""Losses by hand, against slow loops, and at the ends of their ranges."""

import math

import numpy as np
import pytest
import torch

from pipeline.training.losses import generalised, sample_losses, weighted_mean

LOGITS = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])  # probabilities 1/2, 1/2 and 3/4, 1/4
LABELS = torch.tensor([0, 1])
SOFT = torch.tensor([[0.5, 0.5], [1.0, 0.0]])


def test_cross_entropy_by_hand() -> None:
    got = sample_losses(LOGITS, LABELS, "cross-entropy").tolist()
    assert got == pytest.approx([math.log(2), math.log(4)], rel=1e-6)


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    second = 0.9 * math.log(4) + 0.1 * (math.log(4) + math.log(4 / 3)) / 2
    got = sample_losses(LOGITS, LABELS, "cross-entropy", smoothing=0.1).tolist()
    assert got == pytest.approx([math.log(2), second], rel=1e-6)


def test_soft_targets_by_hand() -> None:
    got = sample_losses(LOGITS, SOFT, "cross-entropy").tolist()
    assert got == pytest.approx([math.log(2), math.log(4 / 3)], rel=1e-6)


def test_generalised_by_hand() -> None:
    got = sample_losses(LOGITS, LABELS, "generalised").tolist()
    assert got == pytest.approx([(1 - 0.5**0.7) / 0.7, (1 - 0.25**0.7) / 0.7], rel=1e-6)
    soft = sample_losses(LOGITS, SOFT, "generalised").tolist()
    assert soft == pytest.approx([(1 - 0.5**0.7) / 0.7, (1 - 0.75**0.7) / 0.7], rel=1e-6)


def test_generalised_lies_between_cross_entropy_and_the_mean_absolute_error() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 6)) * 3)
    labels = torch.arange(50) % 6
    cross_entropy = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert torch.allclose(generalised(logits, labels, q=1e-9), cross_entropy, atol=1e-6)
    one_hot = torch.nn.functional.one_hot(labels, 6)
    absolute = (torch.softmax(logits, dim=1) - one_hot).abs().sum(dim=1)  # 2 (1 - p)
    assert torch.allclose(generalised(logits, labels, q=1.0), absolute / 2)


@pytest.mark.parametrize("q", [0.0, -1.0, 1.1, math.nan])
def test_a_q_out_of_range_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="q must be"):
        generalised(LOGITS, LABELS, q)


def test_hard_labels_are_soft_ones_that_are_sure() -> None:
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(20, 4)))
    labels = torch.arange(20) % 4
    sure = torch.nn.functional.one_hot(labels, 4).double()
    for kind in ("cross-entropy", "generalised"):
        hard, soft = (sample_losses(logits, t, kind, 0.1) for t in (labels, sure))
        assert torch.allclose(hard, soft)


def test_the_generalised_gradient_is_that_of_cross_entropy_times_p_to_the_q() -> None:
    """Zhang and Sabuncu 2018, section 3.2: what is not believed pulls less."""
    gradients = []
    for kind in ("cross-entropy", "generalised"):
        logits = LOGITS.double().requires_grad_()
        sample_losses(logits, LABELS, kind).sum().backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        gradients.append(logits.grad)
    p = torch.tensor([[0.5], [0.25]], dtype=torch.float64)
    assert torch.allclose(gradients[1], gradients[0] * p**0.7)


def test_only_the_ratios_of_weights_matter() -> None:
    losses = torch.tensor([1.0, 4.0])
    assert float(weighted_mean(losses, torch.tensor([3.0, 1.0]))) == pytest.approx(1.75)
    assert float(weighted_mean(losses, torch.tensor([0.3, 0.1]))) == pytest.approx(1.75)
