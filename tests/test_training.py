"""Training on the demo store."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows import stages
from pipeline.arrays import Floats
from pipeline.clip.encoder import Encoder
from pipeline.clip.protocol import ImageEncoder
from pipeline.errors import InputError, StoreError
from pipeline.labels.labelling import current_labels
from pipeline.labels.truth import read_truth
from pipeline.opening import open_store
from pipeline.store import Store
from pipeline.training.models import load_head
from pipeline.training.predict import predict_store, predict_vectors
from pipeline.training.train import TrainSummary, train
from pipeline.vectors import iterate_vectors
from tests.conftest import DATA, demo_config
from tests.heads import SETTINGS

Trained = tuple[Store, TrainSummary]


@pytest.fixture(scope="module")
def trained(
    demo_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, TrainSummary]:
    """A copy of the demo store, trained with a truth to compare with."""
    copy = tmp_path_factory.mktemp("trained") / "store"
    shutil.copytree(demo_store, copy)
    config = demo_config(copy, select={"truth": str(DATA / "images")})
    stages.select(config)
    summary = stages.train(config)
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
    rows = store.read("selections/default", ["kept", "split"])
    assert summary.train == len(rows.filter("kept", split="train"))
    assert summary.valid == len(rows.filter("kept", split="valid"))
    assert summary.truth_unseen == len(rows.filter(split="test")) > 20
    mlp = lines["MLP"].accuracy
    assert mlp is not None
    assert mlp > 0.9


def test_a_saved_head_answers_as_it_did(trained: Trained) -> None:
    store, summary = trained
    saved = load_head(store)
    _, ids, vectors = next(iterate_vectors(store))
    answers = predict_vectors(
        store, saved, vectors.astype(np.float32), [""] * len(ids), _no_encoder
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
    stages.train(demo_config(Path(store.location)))
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
        train(store, settings=SETTINGS, side_text=str(captions), encoder=counting)
    assert calls == [["a on a sofa", "snow"]]  # "cat" would have given the label away
    assert load_head(store).sizes == (128, 128)


def test_a_selection_of_one_class_cannot_be_trained_on(demo_store: Path, tmp_path: Path) -> None:
    shutil.copytree(demo_store, tmp_path / "store")
    config = demo_config(tmp_path / "store", select={"min_confidence": 1.0})
    stages.select(config)
    with pytest.raises(InputError, match=r"cannot train: .* 0 images of 0 classes"):
        stages.train(config)


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
