"""Metrics: what a monitor is told of a store, as OpenMetrics text.

The numbers are kept in `metrics/numbers.json` from run to run, the text is made of them alone. It
holds gauges and counters without timestamps, so that node_exporter's textfile collector takes it,
too.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from pipeline.catalog import current_files
from pipeline.errors import DamagedFileError
from pipeline.reports.arrivals import failures
from pipeline.reports.drift import LEVELS
from pipeline.store import Store

if TYPE_CHECKING:
    from pipeline.reports.run_report import RunReport

CONTENT_TYPE = CONTENT_TYPE_LATEST
NUMBERS, TEXT = "metrics/numbers.json", "metrics/pseudolabel.prom"
OUTCOMES = ("done", "nothing new", "failed")
_KINDS = 20  # of failures; the others are summed up


def held_numbers(store: Store) -> dict[str, Any]:
    """Return the numbers that the runs before have kept; none where they are damaged."""
    try:
        return store.get_json(NUMBERS)
    except DamagedFileError:
        return {}


def run_numbers(store: Store, report: "RunReport") -> dict[str, Any]:
    """Return the numbers that a run makes anew."""
    files = current_files(store, ["status", "reason", "image_id"])
    kinds = failures(files)
    told = {failure.kind: failure.files for failure in kinds[:_KINDS]}
    if rest := sum(failure.files for failure in kinds[_KINDS:]):
        told["others"] = rest
    found, drift = report.labelled, report.drift
    embedded, took = report.embed.get("embedded", 0), report.seconds.get("embed", 0.0)
    images = files.filter(files["status"] == "ok")["image_id"].n_unique()
    return {
        "files": dict(sorted(files["status"].value_counts().iter_rows())),
        "failures": told,
        "images": images,
        "new": len(report.arrived.images),
        "abstained": found.abstained if found else None,
        "images_per_second": embedded / took if embedded and took else None,
        "run_seconds": sum(report.seconds.values()),
        "confidence": found.quantiles if found else {},
        "drift": LEVELS.index(drift.verdict) if drift.verdict in LEVELS else None,
        "divergence": drift.divergence,
    }


def count_run(
    held: Mapping[str, Any], fresh: Mapping[str, Any], outcome: str, *, now: float
) -> dict[str, Any]:
    """Return the numbers after one more run.

    Args:
        held: as `held_numbers` returns them.
        fresh: those that are new, as of `run_numbers`; the others stay.
        outcome: one of OUTCOMES.
        now: seconds since 1970.
    """
    runs = {**dict.fromkeys(OUTCOMES, 0), **held.get("runs", {})}
    runs[outcome] += 1
    done = outcome != "failed"
    last = {"last_run": now, "last_ok": done, **({"last_success": now} if done else {})}
    return {**held, **fresh, "runs": runs, **last}


def put_numbers(store: Store, numbers: Mapping[str, Any]) -> bytes:
    """Keep numbers and their text in the store, whose lock must be held; return the text."""
    store.put_json(NUMBERS, dict(numbers))
    text = metrics_text(numbers)
    store.put(TEXT, text)
    return text


def metrics_text(numbers: Mapping[str, Any]) -> bytes:
    """Return the text of some numbers; those that are not known are not there."""
    registry = CollectorRegistry()
    registry.register(_Numbers(numbers))
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text


class _Numbers(Collector):
    def __init__(self, numbers: Mapping[str, Any]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterable[Metric]:
        """Yield what is known."""
        held = self._numbers
        about = "Files ever seen, by their last status."
        yield _by("files", about, "status", held.get("files", {}))
        about = "Files that cannot be read now, by the kind of reason."
        yield _by("unreadable_files", about, "reason", held.get("failures", {}))
        yield from _one("images", "Distinct images that are there.", held.get("images"))
        yield from _one("new_images", "New images of the last drop.", held.get("new"))
        about = "Images of the last drop that got no label."
        yield from _one("abstained_images", about, held.get("abstained"))
        about = "Files that wait for the next run, for they are still being written."
        yield from _one("waiting_files", about, held.get("waiting"))
        about = "Images embedded per second by the last run that embedded any."
        yield from _one("images_per_second", about, held.get("images_per_second"))
        about = "How long the last drop took."
        yield from _one("run_seconds", about, held.get("run_seconds"), "seconds")
        about = "Confidence (the score, where no audit has calibrated it) of the last drop's images"
        yield _by("confidence", f"{about}.", "quantile", held.get("confidence", {}))
        about = "Whether the last drop's images differ from those before: 0 none, 1 some, 2 strong."
        yield from _one("drift", about, held.get("drift"))
        about = "Jensen-Shannon divergence of the last drop's labels from those before."
        yield from _one("label_divergence_bits", about, held.get("divergence"), "bits")
        about = "When a run last did all it had to, in seconds since 1970."
        yield from _one(
            "last_success_timestamp_seconds", about, held.get("last_success"), "seconds"
        )
        about = "When a run last ended, in seconds since 1970."
        yield from _one("last_run_timestamp_seconds", about, held.get("last_run"), "seconds")
        about = "Whether the last run did all it had to: 1 yes, 0 no."
        yield from _one("last_run_success", about, held.get("last_ok"))
        runs = CounterMetricFamily("pseudolabel_runs", "Runs, by how they ended.", labels=["how"])
        for how, count in held.get("runs", {}).items():
            runs.add_metric([how], count)
        yield runs


def _one(name: str, about: str, value: float | None, unit: str = "") -> Iterable[Metric]:
    if value is not None:
        yield GaugeMetricFamily(f"pseudolabel_{name}", about, float(value), unit=unit)


def _by(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"pseudolabel_{name}", about, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
