"""The Prefect flow that gives other labels to the images that a store holds."""

from prefect import flow

from flows import run_names
from flows.drop import DEFAULT_OPTIONS, Options
from flows.endings import ending
from flows.in_prefect import planned, seen
from flows.relabel import RelabelSummary, relabel_store
from flows.runners import PrefectTasks
from pipeline.config import Config


@flow(name="relabel-images", flow_run_name=planned("relabel the images of"), persist_result=False)
def relabel_images(
    config: Config, options: Options = DEFAULT_OPTIONS, select: bool = True
) -> RelabelSummary:
    """Encode labels, index, label, select: a task each.

    Args:
        config: Every knob, as in pseudolabel.toml; its sources are not looked at.
        options: Of this run alone.
        select: Whether to select anew as well; without, the next drop does.
    """
    with ending(), seen(config) as run:
        summary = relabel_store(config, PrefectTasks(), options, select)
        run.rename(run_names.of_relabelling(config, summary))
    return summary
