"""The routes of the service, held against what the library and the command line say themselves."""

import asyncio
import dataclasses
import json
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from flows.api.app import create_app
from flows.api.service import Service, load_service
from flows.cli import app as command_line
from pipeline.errors import InputError
from pipeline.opening import open_store
from pipeline.reports.status import status
from pipeline.search.queries import Filters, Term
from pipeline.search.searcher import Searcher
from tests.conftest import DATA, TINY, demo_config

if TYPE_CHECKING:
    from httpx2 import Response

    from pipeline.clip.encoder import Encoder

KIWI = DATA / "images/food/kiwi/kiwi-01.jpg"
NOBODY = "0" * 32
KNOBS = {"port": 0, "max_upload_mb": 0.5, "max_files": 3, "max_pixels": 1_000_000, "thumbnail": 128}


@pytest.fixture(scope="module")
def service(demo_store: Path) -> Service:
    return load_service(demo_config(demo_store, api=KNOBS))


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    app = create_app(service)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def searcher(demo_store: Path) -> Searcher:
    return Searcher.open(open_store(str(demo_store)))


def same(answer: "Response", expected: pl.DataFrame) -> None:
    assert answer.status_code == 200, answer.text
    got = pl.DataFrame(answer.json()["hits"], schema=expected.schema)
    assert got["image_id"].to_list() == expected["image_id"].to_list()
    for name in ("image_cosine", "text_cosine", "standing", "score"):
        assert got[name].is_null().to_list() == expected[name].is_null().to_list()
        np.testing.assert_allclose(got[name].fill_null(0), expected[name].fill_null(0), atol=1e-5)


def text_term(tiny: "Encoder", text: str, weight: float = 1.0) -> Term:
    return Term(tiny.encode_texts([text])[0], "text", weight)


def picture(width: int, height: int, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), "red").save(file, kind)
    return file.getvalue()


FORM, LAST = "multipart/form-data; boundary=x", b"\r\n--x--\r\n"


def form(kind: str, image: bytes, end: bytes) -> dict[str, Any]:
    """Return a request of a text and an image, spelt out."""
    name = b'Content-Disposition: form-data; name="%s"'
    query = b"--x\r\n" + name % b"query" + b'\r\n\r\n{"texts": ["a dog"]}\r\n'
    file = b"--x\r\n" + name % b"images" + b'; filename="a.jpg"\r\n\r\n' + image
    return {"content": query + file + end, "headers": {"content-type": kind}}


def some_id(searcher: Searcher, tiny: "Encoder", text: str = "a photo of a kiwi.") -> str:
    return str(searcher.find([text_term(tiny, text)], 1)["image_id"][0])


# -- search --------------------------------------------------------------------------------------


def test_words_find_what_the_library_finds(
    client: TestClient, searcher: Searcher, tiny: "Encoder"
) -> None:
    terms = [text_term(tiny, "a photo of a dog.")]
    same(client.get("/search", params={"text": "a photo of a dog."}), searcher.find(terms, 10))
    kiwis = searcher.find(terms, 3, Filters(labels=("kiwi", "pear"), min_confidence=0.5))
    params: dict[str, Any] = {
        "text": "a photo of a dog.",
        "k": 3,
        "label": ["kiwi", "pear"],
        "min_confidence": 0.5,
    }
    same(client.get("/search", params=params), kiwis)
    filters = {"labels": ["kiwi", "pear"], "min_confidence": 0.5}
    body = {"texts": ["a photo of a dog."], "k": 3, "filters": filters}
    same(client.post("/search", json=body), kiwis)


def test_several_terms_weights_and_negatives(
    client: TestClient, searcher: Searcher, tiny: "Encoder"
) -> None:
    image_id = some_id(searcher, tiny)
    expected = searcher.find(
        [
            text_term(tiny, "a red fruit", 2.0),
            text_term(tiny, "a dog", -1.0),
            searcher.term(image_id, 0.5),
        ],
        7,
    )
    body = {
        "texts": [{"text": "a red fruit", "weight": 2}],
        "not_texts": ["a dog"],
        "ids": [{"id": image_id, "weight": 0.5}],
        "k": 7,
    }
    same(client.post("/search", json=body), expected)


def test_an_upload_finds_the_image_itself(client: TestClient) -> None:
    files = [("images", ("any name.jpg", KIWI.read_bytes()))]
    answer = client.post("/search", files=files, data={"query": json.dumps({"k": 2})})
    first, second = answer.json()["hits"]
    assert first["path"].endswith("kiwi-01.jpg")
    assert first["image_cosine"] == pytest.approx(1, abs=2e-3)
    assert first["text_cosine"] is None
    assert second["image_cosine"] < first["image_cosine"]


def test_images_have_weights_and_keep_away(client: TestClient) -> None:
    kiwi = KIWI.read_bytes()
    dog = (DATA / "images/animals/dog/dog-01.jpg").read_bytes()
    files = [("images", ("k.jpg", kiwi)), ("not_images", ("d.jpg", dog))]
    one = client.post("/search", files=files)
    files = [("images", ("k.jpg", kiwi)), ("images", ("d.jpg", dog))]
    query = json.dumps({"image_weights": [1, -1]})
    other = client.post("/search", files=files, data={"query": query})
    assert one.status_code == 200
    assert one.json()["hits"] == other.json()["hits"]


def test_all_fields_of_a_hit_are_documented(client: TestClient) -> None:
    [hit] = client.get("/search", params={"text": "a dog", "k": 1}).json()["hits"]
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert set(hit) == set(schemas["Hit"]["properties"])


BAD_SEARCHES: list[tuple[dict[str, Any], str]] = [
    ({"texts": ["a"], "k": 0}, "k: input should be greater than or equal to 1, got 0"),
    ({"texts": ["a"], "k": 10_001}, "k: input should be less than or equal to 10000"),
    ({"texts": ["a"], "k": 2.5}, "k: input should be a valid integer"),
    ({"texts": ["a"], "k": None}, "k: input should be a valid integer"),
    ({"texts": [], "ids": []}, "needs something to look for"),
    ({"texts": [""]}, "texts.0.text: string should have at least 1 character"),
    ({"texts": ["dog " * 400]}, "tokens, marks of start and end included, and the model reads"),
    ({"texts": [" "]}, "a text without a word"),
    ({"texts": ["d" * 2001]}, "at most 2000 characters"),
    ({"texts": ["a"] * 65}, "at most 64 items"),
    ({"texts": "a"}, "texts: input should be a valid"),
    ({"not_texts": ["a"]}, "of a weight above 0"),
    ({"texts": [{"text": "a", "weight": float("nan")}]}, "weight: input should be a finite number"),
    ({"texts": [{"text": "a", "weight": float("inf")}]}, "weight: input should be"),
    ({"texts": [{"text": "a", "weight": 0}]}, "must be a number, above 0 or below"),
    ({"texts": ["a"], "not_texts": ["a"]}, "cancel one another out"),
    ({"ids": ["../../etc/passwd"]}, "ids.0.id: string should match pattern"),
    ({"ids": [NOBODY]}, "knows no such image"),
    ({"texts": ["a"], "image_weights": [1]}, "image_weights: 1 weights for 0 images"),
    ({"texts": ["a"], "filters": {"labels": ["kiwy"]}}, "did you mean 'kiwi'?"),
    ({"texts": ["a"], "filters": {"min_confidence": 2}}, "filters.min_confidence"),
    ({"texts": ["a"], "filters": {"since": "2020-01-01T00:00:00"}}, "should have timezone"),
    ({"texts": ["a"], "filters": {"since": "2020"}}, "write a time, such as"),  # no 2020 seconds
    ({"texts": ["a"], "filters": {"until": 2020}}, "write a time, such as"),
    ({"texts": ["a"], "nothing": 1}, "nothing: extra inputs are not permitted"),
]


@pytest.mark.parametrize(("body", "says"), BAD_SEARCHES)
def test_a_bad_search_is_told_what_is_wrong(
    client: TestClient, body: dict[str, Any], says: str
) -> None:
    headers = {"content-type": "application/json"}
    answer = client.post("/search", content=json.dumps(body), headers=headers)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        ({"content": "{", "headers": {"content-type": "application/json"}}, 400, "invalid JSON"),
        ({"content": "x", "headers": {"content-type": "text/plain"}}, 415, "application/json"),
        ({"content": "x"}, 415, "(none)"),
        ({"content": "x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        ({"files": [("image", ("a.jpg", b"x"))]}, 422, "'image': there is no such field"),
        ({"files": [("images", ("a.jpg", b"no image"))]}, 422, "'a.jpg': not an image, or of"),
        ({"files": [("images", ("a.jpg", b""))]}, 422, "empty file"),
        ({"files": [("images", ("a.jpg", KIWI.read_bytes()[:900]))]}, 422, "'a.jpg': "),
        ({"files": [("images", (f"{n}.jpg", b"x")) for n in range(4)]}, 400, "Too many files"),
        ({"files": [("query", ("a.jpg", b"{}"))]}, 422, "query: must be text"),
        ({"files": [("images", ("a.jpg", b"x" * 700_000))]}, 413, "larger than"),
        (form("Multipart/Form-Data; boundary=x", b"x" * 1_100_000, LAST), 413, "than 0.6 MB"),
        (form(f"{FORM}; charset=undefined", b"", LAST), 415, "charset 'undefined': send utf-8"),
        (form(f"{FORM}; charset=UTF-7", b"", LAST), 415, "charset 'UTF-7': send utf-8"),
        (form(FORM, KIWI.read_bytes(), b""), 400, "the form is cut off"),
        ({"params": {"k": 3}, "json": {"texts": ["a"]}}, 422, "'k': there is no such option"),
        ({"json": {"texts": ["a" * 1_100_000]}}, 413, "larger than"),
        ({"files": [("images", ("bomb.png", picture(1001, 1000)))]}, 422, "more than max_pixels"),
    ],
)
def test_a_bad_body_is_told_what_is_wrong(
    client: TestClient, sent: dict[str, Any], status: int, says: str
) -> None:
    answer = client.post("/search", **sent)
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    assert says in answer.json()["detail"]
    assert client.get("/search", params={"text": "a dog"}).status_code == 200  # it goes on


# -- classify ------------------------------------------------------------------------------------


def test_images_are_classified_as_the_command_does(client: TestClient) -> None:
    pear = DATA / "images/food/pear/pear-03.jpg"
    names = "a kiwi,a dog,a pear"
    options = ["--labels", names, "--model", TINY, "--device", "cpu", "--precision", "fp32"]
    asked = ["classify", str(KIWI), str(pear), *options, "--json"]
    run = CliRunner().invoke(command_line, asked)
    assert run.exit_code == 0, run.output
    files = [("images", (path.name, path.read_bytes())) for path in (KIWI, pear)]
    answers = client.post("/classify", files=files, data={"labels": names}).json()
    for got, expected in zip(answers, json.loads(run.stdout), strict=True):
        assert (got["name"], got["label"]) == (Path(expected["path"]).name, expected["label"])
        for mine, theirs in zip(got["top"], expected["top"], strict=True):
            assert mine["label"] == theirs["label"]
            assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_without_labels_the_label_set_in_force_answers(
    client: TestClient, demo_store: Path
) -> None:
    store = open_store(str(demo_store))
    files = [("images", ("k.jpg", KIWI.read_bytes())), ("images", ("no.jpg", b"no image"))]
    kiwi, nothing = client.post("/classify", files=files, data={"top_k": "2"}).json()
    assert [kiwi["label"], len(kiwi["top"]), kiwi["error"]] == ["kiwi", 2, None]
    assert (nothing["label"], nothing["top"]) == (None, [])
    assert "not an image" in nothing["error"]
    image_id = client.post("/search", files=files[:1]).json()["hits"][0]["image_id"]
    table = client.get("/labels").json()
    rows = store.read(f"labels/demo/{table['run']}", ["image_id", "naive_score"])
    [score] = rows.filter(pl.col("image_id") == image_id)["naive_score"]
    assert kiwi["top"][0]["score"] == pytest.approx(score, abs=2e-3)  # a stored vector is float16


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"labels": "dog"}, "at least 2 labels"),
        ({"labels": str(DATA / "labels.toml")}, "at least 2 labels"),  # no file is read for anybody
        ({"labels": "dog,,cat"}, "a label must not be empty"),
        ({"labels": "dog,DOG"}, "stands twice"),
        ({"labels": "dog,cat", "template": "no place"}, "must hold one {}"),
        ({"template": "a {}."}, "send labels, too"),
        ({"labels": ",".join(map(str, range(2001)))}, "2001 prompts are more than 2000"),
        ({"labels": ["dog,cat", "car"]}, "labels: is there 2 times"),
        ({"top_k": "0"}, "top_k"),
        ({"top_k": "-1"}, "top_k"),
        ({"top_k": "nan"}, "top_k"),
    ],
)
def test_bad_labels_are_told(client: TestClient, data: dict[str, str], says: str) -> None:
    answer = client.post("/classify", files=[("images", ("k.jpg", b"x"))], data=data)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


def test_no_image_at_all_is_told(client: TestClient) -> None:
    none = client.post("/classify", files=[("labels", (None, "dog,cat"))])
    assert (none.status_code, none.json()["detail"][:7]) == (422, "images:")
    bad = client.post("/classify", files=[("images", ("n.jpg", b"no"))])
    assert (bad.status_code, bad.json()["detail"][:7]) == (422, "'n.jpg'")
    assert client.post("/classify", json={}).status_code == 415


# -- what is shown -------------------------------------------------------------------------------


def test_an_image_is_told_of(
    client: TestClient, searcher: Searcher, tiny: "Encoder", demo_store: Path
) -> None:
    image_id = some_id(searcher, tiny)
    told = client.get(f"/images/{image_id}", params={"neighbours": 3}).json()
    about = searcher.about(image_id)
    for name in ("path", "label", "split"):
        assert told[name] == about[name]
    assert told["score"] == pytest.approx(about["score"])
    assert told["selected"] == about["kept"]
    table = f"labels/demo/{client.get('/labels').json()['run']}"
    rows = open_store(str(demo_store)).read(table).filter(pl.col("image_id") == image_id)
    assert [entry["label"] for entry in told["topk"]] == rows["topk_labels"][0].to_list()
    expected = searcher.find([searcher.term(image_id)], 3)["image_id"].to_list()
    assert [hit["image_id"] for hit in told["neighbours"]] == expected
    assert image_id not in expected


def test_all_paths_of_twins_are_told(client: TestClient) -> None:
    files = [("images", ("c.jpg", (DATA / "images/animals/cat/cat-03.jpg").read_bytes()))]
    [hit] = client.post("/search", files=files, data={"query": '{"k": 1}'}).json()["hits"]
    paths = client.get(f"/images/{hit['image_id']}").json()["paths"]
    assert [Path(path).name for path in paths] == ["cat-03-copy.jpg", "cat-03.jpg"]


def test_a_thumbnail_is_the_whole_image_made_small(
    client: TestClient, searcher: Searcher, tiny: "Encoder"
) -> None:
    image_id = some_id(searcher, tiny)
    answer = client.get(f"/thumbnails/{image_id}", params={"size": 64})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    small = Image.open(BytesIO(answer.content))
    whole = Image.open(searcher.about(image_id)["path"])
    assert max(small.size) == 64
    assert small.width / small.height == pytest.approx(whole.width / whole.height, rel=0.03)
    mean, expected = (np.asarray(i.convert("RGB")).mean(axis=(0, 1)) for i in (small, whole))
    np.testing.assert_allclose(mean, expected, atol=3)
    tag = answer.headers["etag"]
    assert "max-age" in answer.headers["cache-control"]
    again = client.get(f"/thumbnails/{image_id}?size=64", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get(f"/thumbnails/{image_id}?size=65", headers={"If-None-Match": tag})
    assert other.status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/thumbnails/{NOBODY}", 404),
        (f"/images/{NOBODY}", 404),
        ("/thumbnails/zz", 422),
        (f"/thumbnails/{NOBODY[:-1]}", 422),
        (f"/thumbnails/{NOBODY}%0A", 422),
        ("/thumbnails/..%2f..%2fetc%2fpasswd", 404),
        ("/thumbnails/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
        ("/thumbnails/%252e%252e", 422),
        ("/thumbnails//etc/passwd", 404),
        ("/images/..%5c..%5cetc", 422),
        ("/page.js/../../app.py", 404),
        ("/page.py", 404),
        (f"/thumbnails/{NOBODY}?size=0", 422),
        (f"/thumbnails/{NOBODY}?size=129", 422),
        (f"/thumbnails/{NOBODY}?size=nan", 422),
        (f"/images/{NOBODY}?neighbours=101", 422),
        ("/search?k=1", 422),
        ("/search?text=a&k=0", 422),
        ("/search?text=a&min_confidence=nan", 422),
        ("/search?text=", 422),
        ("/search?text=a&path_prefix=x", 422),  # only POST has it: unfiltered hits would mislead
        ("/nothing", 404),
    ],
)
def test_whatever_is_asked_for_in_an_address(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert (answer.status_code, list(answer.json())) == (status, ["detail"]), answer.text
    assert len(answer.json()["detail"]) > len("Not Found")


def test_another_method_is_told_and_head_is_a_get_without_its_body(client: TestClient) -> None:
    answer = client.put("/search")
    assert answer.status_code == 405
    assert answer.json()["detail"].startswith("PUT: /search does not answer that; /docs tells")
    for path in ("/", "/health", "/labels"):
        assert client.head(path).status_code == 200
    assert client.head("/nothing").status_code == 404


def test_labels_and_health(client: TestClient, demo_store: Path) -> None:
    found = status(open_store(str(demo_store)))
    labels = client.get("/labels").json()
    counted = {each["label"]: each["images"] for each in labels["labels"]}
    counted["(none)"] = labels["abstained"]
    assert {label: n for label, n in counted.items() if n} == found.labels
    assert labels["name"] == found.label_set
    health = client.get("/health").json()
    assert (health["status"], health["problem"], health["images"]) == ("ok", None, 242)
    assert health["queue"] == {"inside": 0, "most": 256, "waiting": 0}
    assert health["snapshot_age_s"] >= 0


# -- the page and the documents ------------------------------------------------------------------


def test_pages_load_nothing_from_elsewhere_and_write_no_html(client: TestClient) -> None:
    for path in ("/", "/docs", "/page.js", "/page.css"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert not re.search(
            r"https?:|//[a-z]|@import|url\(", re.sub(r"(?m)^//.*$", "", answer.text)
        )
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval", client.get("/page.js").text
    )
    for path in ("/", "/docs"):
        assert not re.search(r"<script>|<style>|style=| on[a-z]+=", client.get(path).text)


def test_the_documents_name_every_route_and_model(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        *("/search", "/classify", "/images/{image_id}", "/thumbnails/{image_id}"),
        *("/labels", "/health"),
    }
    named = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(schema)))
    assert named <= set(schema["components"]["schemas"])
    page = client.get("/docs").text
    assert all(path in page for path in schema["paths"])


# -- limits and faults ---------------------------------------------------------------------------


def test_who_comes_when_all_places_are_taken_is_told_to_come_again(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.admission, "inside", service.admission.most)
    answer = client.get("/search", params={"text": "a dog"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client.get("/health").status_code == 200


def test_who_waits_too_long_for_a_turn_to_upload_is_told_to_come_again(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "uploads", asyncio.Semaphore(0))
    brief = service.knobs.model_copy(update={"upload_seconds": 0.05})
    monkeypatch.setattr(service, "knobs", brief)
    answer = client.post("/classify", files=[("images", ("k.jpg", KIWI.read_bytes()))])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_fault_of_ours_shows_no_traceback(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dataclasses.replace(service.now, searcher=None)  # type: ignore[arg-type]
    monkeypatch.setattr(service.follower, "now", broken)
    answer = client.get("/search", params={"text": "a dog"})
    assert answer.status_code == 500
    assert answer.json() == {"detail": "a fault of the service itself; its log tells more"}


def test_a_store_that_is_not_there_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no store here"):
        load_service(demo_config(tmp_path / "none"))
