"""The Prefect flow that trains a head on the selection that a store holds."""

from prefect import flow

from flows import run_names
from flows.drop import DEFAULT_OPTIONS, Options, train_head
from flows.endings import ending
from flows.in_prefect import planned, seen
from flows.runners import PrefectTasks
from pipeline.config import Config
from pipeline.training.train import TrainSummary


@flow(name="train-model", flow_run_name=planned("train a head for"), persist_result=False)
def train_model(config: Config, options: Options = DEFAULT_OPTIONS) -> TrainSummary:
    """Selection, fit, score, save.

    Args:
        config: Every knob, as in pseudolabel.toml; its sources are not looked at.
        options: Of this run alone.
    """
    with ending(), seen(config) as run:
        trained = train_head(config, PrefectTasks(), options)
        run.rename(run_names.of_training(config, trained))
    return trained
