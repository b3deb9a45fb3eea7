"""Calibration against scikit-learn, by hand, and on answers that are all alike."""

import json
import math

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from pipeline.arrays import Bools, Doubles, Floats
from pipeline.labels.calibration import (
    Calibration,
    calibration_error,
    fit,
    fit_isotonic,
    fit_platt,
    from_json,
)


def answers(n: int, seed: int = 0) -> tuple[Floats, Bools, Doubles]:
    """Answers that are right with the probability score**2, and weights."""
    chance = np.random.default_rng(seed)
    scores = chance.uniform(0.05, 0.999, n).astype(np.float32)
    return scores, chance.random(n) < scores**2, chance.uniform(0.5, 2, n)


GRID = np.linspace(0, 1, 1001, dtype=np.float32)


def test_platt_is_the_logistic_regression_of_the_smoothed_targets() -> None:
    scores, right, weights = answers(300)
    share = weights / weights.mean()
    up = (share[right].sum() + 1) / (share[right].sum() + 2)
    down = 1 / (share[~right].sum() + 2)
    target = np.where(right, up, down)
    logits = np.log(scores / (1 - scores.astype(np.float64)))[:, None]
    # A target of 0.9 is nine tenths of a right answer and one tenth of a wrong one.
    theirs = LogisticRegression(C=1e12, tol=1e-12, max_iter=10_000).fit(
        np.concatenate([logits, logits]),
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([share * target, share * (1 - target)]),
    )
    ours = fit_platt(scores, right, weights)
    assert ours.slope == pytest.approx(theirs.coef_[0, 0], rel=1e-4)
    assert ours.intercept == pytest.approx(theirs.intercept_[0], rel=1e-4)
    expected = 0.999 * theirs.predict_proba(logits)[:, 1] + 0.001 * scores
    assert ours(scores) == pytest.approx(expected, abs=1e-5)


def test_isotonic_is_scikit_learns_but_for_a_touch_of_the_score() -> None:
    scores, right, weights = answers(300)
    steps = IsotonicRegression(y_min=1 / 302, y_max=301 / 302, out_of_bounds="clip")
    steps.fit(scores, right, sample_weight=weights)
    expected = 0.999 * steps.predict(GRID) + 0.001 * GRID
    assert fit_isotonic(scores, right, weights)(GRID) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("fitter", [fit_platt, fit_isotonic])
@pytest.mark.parametrize("kind", ["mixed", "all right", "all wrong", "upside down", "separated"])
def test_confidence_rises_everywhere_and_promises_nothing(fitter, kind) -> None:  # type: ignore[no-untyped-def]
    scores, right, weights = answers(60)
    right = {
        "mixed": right,
        "all right": np.ones(60, bool),
        "all wrong": np.zeros(60, bool),
        "upside down": scores < 0.5,
        "separated": scores > 0.5,
    }[kind]
    found = fitter(scores, right, weights)(GRID)
    assert (np.diff(found) > 0).all()
    assert 0 < found.min() <= found.max() < 1


def test_all_right_is_what_platts_targets_say() -> None:
    scores, _, weights = answers(58)
    found = fit_platt(scores, np.ones(58, bool), weights)
    assert found.slope == pytest.approx(0, abs=1e-9)
    assert found(scores) == pytest.approx(np.full(58, 59 / 60), abs=0.002)


def test_steps_are_chosen_for_steps_and_a_sigmoid_for_a_sigmoid_and_for_few() -> None:
    scores = np.random.default_rng(0).uniform(0.01, 0.99, 2000).astype(np.float32)
    chance = np.random.default_rng(1).random(2000)
    even = np.ones(2000)
    level = np.where(scores < 0.5, 0.3, np.where(scores < 0.55, 0.95, 0.96))
    assert fit(scores, chance < level, even).calibration.method == "isotonic"
    sigmoid = fit(scores, chance < scores, even)
    assert sigmoid.calibration.method == "platt"
    assert sigmoid.isotonic_loss is not None
    few = fit(scores[:99], (chance < level)[:99], even[:99])
    assert (few.calibration.method, few.isotonic_loss) == ("platt", None)


def test_held_out_confidences_do_not_know_their_own_answers() -> None:
    """One answer turned round changes the confidences of others, and not its own."""
    scores, right, weights = answers(99)
    turned = right.copy()
    turned[7] = not turned[7]
    before, after = (fit(scores, said, weights).held_out for said in (right, turned))
    assert before[7] == after[7]
    assert (before != after).sum() >= 80


def test_platt_undoes_what_was_done_to_honest_scores() -> None:
    """Scores whose logits were doubled are overconfident: the slope must be a half again."""
    chance = np.random.default_rng(3)
    honest = chance.uniform(0.02, 0.98, 20_000)
    scores = (honest**2 / (honest**2 + (1 - honest) ** 2)).astype(np.float32)
    right = chance.random(20_000) < honest
    found = fit(scores, right, np.ones(20_000)).calibration
    assert found.slope == pytest.approx(0.5, abs=0.02)
    assert found.intercept == pytest.approx(0, abs=0.04)


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.9, 0.2, 0.6, 0.8], np.float32)
    right = np.array([True, False, False, True])
    weights = np.array([1.0, 1.0, 2.0, 1.0])
    # Two bins: (0.2 w, 0.6 w of weight 2) and (0.8 r, 0.9 r).
    found, chance = calibration_error(confidence, right, weights, bins=2)
    assert found == pytest.approx(((0.2 + 2 * 0.6) + (0.2 + 0.1)) / 5)
    low, high = 0.2 * 0.8 + 4 * 0.6 * 0.4, 0.8 * 0.2 + 0.9 * 0.1
    assert chance == pytest.approx(math.sqrt(2 / math.pi) * (low**0.5 + high**0.5) / 5)


def test_json_keeps_every_digit() -> None:
    scores, right, weights = answers(200)
    for fitter in (fit_platt, fit_isotonic):
        held = fitter(scores, right, weights)
        assert from_json(json.loads(json.dumps(held.as_json()))) == held


def test_what_is_not_a_number_does_not_pass() -> None:
    scores, right, weights = answers(30)
    scores[4] = np.nan
    for ask in (lambda: Calibration(1, 0)(scores), lambda: fit(scores, right, weights)):
        with pytest.raises(ValueError, match="not a number"):
            ask()
    with pytest.raises(ValueError, match="at least 2 answers"):
        fit(scores[:1], right[:1], weights[:1])
