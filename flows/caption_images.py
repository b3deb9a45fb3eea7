"""The Prefect flow that writes captions for the images that a store holds."""

from prefect import flow

from flows.caption import caption_store
from flows.drop import DEFAULT_OPTIONS, Options
from flows.endings import as_flow
from flows.runners import PrefectTasks
from pipeline.clip.captioning import CaptionSummary
from pipeline.config import Config


@flow(name="caption-images", persist_result=False)
def caption_images(
    config: Config, options: Options = DEFAULT_OPTIONS, limit: int = 0
) -> CaptionSummary:
    """Write captions, as a task."""
    return as_flow(caption_store, config, PrefectTasks(), options, limit)
