"""What is known of the images of an index that are there now, in memory, so that queries read none.

Shapes: N rows of the index, M images that are there.
"""

import difflib
import threading
from dataclasses import asdict
from functools import cached_property

import numpy as np
import polars as pl

from pipeline.arrays import Bools, Ints
from pipeline.catalog import last_observations
from pipeline.errors import InputError
from pipeline.identity import digest
from pipeline.labels.confidence import held_calibration
from pipeline.labels.labelling import current_table
from pipeline.search.index import CURRENT
from pipeline.search.queries import Filters
from pipeline.store import Store
from pipeline.tables import LABELS, SELECTION, SELECTIONS

_LABELS = ("label", "score", "confidence", "labels")
_SELECTED = ("kept", "split")
_KEPT_FILTERS = 8  # answers to filters that are kept
_PREFIX = 6  # characters of an id that may stand for it
_ID = "an id is 32 hex digits, or the first 6 or more of them"


class Known:
    """The images that are there, one row each."""

    def __init__(self, location: str, images: pl.DataFrame, paths: pl.DataFrame, rows: int) -> None:
        """Use `know`."""
        self._location = location
        self.images = images
        self._paths = paths  # path, place: all paths of all images
        self.rows: Ints = images["row"].to_numpy().astype(np.int64)  # (M,) their rows of the index
        self.place = np.full(rows, -1, np.int32)  # (N,) row of `images`; -1: not there
        self.place[self.rows] = np.arange(len(self.rows), dtype=np.int32)
        self._among: dict[Filters, Ints | None] = {}
        self._lock = threading.Lock()

    def among(self, filters: Filters) -> Ints | None:
        """Return the rows of the index that may answer, in order; None: all of them.

        Raises:
            InputError: a filter asks for what the store does not hold.
        """
        with self._lock:  # queries of one filter come in crowds
            if filters in self._among:
                return self._among[filters]
        passing = self._passing(filters)
        rows = self.rows if passing is None else self.rows[passing]
        answer = None if len(rows) == len(self.place) else rows
        with self._lock:
            while len(self._among) >= _KEPT_FILTERS:
                self._among.pop(next(iter(self._among)))
            self._among[filters] = answer
        return answer

    def find(self, given: str) -> int:
        """Return the row of `images` of an image id, or of the beginning of one.

        Raises:
            InputError: no image has it, or several begin so.
        """
        given = given.strip().lower()
        ids, order = self._sorted_ids
        first = int(ids.search_sorted(given, "left"))
        if first < len(ids) and ids[first] == given:
            return int(order[first])
        if len(given) < _PREFIX:
            raise InputError(f"image id {given!r}: {_ID}")
        behind = int(ids.search_sorted(f"{given}\U0010ffff", "right"))
        if behind - first == 1:
            return int(order[first])
        if behind > first:
            some = ", ".join(ids[first : min(behind, first + 3)])
            raise InputError(
                f"image id {given!r}: {behind - first} images begin so, {some} among them; "
                "give more of it"
            )
        raise InputError(
            f"image id {given!r}: {self._location} knows no such image that is there now; {_ID}, "
            "as `pseudolabel search --json` and exports tell them"
        )

    @cached_property
    def _sorted_ids(self) -> tuple[pl.Series, Ints]:
        order = self.images["image_id"].arg_sort()
        return self.images["image_id"].gather(order), order.to_numpy().astype(np.int64)

    @cached_property
    def _label_names(self) -> list[str]:
        several = self.images["labels"].explode(empty_as_null=True)
        return pl.concat([self.images["label"], several]).drop_nulls().unique().sort().to_list()

    def _passing(self, filters: Filters) -> Bools | None:
        tests = [*self._about_labels(filters), *self._about_arrival(filters)]
        passing: Bools | None = None
        if tests:
            told = self.images.select(pl.all_horizontal(tests).fill_null(value=False))
            passing = told.to_series().to_numpy()
        by_path = []
        if filters.path_contains is not None:
            by_path.append(pl.col("path").str.contains(filters.path_contains, literal=True))
        if filters.path_prefix is not None:
            by_path.append(pl.col("path").str.starts_with(filters.path_prefix))
        if by_path:
            found = np.zeros(len(self.images), np.bool_)
            found[self._paths.filter(pl.all_horizontal(by_path))["place"].to_numpy()] = True
            passing = found if passing is None else passing & found
        return passing

    def _about_labels(self, filters: Filters) -> list[pl.Expr]:
        tests = []
        for label in filters.labels:
            self._require_label(label)
        if filters.labels:
            named = [pl.col("label").is_in(filters.labels)]
            named += [pl.col("labels").list.contains(label) for label in filters.labels]
            tests.append(pl.any_horizontal([test.fill_null(value=False) for test in named]))
        if filters.min_confidence > 0:
            self._require_labels()
            # In the precision that confidences are kept in: 0.9 lets 0.9 pass.
            tests.append(pl.col("confidence") >= pl.lit(filters.min_confidence, pl.Float32))
        return tests

    def _about_arrival(self, filters: Filters) -> list[pl.Expr]:
        tests = []
        if filters.kept is not None:
            if self.images["kept"].null_count() == len(self.images):
                raise InputError(
                    f"{self._location}: holds no selection yet; `pseudolabel select` makes one"
                )
            kept = pl.col("kept").fill_null(value=False)
            tests.append(kept if filters.kept else ~kept)
        if filters.since is not None:
            tests.append(pl.col("arrived") >= filters.since)
        if filters.until is not None:
            tests.append(pl.col("arrived") < filters.until)
        return tests

    def _require_labels(self) -> None:
        if self.images["score"].null_count() == len(self.images):
            raise InputError(f"{self._location}: holds no labels yet; `pseudolabel run` makes them")

    def _require_label(self, label: str) -> None:
        self._require_labels()
        names = self._label_names
        if label in names:
            return
        lower = {name.lower(): name for name in names}
        close = [lower[name] for name in difflib.get_close_matches(label.lower(), lower, n=3)]
        told = f"did you mean {' or '.join(map(repr, close))}?" if close else "none is like it"
        raise InputError(f"no image is labelled {label!r}; of {len(names)} labels, {told}")


def know(store: Store, ids: list[str]) -> Known:
    """Read what is known of the images of an index.

    Args:
        store: the store.
        ids: (N,) the image of each row of its index.
    """
    diary = store.read("files", ["path", "image_id", "status", "seen_at"])
    there = last_observations(diary).filter(pl.col("status") == "ok").select("image_id", "path")
    arrived = diary.drop_nulls("image_id").group_by("image_id").agg(arrived=pl.col("seen_at").min())
    per_image = there.group_by("image_id").agg(pl.col("path").min(), paths=pl.len())
    images = (
        pl.DataFrame({"image_id": pl.Series(ids, dtype=pl.String)})
        .with_row_index("row")
        .join(per_image, on="image_id", how="inner", maintain_order="left")
    )
    tables = [arrived]
    for table, names, schema in (
        (current_table(store), _LABELS, LABELS),
        (SELECTION, _SELECTED, SELECTIONS),
    ):
        rows = store.read(table, ["image_id", *names]) if table else None
        if rows is None:
            rows = pl.DataFrame(pl.from_arrow(schema.empty_table())).select("image_id", *names)
        tables.append(rows.unique("image_id", keep="last"))
    for rows in tables:
        images = images.join(rows, on="image_id", how="left", maintain_order="left")
    places = images.select("image_id").with_row_index("place")
    paths = there.join(places, on="image_id", how="inner").select("path", "place")
    return Known(store.location, images.rechunk(), paths, len(ids))


def state_of(store: Store) -> str:
    """Return what stands for all that a snapshot is made of."""
    table = current_table(store)
    tables = ["files", table] if table else ["files"]
    held = held_calibration(store, table) if table else None
    return digest(
        [
            store.state(*tables),
            # Whether it is applied to every part counts, too: one after another is rewritten.
            asdict(held) if held else None,
            store.get_json(CURRENT),
            store.fingerprint(SELECTION, "selection"),
        ]
    )
