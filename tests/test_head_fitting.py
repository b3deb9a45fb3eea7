"""The loop that fits networks: what it minimises, when it stops, what it leaves alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.training.fitting import Batch, fit_network, mixed
from pipeline.training.heads.base import Epoch, HeadSettings, History
from pipeline.training.samples import Samples
from tests.heads import SETTINGS, blobs, unheard


class Plain(nn.Module):
    """One linear layer over the images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.layer(images)
        return answers


def fit(train: Samples, valid: Samples, settings: HeadSettings) -> tuple[Plain, History]:
    return fit_network(Plain, train, valid, classes=3, settings=settings, on_epoch=unheard)


def accuracy(network: Plain, samples: Samples) -> float:
    logits = network(torch.from_numpy(samples.images), torch.empty(0))
    return float((logits.argmax(dim=1).numpy() == samples.labels).mean())


EMPTY = blobs(0, 0)


def test_one_step_is_torchs_own() -> None:
    """One batch, one epoch: AdamW on the weighted, smoothed loss, restated."""
    rng = np.random.default_rng(0)
    samples = replace(blobs(12, 0), weights=rng.uniform(0.1, 1, 12).astype(np.float32))
    settings = replace(SETTINGS, max_epochs=1, label_smoothing=0.1, weight_decay=0.1)
    network, history = fit(samples, EMPTY, settings)
    torch.manual_seed(0)
    other = Plain()
    optimizer = torch.optim.AdamW(other.parameters(), 1e-2, weight_decay=0.1)
    total = torch.zeros(())
    for image, label, weight in zip(samples.images, samples.labels, samples.weights, strict=True):
        log_p = torch.log_softmax(other.layer(torch.from_numpy(image)), dim=0)
        total = total - float(weight) * (0.9 * log_p[label] + 0.1 * log_p.mean())
    loss = total / float(samples.weights.sum())
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert history.epochs[0].train_loss == pytest.approx(float(loss.detach()), rel=1e-5)
    assert torch.allclose(network.layer.weight, other.layer.weight, atol=1e-6)


def test_the_global_random_state_is_left_alone_and_does_not_matter() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(7)
    np.random.seed(7)
    settings = replace(SETTINGS, max_epochs=2, mixup=0.4)
    first, _ = fit(blobs(30, 0), blobs(9, 1), settings)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])
    again, _ = fit(blobs(30, 0), blobs(9, 1), settings)
    assert torch.equal(first.layer.weight, again.layer.weight)


def test_it_stops_when_validation_gets_no_better_and_keeps_the_best() -> None:
    valid = blobs(30, 1)
    against = replace(valid, labels=(valid.labels + 1) % 3)  # the better it learns, the worse
    told: list[Epoch] = []
    settings = replace(SETTINGS, patience=3, batch_size=7, label_smoothing=0.1)
    network, history = fit_network(
        Plain, blobs(120, 0), against, classes=3, settings=settings, on_epoch=told.append
    )
    losses = [epoch.valid_loss for epoch in history.epochs]
    assert told == history.epochs
    assert history.best_epoch == int(np.argmin(losses))
    assert len(losses) == history.best_epoch + 1 + 3
    logits = network(torch.from_numpy(against.images), torch.empty(0))
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(against.labels))
    assert float(loss.detach()) == pytest.approx(min(losses), rel=1e-4)


def test_where_nothing_is_held_out_the_training_loss_decides() -> None:
    _, history = fit(blobs(60, 0), EMPTY, replace(SETTINGS, max_epochs=5))
    assert [e.valid_loss for e in history.epochs] == [e.train_loss for e in history.epochs]
    assert history.best_epoch == 4


def test_weights_decide_whom_to_believe() -> None:
    clean = blobs(60, 0)
    wrong = replace(clean, labels=(clean.labels + 1) % 3, weights=np.full(60, 1e-3, np.float32))
    both = Samples(
        *(
            np.concatenate([getattr(clean, name), getattr(wrong, name)])
            for name in ("images", "side", "labels", "weights")
        )
    )
    for mixup in (0.0, 0.4):
        network, _ = fit(both, blobs(30, 1), replace(SETTINGS, mixup=mixup))
        assert accuracy(network, blobs(300, 2)) == 1.0


def test_dropout_is_of_training_alone() -> None:
    def dropping() -> nn.Module:
        network = Plain()
        network.layer = nn.Sequential(nn.Dropout(0.5), network.layer)  # type: ignore[assignment]
        return network

    settings = replace(SETTINGS, max_epochs=3, learning_rate=1e-9)
    network, history = fit_network(
        dropping, blobs(60, 0), blobs(30, 1), classes=3, settings=settings, on_epoch=unheard
    )
    assert not network.training
    # Nothing is learnt at this rate, so only dropout could make the epochs differ.
    assert np.ptp([epoch.train_loss for epoch in history.epochs]) > 1e-3
    assert np.ptp([epoch.valid_loss for epoch in history.epochs]) < 1e-6


def test_soft_targets_are_what_is_learnt() -> None:
    samples = blobs(60, 0)
    soft = np.full((60, 3), 0.05, np.float32)
    soft[np.arange(60), (samples.labels + 1) % 3] = 0.9
    settings = replace(SETTINGS, soft_targets=True)
    network, _ = fit(replace(samples, soft=soft), EMPTY, settings)
    test = blobs(300, 2)
    assert accuracy(network, replace(test, labels=(test.labels + 1) % 3)) == 1.0
    with pytest.raises(InputError, match=r"train\.soft_targets: these samples hold no shares"):
        fit(samples, EMPTY, settings)


@pytest.mark.parametrize("soft", [False, True])
def test_mixup_of_two_is_the_mean_of_their_losses_under_their_weights(soft: bool) -> None:
    """Against the loss of the mixed image under either target, sample by sample."""
    rng = np.random.default_rng(0)
    labels = torch.tensor([0, 2, 1, 1])
    shares = torch.from_numpy(rng.dirichlet(np.ones(3), 4).astype(np.float32))
    one_hot = nn.functional.one_hot(labels, 3).float()
    targets = shares if soft else one_hot
    images = torch.from_numpy(rng.normal(size=(4, 8)).astype(np.float32))
    side = torch.from_numpy(rng.normal(size=(4, 2)).astype(np.float32))
    weights = torch.tensor([1.0, 0.5, 0.2, 0.7])
    others = torch.tensor([3, 2, 1, 0])
    got = mixed(Batch(images, side, shares if soft else labels, weights), 0.3, others, 3)
    for row, other in enumerate(others.tolist()):
        assert torch.allclose(got.images[row], 0.3 * images[row] + 0.7 * images[other])
        assert torch.allclose(got.side[row], 0.3 * side[row] + 0.7 * side[other])
        log_p = torch.log_softmax(got.images[row, :3], dim=0)
        expected = -0.3 * weights[row] * targets[row] @ log_p
        expected -= 0.7 * weights[other] * targets[other] @ log_p
        assert torch.allclose(-got.weights[row] * got.targets[row] @ log_p, expected)
    assert torch.allclose(got.targets.sum(dim=1), torch.ones(4))


def test_mixup_changes_the_training_and_not_the_looking() -> None:
    settings = replace(SETTINGS, max_epochs=1, learning_rate=1e-9)
    _, alone = fit(blobs(60, 0), blobs(30, 1), settings)
    _, mixed_up = fit(blobs(60, 0), blobs(30, 1), replace(settings, mixup=0.4))
    assert mixed_up.epochs[0].valid_loss == pytest.approx(alone.epochs[0].valid_loss, rel=1e-5)
    assert mixed_up.epochs[0].train_loss != pytest.approx(alone.epochs[0].train_loss, rel=1e-4)


def test_a_training_that_diverges_is_told() -> None:
    with pytest.raises(InputError, match=r"training diverged: .* lower train\.learning_rate"):
        fit(blobs(60, 0), blobs(15, 1), replace(SETTINGS, learning_rate=1e38, weight_decay=1e3))


def test_a_training_that_diverges_later_keeps_its_best() -> None:
    calls = 0

    def breaks_down(network: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss: torch.Tensor = network(batch.images, batch.side).square().mean()
        return loss * (float("nan") if calls > 2 else 1.0)

    settings = replace(SETTINGS, batch_size=60)
    network, history = fit_network(
        Plain,
        blobs(60, 0),
        EMPTY,
        classes=3,
        settings=settings,
        on_epoch=unheard,
        objective=breaks_down,
    )
    assert (len(history.epochs), history.best_epoch) == (2, 1)
    assert all(bool(torch.isfinite(each).all()) for each in network.parameters())


def broken(**arrays: object) -> Samples:
    return replace(blobs(60, 0), **arrays)  # type: ignore[arg-type]


WEIGHTS = np.ones(60, np.float32)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (broken(images=np.full((60, 8), np.inf, np.float32)), "image vector"),
        (broken(side=np.full((60, 1), np.nan, np.float32)), "side vector"),
        (broken(weights=WEIGHTS * np.float32(np.nan)), "weight must be .* got nan"),
        (broken(weights=WEIGHTS * 0), r"weight must be .* got 0\.0"),
        (broken(weights=-WEIGHTS), r"weight must be .* got -1\.0"),
        (broken(labels=np.full(60, 3)), "labels from 3 to 3, but there are 3 classes"),
        (broken(labels=np.full(60, -1)), "labels from -1 to -1"),
        (broken(soft=np.full((60, 3), np.nan, np.float32)), "row of soft labels"),
        (broken(soft=np.full((60, 2), 0.5, np.float32)), "soft labels of 2 classes"),
        (EMPTY, "no samples"),
    ],
)
def test_what_cannot_be_learnt_from_is_named(samples: Samples, says: str) -> None:
    with pytest.raises(InputError, match=says):
        fit(samples, EMPTY, SETTINGS)


def test_vectors_whose_sum_overflows_are_numbers_all_the_same() -> None:
    large = broken(images=np.full((60, 8), 1e37, np.float32))
    with pytest.raises(InputError, match="diverged"):
        fit(large, EMPTY, replace(SETTINGS, learning_rate=1e38))


def test_a_device_that_is_not_there_is_told() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(InputError, match=f"torch sees {count} CUDA devices"):
        fit(blobs(60, 0), EMPTY, replace(SETTINGS, device=f"cuda:{count}"))
