"""The last step of a run: its page, contact sheet, drift, summary and metrics."""

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from flows import metrics
from flows.resources import thumbnail_decoders
from pipeline.config import Config
from pipeline.labels.labelling import current_table
from pipeline.notice import shown
from pipeline.opening import open_store
from pipeline.store import Store

if TYPE_CHECKING:
    from pipeline.images.decoding import Decode
    from pipeline.reports.run_report import RunReport
    from pipeline.search.agreement import AgreementSummary


@dataclass(frozen=True)
class ReportSummary:
    """The files a run leaves for people, relative to the store, and its verdict."""

    summary: str
    contact_sheet: str | None
    page: str
    drift: str  # none, some, strong or not known
    drift_reason: str
    agreement: "AgreementSummary | None"  # null: nothing is labelled, or no neighbours are known
    headline: str = ""  # whether anything needs a person's eye
    points: tuple[str, ...] = ()  # what that is, and what else is worth knowing


def report(config: Config, run_id: str, summary: dict[str, object]) -> ReportSummary:
    """Leave a run's page, contact sheet, drift and summary in its folder, and count the run.

    Args:
        config: of the run.
        run_id: names it.
        summary: what it did.
    """
    from pipeline.reports.contact_sheet import contact_sheet
    from pipeline.reports.openmetrics import run_numbers
    from pipeline.reports.run_report import gather
    from pipeline.reports.verdict import verdict
    from pipeline.search.agreement import summarise

    store = open_store(config.store)
    summary = {**summary, "config": redacted(config)}
    sheet = agreement = None
    found = gather(store, run_id, summary, keep=True)
    with thumbnail_decoders(config) as pool:
        if current_table(store) is not None:
            agreement = summarise(store, run_id)
            png = contact_sheet(store, decode=pool.decode)
            if png is not None:
                sheet = f"runs/{run_id}/contact-sheet.png"
                store.put(sheet, png)
        page = _put_page(store, found, pool.decode)
    drift, told = found.drift, verdict(found)
    written = ReportSummary(
        f"runs/{run_id}/summary.json",
        sheet,
        page,
        drift.verdict,
        drift.reason,
        agreement,
        told.headline,
        tuple(point.words for point in told.points),
    )
    store.put_json(written.summary, {**summary, "report": asdict(written)})
    fresh = {**run_numbers(store, found), "waiting": found.waiting}
    metrics.record(config, store, "done", fresh)
    return written


def redacted(config: Config) -> dict[str, object]:
    """Return a config as everybody may see it: hooks may hold tokens."""
    content = config.model_dump(mode="json")
    for name in ("on_failure", "on_drift"):
        content["notify"][name] = shown(getattr(config.notify, name))
    return content


def rebuild(config: Config, run_id: str, store: Store) -> tuple["RunReport", str]:
    """Make the page of a run again, in the store, whose lock must be held; return where it is."""
    found = told(store, run_id, keep=True)
    with thumbnail_decoders(config) as pool:
        return found, _put_page(store, found, pool.decode)


def page_bytes(config: Config, found: "RunReport") -> bytes:
    """Return the page of a report, which is written nowhere."""
    from pipeline.reports.run_page import run_page

    with thumbnail_decoders(config) as pool:
        return run_page(found, decode=pool.decode).encode(errors="replace")


def told(store: Store, run_id: str, *, keep: bool = False) -> "RunReport":
    """Gather what can still be told of a run."""
    from pipeline.reports.run_report import gather

    return gather(store, run_id, store.get_json(f"runs/{run_id}/summary.json") or None, keep=keep)


def _put_page(store: Store, found: "RunReport", decode: "Decode") -> str:
    from pipeline.reports.run_page import run_page
    from pipeline.reports.run_report import PAGE_CHECK

    folder = f"runs/{found.run_id}"
    page = run_page(found, decode=decode).encode(errors="replace")
    name = f"{folder}/report.html"
    # First the page: `verify` holds it against the checksum.
    store.put(name, page)
    checksum = {PAGE_CHECK: hashlib.sha256(page).hexdigest()}
    store.put_json(f"{folder}/drift.json", asdict(found.drift))
    store.put_json(f"{folder}/report.json", {**found.as_json(), **checksum})
    return name
