"""The Prefect flow that gives other labels to the images that a store holds."""

from prefect import flow

from flows.drop import DEFAULT_OPTIONS, Options
from flows.endings import as_flow
from flows.relabel import RelabelSummary, relabel_store
from flows.runners import PrefectTasks
from pipeline.config import Config


@flow(name="relabel-images", persist_result=False)
def relabel_images(
    config: Config, options: Options = DEFAULT_OPTIONS, select: bool = True
) -> RelabelSummary:
    """Encode labels, index, label, select: a task each."""
    return as_flow(relabel_store, config, PrefectTasks(), options, select)
