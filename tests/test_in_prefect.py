"""What Prefect shows of runs, read back from a real server; and that its troubles fail no run."""

import base64
import json
import shutil
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from threading import Event
from uuid import UUID, uuid4

import httpx
import pytest
from PIL import Image
from prefect import settings
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact
from prefect.deployments.runner import RunnerDeployment
from prefect.events.worker import EventsWorker
from prefect.exceptions import ParameterTypeError, PrefectHTTPStatusError
from prefect.testing.utilities import prefect_test_harness

from flows import prefect_progress
from flows.drop import DropSummary, Options
from flows.in_prefect import KEPT_PICTURES, PICTURE_BYTES, Seen
from flows.label_images import label_images
from flows.prefect_progress import PrefectProgress
from flows.progress import Silence
from flows.run_names import store_key
from pipeline.config import Config
from tests.conftest import DATA, demo_config

HOSTILE = "<img src=x onerror=alert(1)>|`.jpg"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncPrefectClient]:
    """A Prefect server of its own, and a client of it."""
    wanted = {
        settings.PREFECT_HOME: tmp_path_factory.mktemp("prefect"),
        settings.PREFECT_SERVER_ANALYTICS_ENABLED: False,
        settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # it would cost each flow a second
    }
    with (
        settings.temporary_settings(wanted),
        prefect_test_harness(server_startup_timeout=120),
        get_client(sync_client=True) as client,
    ):
        yield client
        EventsWorker.drain_all(timeout=30)  # the harness waits for it without end, and did once


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A store of its own, for two pictures and a file that is none."""
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(DATA / "images/food/kiwi/kiwi-01.jpg", source / HOSTILE)
    shutil.copy(DATA / "images/food/pear/pear-01.jpg", source)
    (source / "`bad`|.jpg").write_bytes(b"\xff\xd8\xff no picture")
    labels = {"label_set": "kiwi,pear,</script><script>|`x"}
    return demo_config(tmp_path / "photos", sources=[str(source)], labels=labels)


def run(config: Config) -> tuple[DropSummary, UUID]:
    state = label_images(config, Options(), return_state=True)
    drop = state.result()
    assert isinstance(drop, DropSummary)
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    return drop, run_id


def left_by(client: SyncPrefectClient, config: Config, run_id: UUID) -> dict[str, Artifact]:
    """Return the artifacts of a run by what their keys end with."""
    begin = f"{store_key(config.store)}-"
    key = ArtifactFilterKey(like_=f"{begin}%")
    found = client.read_artifacts(artifact_filter=ArtifactFilter(key=key), limit=200)
    return {str(a.key).removeprefix(begin): a for a in found if a.flow_run_id == run_id}


def said_by(client: SyncPrefectClient, run_id: UUID) -> list[str]:
    """Return the log of a run, which arrives a while after it."""
    end = time.monotonic() + 30
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    while time.monotonic() < end:
        lines = [log.message for log in client.read_logs(wanted)]
        if any(line.startswith("report: ") for line in lines):
            return lines
        time.sleep(0.3)
    raise AssertionError(lines)


def test_a_run_tells_its_name_its_progress_and_what_it_left(
    server: SyncPrefectClient, config: Config
) -> None:
    drop, run_id = run(config)
    assert server.read_flow_run(run_id).name == "3 new into store photos, 1 unreadable"
    left = left_by(server, config, run_id)
    assert set(left) >= {"embed", "label", "drop", "report", "contact-sheet"}
    assert {each.type for each in left.values()} == {"progress", "table", "markdown", "image"}
    assert left["embed"].data == 100
    assert str(left["embed"].description).startswith("embed: 3 of 3 images, 1 unreadable")
    rows = json.loads(str(left["drop"].data))
    numbers = {row["what"]: row["number"] for row in rows}
    assert (numbers["files new"], numbers["files unreadable"]) == (3, 1)
    assert (numbers["images embedded"], numbers["images labelled"]) == (2, 2)
    assert drop.report is not None
    assert "/report.html" in str(left["report"].data)
    kind, _, content = str(left["contact-sheet"].data).partition(",")
    assert kind == "data:image/webp;base64"
    assert len(content) < 200_000
    with Image.open(BytesIO(base64.b64decode(content))) as picture:
        assert picture.width > 500
    lines = said_by(server, run_id)
    assert any(line.startswith("embed: 2 images embedded") for line in lines)
    assert not any("Summary(" in line for line in lines)
    # A second drop leaves a second version under each key; one that finds nothing leaves none.
    shutil.copy(DATA / "images/food/kiwi/kiwi-02.jpg", config.sources[0])
    _, second = run(config)
    assert server.read_flow_run(second).name == "1 new into store photos"
    assert {"embed", "drop", "report", "contact-sheet"} <= set(left_by(server, config, second))
    _, third = run(config)
    assert server.read_flow_run(third).name == "nothing new for store photos"
    assert left_by(server, config, third) == {}


def test_only_the_last_pictures_are_kept(
    server: SyncPrefectClient, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.in_prefect.KEPT_PICTURES", 1)
    _, first = run(config)
    shutil.copy(DATA / "images/food/kiwi/kiwi-02.jpg", config.sources[0])
    _, second = run(config)
    assert "contact-sheet" not in left_by(server, config, first)
    assert "drop" in left_by(server, config, first)
    assert "contact-sheet" in left_by(server, config, second)
    assert KEPT_PICTURES * PICTURE_BYTES < 4_000_000


@pytest.mark.parametrize("fault", [httpx.ConnectError("gone"), ValueError("too large")])
def test_artifacts_that_cannot_be_left_fail_no_run(
    server: SyncPrefectClient,
    config: Config,
    fault: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    for name in ("create_artifact", "update_artifact", "read_artifacts"):
        monkeypatch.setattr(SyncPrefectClient, name, fail)
    drop, run_id = run(config)
    assert drop.embed.embedded == 2
    assert drop.report is not None
    assert server.read_flow_run(run_id).state_name == "Completed"
    assert "Prefect was not told" in caplog.text


def test_a_server_that_is_gone_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    client = SyncPrefectClient("http://127.0.0.1:9/api")
    told = Seen(client, uuid4(), "photos")
    began = time.monotonic()
    for _ in range(100):
        told.rename("a name")
        assert told.progress("embed", None, 50.0, "half") is None
    assert time.monotonic() - began < 20
    assert caplog.text.count("Prefect was not told") == 1


def test_images_never_wait_for_prefect_and_it_is_told_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefect_progress, "EVERY", 0.1)
    told: list[tuple[str, float, str]] = []
    artifact = uuid4()

    def tell(stage: str, known: UUID | None, percent: float, said: str) -> UUID:
        assert known == (artifact if stage in {s for s, *_ in told} else None)
        told.append((stage, percent, said))
        return artifact

    began = time.monotonic()
    with PrefectProgress(Silence(), tell) as progress:
        progress.stage("load model")
        progress.stage("embed", 5000)
        for _ in range(5000):
            progress.advance(1, 0)
            time.sleep(0.0001)
        progress.stage("train mlp", 7, "epochs")
        progress.advance(7, 0)
        progress.stage("label", 10)
        progress.advance(4, 0)
    took = time.monotonic() - began
    assert len(told) <= 2 * (took / 0.1 + 3)
    assert {stage for stage, *_ in told} == {"embed", "label"}
    [*_, embedded] = [(percent, said) for stage, percent, said in told if stage == "embed"]
    assert embedded[0] == 100
    assert embedded[1].startswith("embed: 5,000 of 5,000 images")
    assert told[-1][:2] == ("label", 100)
    # A server that hangs holds up nobody but the thread that tells it.
    hung, release = Event(), Event()

    def hang(*_: object) -> UUID | None:
        hung.set()
        release.wait(20)
        return None

    with PrefectProgress(Silence(), hang) as progress:
        progress.stage("embed", 1000)
        assert hung.wait(10)
        began = time.monotonic()
        for _ in range(1000):
            progress.advance(1, 0)
        assert time.monotonic() - began < 5
        release.set()


def test_a_stage_that_is_broken_off_is_not_shown_as_done() -> None:
    told: list[float] = []

    def tell(_: str, __: UUID | None, percent: float, ___: str) -> UUID:
        told.append(percent)
        return uuid4()

    with pytest.raises(RuntimeError), PrefectProgress(Silence(), tell) as progress:
        progress.stage("embed", 10)
        progress.advance(3, 1)
        raise RuntimeError
    assert told[-1] == 30


def test_parameters_are_the_knobs_and_a_bad_one_is_refused(server: SyncPrefectClient) -> None:
    wanted = label_images.to_deployment("tests")
    assert isinstance(wanted, RunnerDeployment)
    wanted.apply()
    deployment = server.read_deployment_by_name("label-images/tests")
    schema = deployment.parameter_openapi_schema
    assert schema is not None
    assert schema["required"] == ["config"]
    known = schema["definitions"]
    knob = known["LabelsConfig"]["properties"]["top_k"]
    assert (knob["minimum"], knob["default"]) == (1, 5)
    assert knob["description"].startswith("labels kept per image")
    assert known["SelectConfig"]["properties"]["policy"]["enum"][0] == "threshold"
    assert known["SelectConfig"]["properties"]["min_confidence"]["maximum"] == 1
    assert known["Options"]["properties"]["retry_failed"]["description"]
    for bad, says in (
        ({"labels": {"top_k": 0}}, "0 is less than the minimum of 1"),
        ({"select": {"policy": "best"}}, "'best' is not one of"),
        ({"stroe": "x"}, "'stroe' was unexpected"),
    ):
        with pytest.raises(PrefectHTTPStatusError) as refused:
            server.create_flow_run_from_deployment(deployment.id, parameters={"config": bad})
        assert says in refused.value.response.text
    with pytest.raises(ParameterTypeError, match="greater than or equal to 1"):
        label_images.validate_parameters({"config": {"labels": {"top_k": 0}}})
