"""What of a store is stale: which stages would make something else now than it holds."""

from typing import Any

from flows.resources import question
from pipeline.config import Config
from pipeline.labels.audit import is_stale as confidences_are_stale
from pipeline.labels.labelling import current_table, missing_parts, vectors_went
from pipeline.opening import open_store, peek_store
from pipeline.search import index as search_index
from pipeline.training import freshness, selection
from pipeline.training.side.settings import SideSettings


def stale_stages(config: Config) -> list[str]:
    """Name the stages after embedding whose results do not come from what the store holds now."""
    store = peek_store(config.store)
    identity = store.identity()
    if vectors_went(store):
        return ["embed", "label", "index", "select"]
    if identity is None or not store.parts("embeddings"):
        return []
    stale, asked = [], question(config, store)
    if not search_index.is_current(store):
        stale.append("index")
    table = asked.table_for(identity, search_index.indexed(store))
    unlabelled = current_table(store) != table or missing_parts(store, table)
    if unlabelled or confidences_are_stale(store, table, asked.label_set):
        stale.append("label")
    if stale or not selection.is_current(store, select_settings(config)):
        stale.append("select")
    if config.train.every_run and (stale or not head_is_current(config)):
        stale.append("train")
    return stale


def head_is_current(config: Config) -> bool:
    """Tell whether the saved head is the one that would be trained now, or none can be."""
    store = open_store(config.store)
    wanted = freshness.train_fingerprint(store, mlp_settings(config), side_settings(config))
    fresh = freshness.head_fingerprint(store) == wanted
    return fresh or freshness.why_not(store) is not None


def select_settings(config: Config) -> list[float]:
    """Return what decides a selection, in the order of `selection.is_current`."""
    wanted = config.select
    return [
        wanted.min_confidence,
        wanted.max_per_class,
        wanted.duplicate_cosine,
        wanted.valid_share,
    ]


def mlp_settings(config: Config) -> dict[str, Any]:
    """Return the fields of `MlpSettings`."""
    others = {"every_run", "side_text", "side_columns", "side_use", "allow_leakage"}
    return config.train.model_dump(exclude=others)


def side_settings(config: Config) -> SideSettings:
    """Return what is to be used beside the images."""
    wanted = config.train
    return SideSettings(wanted.side_text, wanted.side_columns, wanted.side_use)
