"""Every head on data whose answer is known."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_score

from pipeline.arrays import unit_rows
from pipeline.errors import InputError
from pipeline.training.heads.base import Head, HeadSettings, TextClassifier
from pipeline.training.heads.linear import LinearHead
from pipeline.training.heads.logistic import STRENGTHS, LogisticHead
from pipeline.training.heads.registry import load_head_of, make_head
from pipeline.training.samples import Samples
from tests.conftest import ROOT
from tests.heads import SETTINGS, TEXT, accuracy, blobs, random_rows, unheard

HEADS = ["linear", "logistic", "mlp", "concat", "gated", "dynamic"]


def settings_of(name: str) -> tuple[str, HeadSettings]:
    if name in ("concat", "gated", "dynamic"):
        return "multimodal", replace(SETTINGS, fusion=name)  # type: ignore[arg-type]
    return name, SETTINGS


def fitted(name: str, train: Samples, valid: Samples, **changed: object) -> Head:
    kind, settings = settings_of(name)
    head = make_head(kind, TEXT, train.sizes, replace(settings, **changed))  # type: ignore[arg-type]
    head.fit(train, valid, unheard)
    return head


def with_noise_beside(samples: Samples, seed: int = 5) -> Samples:
    return replace(samples, side=random_rows(len(samples), 4, seed))


@pytest.mark.parametrize("name", HEADS)
def test_separable_classes_are_learnt_whole(name: str) -> None:
    train, valid, test = (with_noise_beside(blobs(n, s)) for n, s in ((120, 0), (30, 1), (300, 2)))
    assert accuracy(fitted(name, train, valid), test) == 1.0


@pytest.mark.parametrize("name", ["concat", "gated", "dynamic"])
def test_the_side_vectors_are_used_when_only_they_tell(name: str) -> None:
    head = fitted(name, blobs(120, 0, side=True), blobs(30, 1, side=True))
    unseen = blobs(300, 2, side=True)
    assert accuracy(head, unseen) == 1.0
    assert accuracy(head, replace(unseen, side=np.zeros_like(unseen.side))) < 0.6


@pytest.mark.parametrize("name", HEADS)
def test_a_saved_head_answers_as_it_did(name: str) -> None:
    samples = with_noise_beside(blobs(60, 0))
    head = fitted(name, samples, samples, max_epochs=3, dropout=0.3)
    saved = head.save()
    again = load_head_of(head.kind, replace(saved, about=json.loads(json.dumps(saved.about))))
    new = with_noise_beside(blobs(50, 3))
    expected = head.predict_proba(new.images, new.side)
    assert np.array_equal(again.predict_proba(new.images, new.side), expected)
    assert expected.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert expected.dtype == np.float32


@pytest.mark.parametrize("name", HEADS)
def test_the_same_samples_and_seed_give_the_same_weights(name: str) -> None:
    samples = with_noise_beside(blobs(60, 0))
    changed = {"max_epochs": 2, "mixup": 0.4, "dropout": 0.3}
    first, again = (fitted(name, samples, samples, **changed).save().tensors for _ in range(2))
    for key, tensor in first.items():
        assert np.array_equal(tensor, again[key])


@pytest.mark.parametrize("name", ["mlp", "concat", "gated", "dynamic"])
def test_another_seed_gives_other_weights(name: str) -> None:
    samples = with_noise_beside(blobs(60, 0))
    one, other = (
        fitted(name, samples, samples, max_epochs=2, seed=s).save().tensors for s in (0, 1)
    )
    changed = {key for key in one if not np.array_equal(one[key], other[key])}
    assert any("weight" in key for key in changed)


@pytest.mark.parametrize("name", HEADS)
def test_what_is_no_number_is_neither_learnt_nor_labelled(name: str) -> None:
    good = with_noise_beside(blobs(60, 0))
    bad = replace(good, images=good.images.copy())
    bad.images[7, 2] = np.nan
    with pytest.raises(InputError, match=r"1 of .* no number .* image vector"):
        fitted(name, bad, good)
    with pytest.raises(InputError, match="image vector"):
        fitted(name, good, good, max_epochs=1).predict_proba(bad.images, bad.side)


@pytest.mark.parametrize("name", HEADS)
def test_vectors_of_another_width_are_refused(name: str) -> None:
    good = with_noise_beside(blobs(60, 0))
    head = fitted(name, good, good, max_epochs=1)
    with pytest.raises(InputError, match=r"takes 8 numbers .* these are 7"):
        head.predict_proba(good.images[:, :7], good.side)


def test_there_are_no_other_heads() -> None:
    with pytest.raises(InputError, match="no head 'oracle'; there are linear, logistic, mlp"):
        make_head("oracle", TEXT, (8, 0), SETTINGS)


# -- linear ------------------------------------------------------------------------------------


def noisy(n: int, seed: int) -> Samples:
    """Classes that overlap, weights that differ, and the third class absent."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = unit_rows(np.eye(8)[labels] + rng.normal(size=(n, 8)) * 0.6)
    weights = rng.uniform(0.2, 1, n).astype(np.float32)
    soft = rng.dirichlet([1, 1, 1], n).astype(np.float32)
    return Samples(images, np.empty((n, 0), np.float32), labels, weights, soft)


def linear_objective(samples: Samples, settings: HeadSettings, text: TextClassifier):  # type: ignore[no-untyped-def]
    """Restate what LinearHead minimises, sample by sample, in float64."""
    assert samples.soft is not None
    x, softs = samples.images.astype(float), samples.soft
    mean = x.mean(axis=0)
    spread = np.sqrt(np.mean([np.sum((row - mean) ** 2) for row in x]))
    classes, width = text.vectors.shape

    def objective(flat: np.ndarray) -> float:
        move, bias = flat[: classes * width].reshape(classes, width), flat[classes * width :]
        total = 0.0
        for row, label, weight, soft in zip(x, samples.labels, samples.weights, softs, strict=True):
            logits = text.scale * text.vectors @ row + move @ ((row - mean) / spread) + bias
            log_p = logits - np.log(np.exp(logits).sum())
            target = soft if settings.soft_targets else np.eye(classes)[label]  # never smoothed
            total -= float(weight) * float(target @ log_p)
        pull = settings.pull * max(1, 1000 / len(x))
        return total / float(samples.weights.sum()) + pull / 2 * float(flat @ flat)

    def layer(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope = flat[: classes * width].reshape(classes, width) / spread
        return text.scale * text.vectors + slope, flat[classes * width :] - slope @ mean

    return objective, layer


@pytest.mark.parametrize("changed", [{}, {"label_smoothing": 0.1}, {"soft_targets": True}])
def test_linear_finds_the_minimum_that_scipy_finds(changed: dict[str, object]) -> None:
    samples = noisy(40, 0)
    settings = replace(SETTINGS, pull=0.002, max_epochs=200, **changed)  # type: ignore[arg-type]
    objective, layer = linear_objective(samples, settings, TEXT)
    found = minimize(objective, np.zeros(27), method="BFGS", options={"gtol": 1e-6})
    weights, bias = layer(found.x)
    head = LinearHead(TEXT, settings)
    history = head.fit(samples, samples, unheard)
    assert head.save().tensors["weights"] == pytest.approx(weights, abs=2e-3)
    assert head.save().tensors["bias"] == pytest.approx(bias, abs=2e-3)
    assert history.epochs[-1].train_loss == pytest.approx(found.fun, abs=1e-6)


def test_linear_pulls_few_samples_harder_and_a_thousand_as_it_is_told() -> None:
    """Every sample twice is the same mean loss: only the pull can tell them apart."""
    once = noisy(500, 0)
    twice = once.take(np.tile(np.arange(500), 2))
    four_times = once.take(np.tile(np.arange(500), 4))
    heads = []
    for samples, pull in ((once, 0.01), (twice, 0.02), (twice, 0.01), (four_times, 0.01)):
        head = LinearHead(TEXT, replace(SETTINGS, pull=pull, max_epochs=200))
        head.fit(samples, samples, unheard)
        heads.append(head.save().tensors["weights"].astype(np.float64))
    assert heads[0] == pytest.approx(heads[1], abs=2e-3)
    assert heads[2] == pytest.approx(heads[3], abs=2e-3)
    assert np.abs(heads[0] - heads[2]).max() > 0.01


def test_linear_in_any_order_and_in_batches_is_the_same_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = noisy(60, 1)
    turned = samples.take(np.arange(60)[::-1])
    settings = replace(SETTINGS, pull=0.05)
    whole, other = LinearHead(TEXT, settings), LinearHead(TEXT, replace(settings, seed=9))
    whole.fit(samples, samples, unheard)
    monkeypatch.setattr("pipeline.training.heads.linear._ROWS", 7)
    other.fit(turned, samples, unheard)
    expected = whole.predict_proba(samples.images, samples.side)
    assert other.predict_proba(samples.images, samples.side) == pytest.approx(expected, abs=1e-4)


def test_linear_with_a_huge_pull_or_unfitted_is_the_text_classifier() -> None:
    samples = noisy(40, 0)
    logits = TEXT.scale * samples.images @ TEXT.vectors.T
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    head = LinearHead(TEXT, replace(SETTINGS, pull=1e9))
    assert head.predict_proba(samples.images, samples.side) == pytest.approx(expected, abs=1e-5)
    head.fit(samples, samples, unheard)
    assert head.predict_proba(samples.images, samples.side) == pytest.approx(expected, abs=1e-5)


def test_linear_leaves_the_text_less_the_less_it_is_pulled() -> None:
    samples = noisy(40, 0)
    texts = TEXT.scale * TEXT.vectors
    moved = []
    for pull in (1.0, 0.1, 0.01):
        head = LinearHead(TEXT, replace(SETTINGS, pull=pull))
        head.fit(samples, samples, unheard)
        weights = head.save().tensors["weights"].astype(np.float32)
        moved.append(float(np.abs(weights - texts).sum()))
    assert moved == sorted(moved)
    assert moved[0] < moved[-1] / 3


def test_linear_still_knows_a_class_that_it_has_not_seen() -> None:
    head = LinearHead(TEXT, replace(SETTINGS, pull=0.1))
    seen = noisy(40, 0)
    head.fit(seen, seen, unheard)
    third = Samples(
        TEXT.vectors[2:], np.empty((1, 0), np.float32), np.array([2]), np.ones(1, np.float32)
    )
    assert accuracy(head, third) == 1.0


# -- logistic ----------------------------------------------------------------------------------


def test_logistic_is_scikit_learns_at_the_papers_strength() -> None:
    samples = blobs(90, 0)
    expected = LogisticRegression(C=0.316, max_iter=1000).fit(samples.images, samples.labels)
    head = fitted("logistic", replace(samples, weights=np.full(90, 0.5, np.float32)), samples)
    answers = head.predict_proba(samples.images, samples.side)
    assert answers == pytest.approx(expected.predict_proba(samples.images), abs=1e-4)


@pytest.mark.parametrize("present", [[0, 2], [0, 1, 3]])
def test_logistic_gives_a_class_without_samples_no_chance(present: list[int]) -> None:
    rng = np.random.default_rng(0)
    labels = np.array(present * 20)
    images = unit_rows(np.eye(8)[labels] + rng.normal(size=(len(labels), 8)) * 0.3)
    samples = Samples(
        images, np.empty((len(labels), 0), np.float32), labels, np.ones(len(labels), np.float32)
    )
    head = LogisticHead(4, 8)
    head.fit(samples, samples, unheard)
    again = LogisticHead.load(head.save())
    expected = LogisticRegression(C=0.316).fit(images, labels).predict_proba(images)
    answers = again.predict_proba(images, samples.side)
    assert answers[:, present] == pytest.approx(expected, abs=1e-4)
    absent = [c for c in range(4) if c not in present]
    assert not answers[:, absent].any()
    assert all(np.isfinite(tensor).all() for tensor in head.save().tensors.values())


def test_logistic_chooses_its_strength_by_cross_validation() -> None:
    rng = np.random.default_rng(3)
    labels = np.arange(100) % 2
    noise = unit_rows(rng.normal(size=(100, 50)))  # nothing to learn but chance: the stronger wins
    clear = unit_rows(np.eye(50)[labels] * 0.08 + noise)
    samples = Samples(clear, np.empty((100, 0), np.float32), labels, np.ones(100, np.float32))
    head = LogisticHead(2, 50, seed=0, strength=None)
    head.fit(samples, samples, unheard)
    folds = KFold(5, shuffle=True, random_state=0)
    scores = [
        cross_val_score(LogisticRegression(C=c, max_iter=1000), clear, labels, cv=folds).mean()
        for c in STRENGTHS
    ]
    assert head.strength == STRENGTHS[int(np.argmax(scores))]
    assert len(set(scores)) > 2


def test_logistic_needs_two_classes() -> None:
    one = replace(blobs(30, 0), labels=np.zeros(30, np.int64))
    with pytest.raises(InputError, match="at least 2 classes"):
        LogisticHead(3, 8).fit(one, one, unheard)


# -- multimodal --------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["gated", "dynamic"])
def test_a_fusion_of_nothing_is_refused(fusion: str) -> None:
    settings = replace(SETTINGS, fusion=fusion)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f'"{fusion}" joins .* there is none'):
        make_head("multimodal", TEXT, (8, 0), settings)


def test_without_side_information_concat_and_mlp_are_one() -> None:
    samples = blobs(60, 0)
    mlp, concat = (
        fitted(name, samples, samples, max_epochs=3).predict_proba(samples.images, samples.side)
        for name in ("mlp", "concat")
    )
    assert np.array_equal(mlp, concat)


@pytest.mark.parametrize("name", ["concat", "gated", "dynamic"])
def test_the_unit_of_a_side_column_changes_nothing(name: str) -> None:
    samples = with_noise_beside(blobs(60, 0))
    unit = np.array([4, 2, 1, 4], np.float32)  # powers of 2: no rounding
    other = replace(samples, side=samples.side * unit)
    one, two = (
        fitted(name, s, s, max_epochs=3).predict_proba(s.images, s.side) for s in (samples, other)
    )
    assert two == pytest.approx(one, abs=0.02)


def test_the_mlp_does_not_look_at_side_information() -> None:
    samples = blobs(60, 0)
    beside = with_noise_beside(samples)
    alone = fitted("mlp", samples, samples, max_epochs=3)
    other = fitted("mlp", beside, beside, max_epochs=3)
    expected = alone.predict_proba(samples.images, samples.side)
    assert np.array_equal(other.predict_proba(beside.images, beside.side), expected)


def test_what_the_optimiser_imports_is_no_part_of_the_first_heads_seconds() -> None:
    code = (
        "import sys, torch\n"
        "from pipeline.training.heads.registry import make_head\n"
        "from tests.heads import SETTINGS, TEXT\n"
        "make_head('mlp', TEXT, (8, 0), SETTINGS)\n"
        "before = set(sys.modules)\n"
        "torch.optim.AdamW(torch.nn.Linear(2, 2).parameters())\n"
        "print(len(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "0", done.stderr
