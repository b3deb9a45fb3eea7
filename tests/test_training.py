"""Heads on data whose answer is known, and training on the demo store."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from flows import stages
from pipeline.arrays import Floats, unit_rows
from pipeline.clip.encoder import Encoder
from pipeline.clip.protocol import ImageEncoder
from pipeline.errors import InputError, StoreError
from pipeline.labels.labelling import current_labels
from pipeline.labels.truth import read_truth
from pipeline.opening import open_store
from pipeline.store import Store
from pipeline.training.heads.mlp import MlpSettings, MultimodalMLP, fit_logistic, fit_mlp
from pipeline.training.models import load_head
from pipeline.training.predict import predict_store, predict_vectors
from pipeline.training.samples import Samples
from pipeline.training.side.settings import SideSettings
from pipeline.training.train import TrainSummary, train
from pipeline.vectors import iterate_vectors
from tests.conftest import DATA, demo_config

Trained = tuple[Store, TrainSummary]
SETTINGS = MlpSettings(
    hidden=32,
    dropout=0.0,
    label_smoothing=0.0,
    learning_rate=1e-2,
    weight_decay=0.0,
    batch_size=32,
    max_epochs=60,
    patience=60,
    seed=0,
)


def blobs(n: int, seed: int, side: bool = False) -> Samples:
    """Make 3 separable classes in 8 dimensions; with `side`, only the side vectors tell."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    clues = unit_rows(np.eye(8)[labels] + rng.normal(size=(n, 8)) * 0.05)
    noise = unit_rows(rng.normal(size=(n, 8)))
    nothing = np.empty((n, 0), np.float32)
    images, side_vectors = (noise, clues) if side else (clues, nothing)
    return Samples(images, side_vectors, labels, np.ones(n, np.float32))


def accuracy(head: MultimodalMLP, samples: Samples) -> float:
    answers = head.predict_proba(samples.images, samples.side).argmax(axis=1)
    return float((answers == samples.labels).mean())


def test_separable_classes_are_learnt_whole() -> None:
    fitted = fit_mlp(blobs(120, 0), blobs(30, 1), classes=3, settings=SETTINGS)
    assert accuracy(fitted.head, blobs(300, 2)) == 1.0


def test_the_side_vectors_are_used_when_only_they_tell() -> None:
    fitted = fit_mlp(
        blobs(120, 0, side=True), blobs(30, 1, side=True), classes=3, settings=SETTINGS
    )
    assert accuracy(fitted.head, blobs(300, 2, side=True)) == 1.0
    unseen = blobs(300, 2, side=True)
    assert accuracy(fitted.head, replace(unseen, side=np.zeros_like(unseen.side))) < 0.6


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    heads = [
        fit_mlp(blobs(60, 0), blobs(15, 1), classes=3, settings=replace(SETTINGS, seed=seed)).head
        for seed in (0, 0, 1)
    ]
    first, again, other = (torch.cat([p.flatten() for p in h.parameters()]) for h in heads)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_fitting_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit_mlp(blobs(30, 0), blobs(9, 1), classes=3, settings=replace(SETTINGS, max_epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_fitting_stops_when_validation_gets_no_better_and_keeps_the_best() -> None:
    valid = blobs(30, 1)
    against = replace(valid, labels=(valid.labels + 1) % 3)  # the better it learns, the worse
    settings = replace(SETTINGS, patience=3)
    fitted = fit_mlp(blobs(120, 0), against, classes=3, settings=settings)
    losses = [epoch.valid_loss for epoch in fitted.epochs]
    assert fitted.best_epoch == int(np.argmin(losses))
    assert len(losses) == fitted.best_epoch + 1 + 3
    logits = fitted.head(torch.from_numpy(against.images), torch.from_numpy(against.side))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(against.labels))
    assert float(loss.detach()) == pytest.approx(min(losses), rel=1e-4)


def test_weights_decide_whom_to_believe() -> None:
    clean = blobs(60, 0)
    wrong = replace(clean, labels=(clean.labels + 1) % 3, weights=np.full(60, 1e-3, np.float32))
    both = Samples(
        *(
            np.concatenate([getattr(clean, name), getattr(wrong, name)])
            for name in ("images", "side", "labels", "weights")
        )
    )
    fitted = fit_mlp(both, blobs(30, 1), classes=3, settings=SETTINGS)
    assert accuracy(fitted.head, blobs(300, 2)) == 1.0


def test_a_training_that_diverges_is_told_and_saves_nothing() -> None:
    with pytest.raises(InputError, match="training diverged"):
        settings = replace(SETTINGS, learning_rate=1e30, max_epochs=5)
        fit_mlp(blobs(60, 0), blobs(15, 1), classes=3, settings=settings)


def test_the_logistic_baseline_is_scikit_learns_at_the_papers_strength() -> None:
    samples = blobs(90, 0)
    expected = LogisticRegression(C=0.316, max_iter=1000).fit(samples.images, samples.labels)
    assert fit_logistic(samples).coef_ == pytest.approx(expected.coef_, abs=1e-4)


@pytest.fixture(scope="module")
def trained(
    demo_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, TrainSummary]:
    """A copy of the demo store, trained with a truth to compare with."""
    copy = tmp_path_factory.mktemp("trained") / "store"
    shutil.copytree(demo_store, copy)
    summary = stages.train(demo_config(copy), str(DATA / "images"))
    return open_store(str(copy)), summary


def test_the_comparison_counts_what_a_direct_count_gives(
    trained: Trained,
) -> None:
    store, summary = trained
    run = current_labels(store)
    truth = read_truth(store, str(DATA / "images"), run.label_set)
    rows = store.read(run.table, ["image_id", "topk_labels"])
    right = [truth.labels[i] == top[0] for i, top in rows.iter_rows()]
    lines = {line.method: line for line in summary.comparison}
    assert list(lines) == ["zero-shot labels", "logistic regression", "MLP"]
    assert lines["zero-shot labels"].accuracy == pytest.approx(np.mean(right))
    assert lines["zero-shot labels"].agreement is None
    assert summary.truth == 242
    kept = store.read("selections/default", ["kept"])["kept"].sum()
    assert (summary.train + summary.valid, summary.truth_unseen) == (kept, 242 - kept)
    mlp = lines["MLP"].accuracy
    assert mlp is not None
    assert mlp > 0.9


def test_a_saved_head_answers_as_it_did(trained: Trained) -> None:
    store, summary = trained
    saved = load_head(store)
    _, ids, vectors = next(iterate_vectors(store))
    answers = predict_vectors(
        store,
        saved,
        vectors.astype(np.float32),
        pl.DataFrame({"image_id": ids, "path": [""] * len(ids)}),
        _no_encoder,
    )
    truth = read_truth(store, str(DATA / "images"), current_labels(store).label_set)
    said = np.array(saved.classes)[answers.argmax(axis=1)]
    accuracy = np.mean([truth.labels[i] == label for i, label in zip(ids, said, strict=True)])
    assert accuracy == pytest.approx(summary.comparison[-1].accuracy)
    about = json.loads((Path(store.location) / summary.head).read_text())
    assert about["encoder"]["weights"] == store.identity().weights  # type: ignore[union-attr]
    assert len(about["losses"]) == summary.epochs


def test_predictions_are_written_once_per_head(trained: Trained) -> None:
    store, _ = trained
    assert predict_store(store, top_k=3, encoder=_no_encoder).predicted == 242
    assert predict_store(store, top_k=3, encoder=_no_encoder).predicted == 0
    [part] = (Path(store.location) / "predictions/mlp").iterdir()
    table = pq.read_table(part)
    assert table["topk_scores"].combine_chunks().value_lengths().unique().to_pylist() == [3]
    assert predict_store(store, top_k=2, encoder=_no_encoder).predicted == 242


def test_training_again_gives_the_same_head(trained: Trained) -> None:
    store, _ = trained
    [before] = (Path(store.location) / "models/mlp").glob("*.safetensors")
    content = before.read_bytes()
    stages.train(demo_config(Path(store.location)), None)
    [after] = (Path(store.location) / "models/mlp").glob("*.safetensors")
    assert (after.name, after.read_bytes()) == (before.name, content)


def test_side_text_of_captions_is_embedded_once_and_used(
    trained: Trained, tiny: Encoder, tmp_path: Path
) -> None:
    store = open_store(str(shutil.copytree(Path(trained[0].location), tmp_path / "store")))
    captions = tmp_path / "captions.csv"
    captions.write_text("path,text\ncat-01.jpg,a cat on a sofa\ndog-01.jpg,snow\n")
    calls: list[list[str]] = []

    class Counting:
        identity = tiny.identity

        def encode_texts(self, texts: list[str]) -> Floats:
            calls.append(texts)
            return tiny.encode_texts(texts)

    def counting() -> ImageEncoder:
        return Counting()  # type: ignore[return-value]

    for _ in range(2):
        side = SideSettings(str(captions))
        train(store, settings=SETTINGS, side=side, encoder=counting)
    assert calls == [["a on a sofa", "snow"]]  # "cat" would have given the label away
    assert load_head(store).head.sizes == {"image": 128, "side": 128, "hidden": 32}


def test_a_selection_of_one_class_cannot_be_trained_on(demo_store: Path, tmp_path: Path) -> None:
    shutil.copytree(demo_store, tmp_path / "store")
    config = demo_config(tmp_path / "store", select={"min_confidence": 1.0})
    stages.select(config)
    with pytest.raises(InputError, match=r"cannot train: .* 0 images of 0 classes"):
        stages.train(config, None)


def test_a_damaged_or_missing_head_is_told(trained: Trained, tmp_path: Path) -> None:
    store = open_store(str(shutil.copytree(Path(trained[0].location), tmp_path / "store")))
    [weights] = (Path(store.location) / "models/mlp").glob("*.safetensors")
    weights.write_bytes(b"no weights")
    with pytest.raises(StoreError, match=r"head-\w+\.safetensors is damaged .*checksum"):
        load_head(store)
    shutil.rmtree(Path(store.location) / "models")
    with pytest.raises(InputError, match="no trained head yet"):
        load_head(store)


def _no_encoder() -> ImageEncoder:
    raise AssertionError("no text is embedded without side text")
