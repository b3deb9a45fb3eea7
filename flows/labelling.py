"""The steps from vectors to labels, the same for a drop and for relabelling."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flows import stages
from flows.resources import question
from pipeline.config import Config
from pipeline.labels.labelling import LabelSummary, missing_parts
from pipeline.labels.refinement import FEWEST
from pipeline.opening import open_store
from pipeline.parts import uncovered
from pipeline.search.index import IndexSummary
from pipeline.search.neighbours import neighbours_table

Run = Callable[..., Any]  # of `runners.Steps`


@dataclass(frozen=True)
class Answered:
    """What became of the index and the labels."""

    index: IndexSummary
    label: LabelSummary


def answer(config: Config, run: Run) -> Answered:
    """Bring the index up to the store, search the neighbours that are asked for, and label."""
    index: IndexSummary = run("index", stages.index, config)
    store = open_store(config.store)
    asked = question(config, store)
    if asked.refine.startswith("neighbours") and index.vectors >= FEWEST:
        table = neighbours_table(index.vectors)
        missing = uncovered(store.parts("embeddings"), store.parts(table))
        files = store.rows("embeddings", *missing)
        if files:
            run("neighbours", stages.neighbours, config, files=files)
    identity = store.identity()
    assert identity is not None  # the index is made of its vectors
    missing = missing_parts(store, asked.table_for(identity, index.vectors))
    files = store.rows("embeddings", *missing)
    return Answered(index, run("label", stages.label, config, files=files))
