"""The Prefect flow that labels a drop: what is served, scheduled and deployed."""

from prefect import flow

from flows.drop import DEFAULT_OPTIONS, DropSummary, Options, process_drop
from flows.endings import ending
from flows.in_prefect import planned, seen
from flows.runners import PrefectTasks
from pipeline.config import Config


@flow(name="label-images", flow_run_name=planned("label what is new for"), persist_result=False)
def label_images(config: Config, options: Options = DEFAULT_OPTIONS) -> DropSummary:
    """Scan, embed, index, label, select, train, report: a task each.

    Args:
        config: Every knob, as in pseudolabel.toml; whatever is left out has its default.
        options: Of this run alone.
    """
    with ending(), seen(config) as run:
        drop = process_drop(config, PrefectTasks(), options)
        run.drop(config, drop)
    return drop
