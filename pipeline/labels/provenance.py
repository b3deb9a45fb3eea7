"""What a label run was asked, by which model and when: `run.json` beside its parts.

`labels/current.json` tells it of the run in force; this tells it of every run that is kept.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pipeline.label_set import LabelSet
from pipeline.labels.refinement import FEWEST
from pipeline.parts import span
from pipeline.store import Store

_FILE = "run.json"
CURRENT = "labels/current.json"


@dataclass(frozen=True)
class Provenance:
    """Where the labels of one run come from."""

    asked: dict[str, Any]  # as in labels/current.json: table, label set, top-k, bars, method
    method: str  # of refinement; none: the model's own scores, as of fewer than 300 images
    encoder: dict[str, Any]  # identity: architecture, weights, preprocessing, scale ...
    made_at: str  # when it was first whole, or this was first kept; ISO 8601, with time zone
    changed_at: str  # when images were last added
    turned_to_at: str  # when it last came into force; empty: it never was
    last_drop: str | None  # the newest run whose images it labels
    rows: int  # when it was last changed
    state: str  # of its parts then

    @property
    def label_set(self) -> LabelSet:
        """The classes, with their words and templates."""
        return LabelSet.model_validate(self.asked["label_set"])


def provenance(store: Store, table: str) -> Provenance | None:
    """Return what is kept of a label run; None where nothing is, as in older stores.

    Raises:
        DamagedFileError: it is not as it was written.
    """
    held: dict[str, Any] = store.get_json(f"{table}/{_FILE}")
    return Provenance(**held) if held else None


def record(store: Store, asked: dict[str, Any], *, turned: bool, now: datetime) -> None:
    """Keep what a label run was asked; nothing is written where nothing changed.

    Args:
        store: the store; its lock must be held.
        asked: the content of labels/current.json.
        turned: whether the run comes into force now.
        now: the present, with time zone.
    """
    table, time = str(asked["table"]), now.isoformat(timespec="microseconds")
    held, state, identity = provenance(store, table), store.state(table), store.identity()
    if held and held.state == state and held.asked == asked and not turned:
        return
    # Of a run in force, of a version that kept nothing of it, this is the first that is known.
    known_since = time if store.get_json(CURRENT).get("table") == table else ""
    parts = store.parts(table)
    rows = store.rows(table, *parts)
    told = Provenance(
        asked=asked,
        method=str(asked.get("refine", "none")) if rows >= FEWEST else "none",
        encoder=asdict(identity) if identity else {},
        made_at=held.made_at if held else time,
        changed_at=held.changed_at if held and held.state == state else time,
        turned_to_at=time if turned else held.turned_to_at if held else known_since,
        last_drop=span(parts[-1])[1].split("-")[0] if parts else None,
        rows=rows,
        state=state,
    )
    store.put_json(f"{table}/{_FILE}", asdict(told))
