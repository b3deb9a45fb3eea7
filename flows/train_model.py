"""The Prefect flow that trains a head on the selection that a store holds."""

from prefect import flow

from flows.drop import DEFAULT_OPTIONS, Options, train_head
from flows.endings import as_flow
from flows.runners import PrefectTasks
from pipeline.config import Config
from pipeline.training.train import TrainSummary


@flow(name="train-model", persist_result=False)
def train_model(config: Config, options: Options = DEFAULT_OPTIONS) -> TrainSummary:
    """Selection, fit, score, save."""
    return as_flow(train_head, config, PrefectTasks(), options)
