"""Training on the demo store: what is compared with what, what is saved, and what it answers."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import recall_score

from flows import stages, training
from pipeline.arrays import Floats
from pipeline.clip.encoder import Encoder
from pipeline.clip.protocol import ImageEncoder
from pipeline.config import Config
from pipeline.errors import InputError, StoreError
from pipeline.labels.answers import Given, record_answers
from pipeline.labels.audit import draw_sample
from pipeline.labels.findings import find
from pipeline.labels.labelling import current_labels, current_table
from pipeline.labels.truth import read_truth
from pipeline.opening import open_store
from pipeline.store import Store
from pipeline.training.models import load_head
from pipeline.training.predict import predict_vectors
from pipeline.training.train import TrainSummary
from pipeline.vectors import iterate_vectors
from tests.conftest import DATA, demo_config

Trained = tuple[Config, Store, TrainSummary]
TRUTH = {"truth": str(DATA / "images")}
BRIEF = {"max_epochs": 3, "hidden": 8}


@pytest.fixture(scope="module")
def trained(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A copy of the demo store, with three heads trained and a truth to compare with."""
    copy = tmp_path_factory.mktemp("trained") / "store"
    shutil.copytree(demo_store, copy)
    config = demo_config(copy, select=TRUTH, train={"heads": "linear,logistic,mlp", **BRIEF})
    stages.select(config)
    return config, open_store(str(copy)), training.train(config)


def test_methods_are_compared_on_the_test_split_by_the_truth(trained: Trained) -> None:
    _, store, summary = trained
    run = current_labels(store)
    truth = read_truth(store, TRUTH["truth"], run.label_set).labels
    sides = dict(store.read("selections/default", ["image_id", "split"]).iter_rows())
    rows = store.read(run.table, ["image_id", "naive_label"])
    said = {i: label for i, label in rows.iter_rows() if sides[i] == "test"}
    lines = {line.method: line for line in summary.comparison}
    assert list(lines) == ["zero-shot labels", "refined labels", "linear", "logistic", "mlp"]
    right = [truth[image_id] for image_id in said]
    assert (summary.measured_by, summary.measured_on) == ("truth", len(said))
    zero_shot = lines["zero-shot labels"]
    assert zero_shot.accuracy == pytest.approx(np.mean(np.array(list(said.values())) == right))
    recall = recall_score(right, list(said.values()), average="macro", labels=sorted(set(right)))
    assert zero_shot.macro_recall == pytest.approx(recall)
    assert zero_shot.seconds is None
    assert lines["linear"].seconds is not None


def test_no_head_sees_an_image_of_the_test_split(trained: Trained) -> None:
    _, store, summary = trained
    rows = store.read("selections/default", ["split", "kept"])
    assert not rows.filter(split="test")["kept"].any()
    kept = rows.filter("kept")
    assert (summary.train, summary.valid) == (
        len(kept.filter(split="train")),
        len(kept.filter(split="valid")),
    )


def test_the_most_accurate_head_is_saved_and_answers_as_it_did(trained: Trained) -> None:
    _, store, summary = trained
    lines = {line.method: line.accuracy or 0.0 for line in summary.comparison}
    best = max(("linear", "logistic", "mlp"), key=lambda kind: lines[kind])
    assert summary.kind == best
    saved = load_head(store)
    assert saved.head.kind == best
    _, ids, vectors = next(iterate_vectors(store))
    images = pl.DataFrame({"image_id": ids, "path": [""] * len(ids)})
    answers = predict_vectors(store, saved, vectors.astype(np.float32), images, _no_encoder)
    truth = read_truth(store, TRUTH["truth"], current_labels(store).label_set).labels
    sides = dict(store.read("selections/default", ["image_id", "split"]).iter_rows())
    said = zip(ids, np.array(saved.classes)[answers.argmax(axis=1)], strict=True)
    right = [truth[i] == label for i, label in said if sides[i] == "test"]
    assert np.mean(right) == pytest.approx(lines[best])


def test_what_a_head_was_made_of_is_written_beside_it(trained: Trained) -> None:
    _, store, summary = trained
    about = json.loads((Path(store.location) / summary.head).read_text())
    assert about["encoder"]["weights"] == store.identity().weights  # type: ignore[union-attr]
    assert about["classes"] == current_labels(store).label_set.names
    assert [line["method"] for line in about["comparison"]][:2] == [
        "zero-shot labels",
        "refined labels",
    ]
    assert about["recipe"]["settings"]["seed"] == 0
    assert (Path(store.location) / "models/head/losses.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_truth_agreement_is_told_and_the_preferred_head_is_saved(
    demo_store: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(demo_store, tmp_path / "store")
    config = demo_config(copy, train={"heads": "mlp,linear", **BRIEF})
    summary = training.train(config)
    assert summary.measured_by == "agreement"
    assert summary.measured_on == summary.valid
    assert summary.kind == "mlp"
    assert "nothing tells" in summary.chosen
    assert [line.method for line in summary.comparison] == ["zero-shot labels", "mlp", "linear"]


def test_the_heads_labels_are_a_label_run_of_their_own(trained: Trained) -> None:
    config, store, summary = trained
    before = current_table(store)
    written = training.predict(config, use=False)
    assert written.labelled == 242
    assert current_table(store) == before
    assert training.predict(config, use=False).labelled == 0  # nothing is computed twice
    rows = store.read(written.table)
    run = json.loads((Path(store.location) / written.table / "run.json").read_text())
    assert run["asked"]["source"] == f"head:{summary.kind}"
    naive = store.read(str(before), ["image_id", "naive_label"])
    both = rows.join(naive, on="image_id", suffix="_before")
    assert both["naive_label"].equals(both["naive_label_before"])
    assert (both["flipped"] == (both["naive_label"] != both["topk_labels"].list.first())).all()


def test_the_heads_labels_can_be_put_in_force_selected_and_left_again(
    trained: Trained, tmp_path: Path
) -> None:
    config, store, _ = trained
    copy = shutil.copytree(store.location, tmp_path / "store")
    there = config.model_copy(update={"store": str(copy)})
    written = training.predict(there, use=True)
    opened = open_store(str(copy))
    assert current_table(opened) == written.table
    kept = stages.select(there).kept
    assert kept > 100
    assert stages.label(there).table != written.table  # the next run asks what its config asks
    assert current_table(opened) != written.table


def test_predicting_asks_for_the_labels_of_the_head_whatever_the_config_names(
    trained: Trained,
) -> None:
    config, _, _ = trained
    gone = config.labels.model_copy(update={"label_set": "gone.toml"})
    written = training.predict(config.model_copy(update={"labels": gone}), use=False)
    assert written == training.predict(config, use=False)


def test_labels_of_a_head_say_which_answers_it_has_learnt_from(
    demo_store: Path, tmp_path: Path
) -> None:
    config = demo_config(shutil.copytree(demo_store, tmp_path / "store"))
    store, now = open_store(config.store), datetime(2030, 1, 1, tzinfo=UTC)
    classes = current_labels(store).label_set
    drawn = draw_sample(store, size=30, seed=0, now=now).images
    given = [Given(i, "label", label) for i, label in drawn["image_id", "label_shown"].iter_rows()]
    record_answers(store, classes, given, by="me", now=now)
    training.train(config)
    assert find(store).answers == 30
    training.predict(config, use=True)
    found = find(store)
    assert (found.answers, found.learnt, found.accuracy) == (0, 30, None)


def test_a_head_without_epochs_leaves_no_picture_of_another_ones(
    trained: Trained, tmp_path: Path
) -> None:
    copy = shutil.copytree(trained[1].location, tmp_path / "store")
    assert (copy / "models/head/losses.png").exists()
    training.train(demo_config(copy, train={"heads": "logistic"}))
    assert not (copy / "models/head/losses.png").exists()


def test_training_again_gives_the_same_head(trained: Trained) -> None:
    config, store, _ = trained
    [before] = (Path(store.location) / "models/head").glob("*.safetensors")
    content = before.read_bytes()
    training.train(config)
    [after] = (Path(store.location) / "models/head").glob("*.safetensors")
    assert (after.name, after.read_bytes()) == (before.name, content)


def test_side_text_is_embedded_once_and_used(
    demo_store: Path, tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(demo_store, tmp_path / "store")
    captions = tmp_path / "captions.csv"
    captions.write_text("path,text\ncat-01.jpg,a cat on a sofa\ndog-01.jpg,snow\n")
    calls: list[list[str]] = []

    class Counting:
        identity = tiny.identity

        def encode_texts(self, texts: list[str]) -> Floats:
            calls.append(texts)
            return tiny.encode_texts(texts)

    monkeypatch.setattr("flows.resources.encoder", lambda _: Counting())
    config = demo_config(copy, train={"side_text": str(captions), **BRIEF})
    for _ in range(2):
        summary = training.train(config)
    assert calls == [["a on a sofa", "snow"]]  # "cat" would have given the label away
    methods = [line.method for line in summary.comparison]
    assert methods[1:] == ["multimodal", "linear", "image-only (mlp)", "side-only (mlp)"]
    assert summary.kind == "multimodal"  # what side information is given for
    written = training.predict(config, use=False)
    assert written.labelled == 242


def test_a_selection_of_one_class_cannot_be_trained_on(demo_store: Path, tmp_path: Path) -> None:
    shutil.copytree(demo_store, tmp_path / "store")
    config = demo_config(tmp_path / "store", select={"min_confidence": 1.0})
    stages.select(config)
    with pytest.raises(InputError, match=r"cannot train: .* 0 images of 0 classes"):
        training.train(config)


def test_a_selection_of_other_labels_than_those_in_force_is_not_trained_on(
    demo_store: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(demo_store, tmp_path / "store")
    stages.label(demo_config(copy, labels={"label_set": "a cat,a dog,a tree"}))
    config = demo_config(copy, train={"heads": "linear"})
    for use in (training.train, lambda c: training.self_train(c, use=False)):
        with pytest.raises(InputError, match=r"of other labels .* `pseudolabel select`"):
            use(config)
    stages.select(config)
    assert training.train(config).classes == 3


def test_a_damaged_or_missing_head_is_told(
    trained: Trained, demo_store: Path, tmp_path: Path
) -> None:
    store = open_store(str(shutil.copytree(trained[1].location, tmp_path / "store")))
    [weights] = (Path(store.location) / "models/head").glob("*.safetensors")
    weights.write_bytes(b"no weights")
    with pytest.raises(StoreError, match=r"\.safetensors is damaged .*checksum"):
        load_head(store)
    shutil.rmtree(Path(store.location) / "models")
    with pytest.raises(InputError, match="no trained head yet"):
        load_head(store)


def _no_encoder() -> ImageEncoder:
    raise AssertionError("no text is embedded without side text")
