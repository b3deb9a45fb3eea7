"""Metrics, read back by Prometheus's own two parsers, from a file and over HTTP."""

import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.openmetrics import parser as open_parser
from prometheus_client.parser import text_string_to_metric_families as classic

from flows.metrics import record, record_outside, serve_metrics
from pipeline.config import make_config
from pipeline.errors import InputError
from pipeline.locking import writer_lock
from pipeline.opening import open_store
from pipeline.reports.openmetrics import count_run, metrics_text, run_numbers
from pipeline.reports.run_report import gather
from pipeline.store import Store
from tests.helpers import axis, draw, label_set, label_store, make_store

RUN = "20240101T000000000000"


def read(text: bytes) -> dict[str, float]:
    """Return the samples by name and labels; both parsers must find the same."""
    families = list(open_parser.text_string_to_metric_families(text.decode()))  # type: ignore[no-untyped-call]
    found = {f"{s.name}{''.join(s.labels.values())}": s.value for f in families for s in f.samples}
    older = {
        f"{s.name}{''.join(s.labels.values())}": s.value
        for family in classic(text.decode())
        for s in family.samples
    }
    assert found == older
    assert text.endswith(b"# EOF\n")
    for family in families:
        assert family.documentation
        assert family.type in ("gauge", "counter")  # what a textfile collector knows as well
        assert not family.unit or family.name.endswith(f"_{family.unit}")
        assert all(sample.timestamp is None for sample in family.samples)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    images = {draw(tmp_path / f"{n}.png", f"#{n:02x}0000"): axis(n % 2) for n in range(10)}
    bad = {tmp_path / "x.png": 'OSError: "x" is cut after 7 bytes\\', tmp_path / "y.png": "empty"}
    made = make_store(tmp_path / "store", images, unreadable=bad, gone=[tmp_path / "z.png"])
    label_store(made, label_set("red", "blue"))
    return made


def test_the_numbers_are_those_of_the_store(store: Store) -> None:
    embed = {"embedded": 10}
    report = gather(store, RUN, {"embed": embed, "seconds": {"embed": 4.0, "scan": 1.0}})
    fresh = {**run_numbers(store, report), "waiting": 3}
    found = read(metrics_text(count_run({}, fresh, "done", now=1e9)))
    assert found["pseudolabel_filesok"] == 10
    assert found["pseudolabel_filesgone"] == 1
    assert found['pseudolabel_unreadable_filesOSError: "…" is cut after # bytes\\'] == 1
    assert found["pseudolabel_unreadable_filesempty"] == 1
    assert found["pseudolabel_images"] == found["pseudolabel_new_images"] == 10
    assert found["pseudolabel_waiting_files"] == 3
    assert found["pseudolabel_images_per_second"] == 2.5
    assert found["pseudolabel_run_seconds"] == 5.0
    assert found["pseudolabel_last_success_timestamp_seconds"] == 1e9
    assert "pseudolabel_drift" not in found  # nothing came before: it is not known, and not 0
    table = str(store.get_json("labels/current.json")["table"])
    scores = store.read(table, ["confidence"])["confidence"].to_numpy()
    for share in (0.05, 0.5, 0.95):
        expected = float(np.quantile(scores, share))
        assert found[f"pseudolabel_confidence{share}"] == pytest.approx(expected)


def test_runs_are_counted_and_the_last_success_stays_where_a_run_failed() -> None:
    numbers = count_run({}, {"images": 5}, "done", now=100.0)
    numbers = count_run(numbers, {"waiting": 2}, "nothing new", now=200.0)
    numbers = count_run(numbers, {}, "failed", now=300.0)
    found = read(metrics_text(numbers))
    assert found["pseudolabel_last_success_timestamp_seconds"] == 200
    assert found["pseudolabel_last_run_timestamp_seconds"] == 300
    assert found["pseudolabel_last_run_success"] == 0
    assert found["pseudolabel_images"] == 5
    runs = {name: found[f"pseudolabel_runs_total{name}"] for name in ("done", "nothing new")}
    assert (runs, found["pseudolabel_runs_totalfailed"]) == ({"done": 1, "nothing new": 1}, 1)


def test_many_kinds_of_failure_are_summed_up(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    bad = {tmp_path / f"{a}.png": f"broken {a}" for a in letters}
    store = make_store(tmp_path / "store", {}, unreadable=bad)
    numbers = run_numbers(store, gather(store, RUN, None))
    assert len(numbers["failures"]) == 21
    assert numbers["failures"]["others"] == 6


def test_a_copy_is_left_where_the_config_says_and_served(store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "collector/pseudolabel.prom"
    config = make_config({"store": store.location, "metrics": {"file": str(copy)}})
    server = serve_metrics(store.location, _free_port())
    assert server is not None
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        assert read(urllib.request.urlopen(f"{url}/metrics").read()) == {}  # no run yet
        with writer_lock(store):
            record(config, store, "done", {"images": 10})
        answer = urllib.request.urlopen(f"{url}/metrics")
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert read(answer.read())["pseudolabel_images"] == 10
        assert copy.read_bytes() == store.get("metrics/pseudolabel.prom")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/store.json")
        with pytest.raises(InputError, match=f"metrics.port = {server.server_port}"):
            serve_metrics(store.location, server.server_port)
    finally:
        server.shutdown()
        server.server_close()
    assert serve_metrics(store.location, 0) is None


def test_a_copy_that_cannot_be_written_is_logged(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw(tmp_path / "a-file.png", "red")
    blocked = str(tmp_path / "a-file.png/x.prom")
    record(make_config({"store": store.location, "metrics": {"file": blocked}}), store, "done", {})
    assert "cannot be written" in caplog.text


def test_who_does_not_hold_the_store_waits_for_nobody_and_makes_none(
    store: Store, tmp_path: Path
) -> None:
    config = make_config({"store": store.location})
    with writer_lock(store):
        record_outside(config, "failed", {})
    assert store.get("metrics/numbers.json") is None
    record_outside(config, "failed", {})
    assert open_store(store.location).get_json("metrics/numbers.json")["last_ok"] is False
    record_outside(make_config({"store": str(tmp_path / "none")}), "failed", {})
    assert not (tmp_path / "none").exists()


def _free_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
