"""Whether there is something to train on, and whether the saved head already comes from it.

Apart from training itself, so that a run that finds nothing new need not load torch to say so.
"""

import polars as pl

from pipeline.identity import digest
from pipeline.store import Store
from pipeline.training.recipe import Recipe
from pipeline.training.selection import TABLE, selection_state
from pipeline.training.side.settings import side_state

FOLDER = "models/head"
HEAD_JSON = f"{FOLDER}/head.json"
_REFUSED = "models/refused.json"


def why_not(store: Store) -> str | None:
    """Return why the present selection cannot be trained on; None when it can."""
    rows = store.read(TABLE, ["label", "kept", "split"]).filter("kept")
    train = rows.filter(pl.col("split") == "train")
    if train["label"].n_unique() < 2:
        return (
            f"the selection's training split holds {len(train)} images of "
            f"{train['label'].n_unique()} classes, of {len(rows)} images kept; a head needs at "
            "least 2 classes. Lower select.min_confidence, add images or, where all of them stay "
            "on one side together, change select.split_by or select.duplicate_cosine"
        )
    return None


def train_fingerprint(store: Store, recipe: Recipe) -> str:
    """Return what a head trained now would be made of, the content of side files included."""
    return digest([selection_state(store), recipe.knobs(), side_state(store, recipe.side)])


def refuse(store: Store, recipe: Recipe, why: str) -> None:
    """Remember that a recipe's side information leaks, so that no later run tries it in vain."""
    store.put_json(_REFUSED, {"fingerprint": train_fingerprint(store, recipe), "why": why})


def refused(store: Store, recipe: Recipe) -> str | None:
    """Return why this very training was refused; None where it was not."""
    told = store.get_json(_REFUSED)
    same = told.get("fingerprint") == train_fingerprint(store, recipe)
    return str(told["why"]) if same else None


def head_fingerprint(store: Store) -> str:
    """Return what the saved head was made of; empty when there is none."""
    return str(store.get_json(HEAD_JSON).get("fingerprint", ""))


def head_file(store: Store) -> dict[str, str]:
    """Return the weights file of the head in force and the SHA-256 it was written with."""
    about = store.get_json(HEAD_JSON)
    return {f"{FOLDER}/{about['weights']}": str(about["sha256"])} if about else {}
