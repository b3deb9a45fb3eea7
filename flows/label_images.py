"""The Prefect flow that labels a drop: what is served, scheduled and deployed."""

from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows.drop import DEFAULT_OPTIONS, DropSummary, Options, process_drop
from flows.endings import as_flow
from flows.runners import PrefectTasks
from pipeline.config import Config


def _run_name() -> str:
    config = flow_run.parameters.get("config")
    store = config.store if isinstance(config, Config) else (config or {}).get("store", "store")
    return f"label images into {Path(store).name}"


@flow(name="label-images", flow_run_name=_run_name, persist_result=False)
def label_images(config: Config, options: Options = DEFAULT_OPTIONS) -> DropSummary:
    """Scan, embed, index, label, select, train, report: a task each."""
    return as_flow(process_drop, config, PrefectTasks(), options)
