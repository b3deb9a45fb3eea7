"""What of a store is stale: which stages would make something else now than it holds."""

from dataclasses import fields

from flows.resources import question
from pipeline.config import Config
from pipeline.labels.audit import is_stale as confidences_are_stale
from pipeline.labels.labelling import current_table, missing_parts, vectors_went
from pipeline.opening import open_store, peek_store
from pipeline.search import index as search_index
from pipeline.search.choosing import IndexSettings
from pipeline.sections import HEAD_KINDS
from pipeline.training import freshness, selection
from pipeline.training.heads.base import HeadSettings
from pipeline.training.policies import Rules
from pipeline.training.recipe import Recipe
from pipeline.training.selection import SelectSettings
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
    if not search_index.is_current(store, index_settings(config)):
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
    wanted = recipe(config)
    fresh = freshness.head_fingerprint(store) == freshness.train_fingerprint(store, wanted)
    idle = freshness.refused(store, wanted) or freshness.why_not(store)
    return fresh or idle is not None


def index_settings(config: Config) -> IndexSettings:
    """Return what the search index is chosen by."""
    return IndexSettings(**config.index.model_dump())


def select_settings(config: Config) -> SelectSettings:
    """Return what decides a selection."""
    wanted = config.select.model_dump()
    rules = Rules(**{field.name: wanted.pop(field.name) for field in fields(Rules)})
    return SelectSettings(rules=rules, **wanted)


def recipe(config: Config, device: str = "cpu") -> Recipe:
    """Return what is to be trained, on a device."""
    wanted = config.train
    side = SideSettings(wanted.side_text, wanted.side_columns, wanted.side_use)
    knobs = wanted.model_dump()
    given = {field.name: knobs[field.name] for field in fields(HeadSettings) if field.name in knobs}
    return Recipe(
        heads=_heads(wanted.heads, beside=bool(side)),
        settings=HeadSettings(**given, device=device),
        side=side,
        allow_leakage=wanted.allow_leakage,
    )


def _heads(asked: str, *, beside: bool) -> tuple[str, ...]:
    """Return the kinds of heads, the preferred one first."""
    if asked == "auto":
        return ("multimodal", "linear") if beside else ("linear",)
    if asked != "all":
        return tuple(dict.fromkeys(asked.split(",")))
    first = ("multimodal",) if beside else ()
    return (*first, *(kind for kind in HEAD_KINDS if beside or kind != "multimodal"))
