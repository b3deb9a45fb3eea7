"""The service follows its store: new drops, other labels; and it outlives damage."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from flows.api.app import create_app
from flows.api.service import load_service
from flows.drop import Options
from flows.relabel import relabel_store
from flows.runners import PlainTasks
from pipeline.config import Config
from pipeline.opening import open_store
from pipeline.reports.status import status
from tests.conftest import DATA, demo_config, run_plain

ANIMALS = [DATA / f"images/animals/dog/dog-0{n}.jpg" for n in range(1, 4)]
NEW = DATA / "images/vehicles/truck/truck-01.jpg"
SOON = {"follow_seconds": 3600}  # the tests look themselves


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    tmp_path = tmp_path_factory.mktemp("followed")
    photos = tmp_path / "photos"
    photos.mkdir()
    for image in ANIMALS:
        shutil.copy(image, photos)
    config = demo_config(
        tmp_path / "store", sources=[str(photos)], train={"every_run": False}, api=SOON
    )
    run_plain(config)
    return config


@pytest.fixture(scope="module")
def client(config: Config) -> Iterator[TestClient]:
    app = create_app(load_service(config))
    with TestClient(app, "http://127.0.0.1") as client:
        yield client


def look(client: TestClient) -> str | None:
    """Have the service look at its store now; return its problem."""
    client.app.state.service.follower.look()  # type: ignore[attr-defined]
    problem: str | None = client.get("/health").json()["problem"]
    return problem


def names(client: TestClient) -> set[str]:
    hits = client.get("/search", params={"text": "a truck", "k": 50}).json()["hits"]
    return {Path(hit["path"]).name for hit in hits}


def test_a_new_drop_and_a_file_that_went_are_followed_though_a_file_is_damaged_meanwhile(
    config: Config, client: TestClient
) -> None:
    photos, before = Path(config.sources[0]), client.get("/health").json()["snapshot"]
    assert look(client) is None
    assert client.get("/health").json()["snapshot"] == before  # nothing changed: nothing was read
    shutil.copy(NEW, photos)
    (photos / ANIMALS[0].name).unlink()
    run_plain(config)
    pointer = Path(config.store) / "index/current.json"
    whole = pointer.read_bytes()
    pointer.write_bytes(b"\x00random")
    assert "damaged" in (look(client) or "")
    assert client.get("/health").json()["status"] == "stale"
    assert names(client) == {image.name for image in ANIMALS}  # the last snapshot answers
    pointer.write_bytes(whole)
    assert look(client) is None
    assert names(client) == {NEW.name, *(image.name for image in ANIMALS[1:])}
    hits = client.get("/search", params={"text": "a truck", "k": 1}).json()["hits"]
    assert client.get(f"/thumbnails/{hits[0]['image_id']}").status_code == 200
    assert client.get("/health").json()["snapshot"] > before


def test_other_labels_are_followed(config: Config, client: TestClient) -> None:
    assert "dog" in {each["label"] for each in client.get("/labels").json()["labels"]}
    labels = config.labels.model_copy(update={"label_set": "a dog,a pear"})
    relabel_store(config.model_copy(update={"labels": labels}), PlainTasks(), Options(), True)
    assert look(client) is None
    told = client.get("/labels").json()
    counted = {each["label"]: each["images"] for each in told["labels"]}
    assert set(counted) == {"a dog", "a pear"}
    found = status(open_store(config.store)).labels
    assert {label: images for label, images in counted.items() if images} == found
    upload = [("images", ("d.jpg", ANIMALS[0].read_bytes()))]
    [answer] = client.post("/classify", files=upload).json()
    assert answer["label"] == "a dog"


def test_a_store_that_went_or_is_of_another_model_is_not_followed(
    config: Config, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, store = names(client), Path(config.store)
    store.rename(store.with_name("away"))
    assert "no store here" in (look(client) or "")
    assert names(client) == before
    store.with_name("away").rename(store)
    service = client.app.state.service  # type: ignore[attr-defined]
    other = dataclasses.replace(service.encoder.identity, weights="0" * 32)
    monkeypatch.setattr(service.encoder, "identity", other)
    assert "of two encoders cannot be compared" in (look(client) or "")
    monkeypatch.undo()
    assert look(client) is None
    assert names(client) == before


def test_a_fault_while_following_is_no_end_of_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = client.app.state.service.follower  # type: ignore[attr-defined]
    monkeypatch.setattr(follower.now.searcher, "is_current", lambda: 1 / 0)
    assert look(client) == "ZeroDivisionError: division by zero"
    assert look(client) is None  # after a problem it opens anew, whatever is said
