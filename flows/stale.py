"""What of a store is stale: which stages would make something else now than it holds."""

from dataclasses import fields
from typing import Any

from flows.resources import question
from pipeline.config import Config
from pipeline.labels.audit import is_stale as confidences_are_stale
from pipeline.labels.labelling import current_table, missing_parts, vectors_went
from pipeline.opening import open_store, peek_store
from pipeline.search import index as search_index
from pipeline.training import freshness, selection
from pipeline.training.policies import Rules
from pipeline.training.selection import SelectSettings


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
    wanted = freshness.train_fingerprint(store, head_settings(config), config.train.side_text)
    fresh = freshness.head_fingerprint(store) == wanted
    return fresh or freshness.why_not(store) is not None


def select_settings(config: Config) -> SelectSettings:
    """Return what decides a selection."""
    wanted = config.select.model_dump()
    rules = Rules(**{field.name: wanted.pop(field.name) for field in fields(Rules)})
    return SelectSettings(rules=rules, **wanted)


def head_settings(config: Config) -> dict[str, Any]:
    """Return the fields of `HeadSettings`."""
    fixed = {
        "loss": "cross-entropy",
        "soft_targets": False,
        "mixup": 0.0,
        "pull": 0.01,
        "fusion": "concat",
        "device": "cpu",
    }
    return fixed | config.train.model_dump(exclude={"every_run", "side_text"})
