"""The Prefect flow that writes captions for the images that a store holds."""

from prefect import flow

from flows import run_names
from flows.caption import caption_store
from flows.drop import DEFAULT_OPTIONS, Options
from flows.endings import ending
from flows.in_prefect import planned, seen
from flows.runners import PrefectTasks
from pipeline.clip.captioning import CaptionSummary
from pipeline.config import Config


@flow(name="caption-images", flow_run_name=planned("caption the images of"), persist_result=False)
def caption_images(
    config: Config, options: Options = DEFAULT_OPTIONS, limit: int = 0
) -> CaptionSummary:
    """Write captions, as a task.

    Args:
        config: Every knob, as in pseudolabel.toml; its sources are not looked at.
        options: Of this run alone.
        limit: Images at most; 0: all.
    """
    with ending(), seen(config) as run:
        done = caption_store(config, PrefectTasks(), options, limit)
        run.rename(run_names.of_captions(config, done))
    return done
