"""Side columns: kinds, numbers worked out by hand, the same after a way through JSON."""

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.preprocessing import StandardScaler

from pipeline.arrays import Floats, Ints
from pipeline.clip.protocol import ImageEncoder
from pipeline.errors import InputError
from pipeline.store import Store
from pipeline.training.side.encoding import SideEncoding
from pipeline.training.side.information import SideInformation, read_side
from pipeline.training.side.settings import SideSettings
from tests.helpers import label_set, make_store

CLASSES = label_set("dog", "cat", aliases={"dog": ("hound",)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store", {})


def no_encoder() -> ImageEncoder:
    raise AssertionError("columns need no model")


def side_of(store: Store, table: pl.DataFrame, use: str = "", images: int = 0) -> SideInformation:
    """Write a table with the paths 0.jpg, 1.jpg ... as a file, and read it for as many images."""
    paths = [f"{row}.jpg" for row in range(max(len(table), images))]
    table = table.with_columns(pl.Series("path", paths[: len(table)], pl.String))
    assert store.local is not None
    file = store.local.parent / "side.parquet"
    table.write_parquet(file)
    return read_of(store, file, paths, use)


def read_of(store: Store, file: Path, paths: list[str], use: str = "") -> SideInformation:
    known = pl.DataFrame({"image_id": [f"{row:032x}" for row in range(len(paths))], "path": paths})
    return read_side(store, SideSettings(columns=str(file), use=use), CLASSES, no_encoder, known)


def csv_of(store: Store, text: str, paths: list[str], use: str = "") -> SideInformation:
    assert store.local is not None
    file = store.local.parent / "side.csv"
    file.write_text(text, encoding="utf-8")
    return read_of(store, file, paths, use)


def rows(*numbers: int) -> Ints:
    return np.array(numbers, np.int64)


def encoded(side: SideInformation, training: Ints) -> Floats:
    """Fit, take the encoding through JSON, and encode every image."""
    encoding = SideEncoding.from_json(json.loads(json.dumps(side.fit(training).as_json())))
    assert encoding == side.fit(training)
    numbers = side.encode(encoding)
    assert numbers.shape == (side.images, encoding.width)
    assert np.isfinite(numbers).all()
    return numbers


def test_numbers_are_standardised_by_the_training_rows_alone(store: Store) -> None:
    heights = [1.0, 3.0, 5.0, 70.0]
    numbers = encoded(side_of(store, pl.DataFrame({"height": heights})), rows(0, 1, 2))
    scaler = StandardScaler().fit(np.array(heights[:3])[:, None])
    expected = scaler.transform(np.array(heights)[:, None])
    assert numbers[:3] == pytest.approx(expected[:3], abs=1e-6)
    assert numbers[3, 0] == 10.0  # 41 deviations away: counted as ten


def test_a_missing_number_is_zero_and_told_by_one_more(store: Store) -> None:
    table = pl.DataFrame({"height": [2.0, None, 4.0, math.nan]})
    numbers = encoded(side_of(store, table, images=5), rows(0, 1, 2))
    assert numbers.tolist() == [[-1, 0], [0, 1], [1, 0], [0, 1], [0, 1]]  # 4.jpg has no row


def test_a_column_that_never_lacks_in_training_has_no_such_number(store: Store) -> None:
    side = side_of(store, pl.DataFrame({"height": [2.0, 4.0, None]}))
    assert encoded(side, rows(0, 1)).tolist() == [[-1], [1], [0]]


def test_a_constant_says_nothing_however_large(store: Store) -> None:
    side = side_of(store, pl.DataFrame({"height": [0.1, 0.1, 0.1, 1e90]}))
    assert encoded(side, rows(0, 1, 2)).tolist() == [[0]] * 4


def test_categories_are_one_hot_and_rare_or_unseen_ones_are_others(store: Store) -> None:
    cameras = ["b", "a", "a", "a", "b", "b", "rare", "unseen", None]
    numbers = encoded(side_of(store, pl.DataFrame({"camera": cameras})), rows(*range(7)))
    a, b, other = [1, 0, 0], [0, 1, 0], [0, 0, 1]
    assert numbers.tolist() == [b, a, a, a, b, b, other, other, [0, 0, 0]]


def test_truths_and_small_numbers_are_categories_where_that_is_said(store: Store) -> None:
    table = pl.DataFrame({"flash": [True] * 3 + [False] * 3, "month": [1, 1, 1, 12, 12, 12]})
    numbers = encoded(side_of(store, table, "*,month:categorical"), rows(*range(6)))
    # flash: false, true, other; month: "1", "12", other
    expected = [[1, 0, 0, 0, 1, 0]] * 3 + [[0, 1, 0, 1, 0, 0]] * 3
    assert sorted(numbers.tolist()) == sorted(expected)


def test_words_of_labels_are_taken_out_of_categories(store: Store) -> None:
    kinds = ["dog"] * 3 + ["big hound"] * 3 + ["Dogs"] * 3 + ["hat"] * 3
    side = side_of(store, pl.DataFrame({"kind": kinds}))
    numbers = encoded(side, rows(*range(12)))
    nothing, big, hat = [0, 0, 0], [1, 0, 0], [0, 1, 0]
    assert numbers.tolist() == [nothing] * 3 + [big] * 3 + [nothing] * 3 + [hat] * 3
    assert "kind: words of labels were taken out of 9 rows" in side.told()


def test_a_place_is_two_points_on_circles(store: Store) -> None:
    table = pl.DataFrame({"Lat": [45.0, 0.0, -90.0, None], "lng": [90.0, 0.0, -180.0, 7.0]})
    side = side_of(store, table)
    # sin and cos of pi lat / 90, then of pi lon / 180, then whether it lacks
    assert encoded(side, rows(0, 1, 2, 3)) == pytest.approx(
        np.array([[1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0, -1, 0, -1, 0], [0, 0, 0, 0, 1]]), abs=1e-6
    )
    assert "Lat and lng (place)" in side.told()[0]


def test_a_time_is_its_day_of_the_year_its_hour_and_how_late_it_is(store: Store) -> None:
    times = ["2023-01-01T06:00:00Z", "2023-01-01 18:00", "2023-07-02T12:00:00.5+02:00", ""]
    lines = [f"{row}.jpg,{time}" for row, time in enumerate(times)]
    side = csv_of(store, "path,taken\n" + "\n".join(lines), [f"{row}.jpg" for row in range(4)])
    numbers = encoded(side, rows(0, 1, 2, 3))
    epochs = [datetime(2023, 1, 1, 6, tzinfo=UTC), datetime(2023, 1, 1, 18, tzinfo=UTC)]
    epochs.append(datetime(2023, 7, 2, 12, 0, 0, 500_000, UTC))  # as the clock there showed it
    seconds = np.array([moment.timestamp() for moment in epochs])
    late = (seconds - seconds.mean()) / seconds.std()
    for row, (day, hour) in enumerate([(0, 0.25), (0, 0.75), (182, 0.5 + 0.5 / 86_400)]):
        year = (day + hour) / 365.25
        turns = [2 * math.pi * year, 2 * math.pi * hour]
        circles = [f(turn) for turn in turns for f in (math.sin, math.cos)]
        assert numbers[row] == pytest.approx([late[row], *circles, 0], abs=1e-5)
    assert numbers[3].tolist() == [0, 0, 0, 0, 0, 1]


def test_days_without_an_hour_have_none(store: Store) -> None:
    days = [date(2024, 1, 1), date(2024, 12, 31)]
    assert encoded(side_of(store, pl.DataFrame({"day": days})), rows(0, 1)).shape == (2, 3)
    texts = side_of(store, pl.DataFrame({"day": ["2024-01-01", "2024-12-31"]}))
    assert encoded(texts, rows(0, 1)) == pytest.approx(
        encoded(side_of(store, pl.DataFrame({"day": days})), rows(0, 1))
    )


def test_a_time_with_a_zone_is_what_the_clock_there_showed(store: Store) -> None:
    moment = datetime(2024, 3, 1, 23, 30, tzinfo=timezone(timedelta(hours=9)))
    there = pl.Series([moment]).dt.convert_time_zone("Asia/Tokyo")
    aware = side_of(store, pl.DataFrame({"taken": there}))
    naive = side_of(store, pl.DataFrame({"taken": ["2024:03:01 23:30:00"]}))  # as EXIF writes it
    assert encoded(aware, rows(0)) == pytest.approx(encoded(naive, rows(0)))


def test_kinds_are_guessed_and_told(store: Store) -> None:
    text = "path,taken,lat,lon,iso,camera,remark\n" + "".join(
        f"{row}.jpg,2024-05-0{row % 9 + 1},{row % 9}.5,7,{row}00,cam{row % 3},a remark {row}\n"
        for row in range(60)
    )
    side = csv_of(store, text + "gone.jpg,,,,,,\n", [f"{row}.jpg" for row in range(62)])
    [line, left_out] = side.told()
    assert "taken (time), lat and lon (place), iso (numeric), camera (categorical)" in line
    assert "2 of 62 images have no row, 1 of 61 rows match no image" in line
    assert left_out == (
        "remark is not taken: 60 distinct values look like free text (see train.side_text)"
    )


def test_only_the_columns_named_are_taken_of_the_kinds_said(store: Store) -> None:
    table = pl.DataFrame({"n": [1.0, 5.0], "e": [2.0, 6.0], "lat": [3.0, 7.0], "x": [0.0, 1.0]})
    side = side_of(store, table, "n:lat, e:lon")
    assert encoded(side, rows(0, 1)).shape == (2, 4)
    assert side.columns().columns[0].names == ("n", "e")
    lone = side_of(store, table, "lat")  # without a longitude it is a number like any other
    assert encoded(lone, rows(0, 1)).tolist() == [[-1], [1]]


def test_a_later_table_is_read_as_the_head_was_fitted(store: Store) -> None:
    encoding = side_of(store, pl.DataFrame({"iso": ["100", "200"]})).fit(rows(0, 1))
    later = side_of(store, pl.DataFrame({"iso": ["300", "200"], "more": [1, 2]}))
    assert later.encode(encoding).tolist() == [[3], [1]]
    with pytest.raises(InputError, match="has no column 'iso', which the head was trained with"):
        side_of(store, pl.DataFrame({"ISO": [1]})).encode(encoding)
    with pytest.raises(InputError, match="iso 'auto' in row 2 is no number"):
        side_of(store, pl.DataFrame({"iso": ["1", "auto"]})).encode(encoding)


@pytest.mark.parametrize(
    ("table", "use", "says"),
    [
        ("path,a\n0.jpg,1\n", "b", r"train.side_use names 'b', but the columns are \['a'\]"),
        ("path,a\n0.jpg,1\n", "a:size", "names 'a:size', .*a kind is one of numeric, cat"),
        ("path\n0.jpg\n", "", "no column can be used"),
        ("path,a\n0.jpg,\n", "", "no column can be used.*a is not taken: it is empty"),
        ("file,a\n0.jpg,1\n", "", r"needs the column path \(or image_id\), has \['file', 'a'\]"),
        ("path,a\n0.jpg,1\n./0.jpg,2\n", "", "path './0.jpg' stands in rows 1 and 2"),
        ("path,a\n9.jpg,1\n", "", "none of its rows is of an image here"),
        ("path,a\n0.jpg,inf\n", "", "a 'inf' in row 1 is no number from -1e.100 to 1e.100"),
        ("path,lat,lon\n0.jpg,91,0\n", "", "lat '91' in row 1 is no number from -90 to 90"),
        ("path,lat,lon\n0.jpg,9,200\n", "", "lon '200' in row 1 is no number from -180 to 180"),
        ("path,lat,b\n0.jpg,9,200\n", "lat:lat,b", "a place is one column of latitudes and one"),
        ("path,a\n0.jpg,x\n", "a:numeric", "a 'x' in row 1 is no number"),
        ("path,a\n0.jpg,noon\n", "a:time", "a 'noon' in row 1 is no time such as 2024"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(
    store: Store, table: str, use: str, says: str
) -> None:
    with pytest.raises(InputError, match=rf"side columns .*side.csv: .*{says}"):
        csv_of(store, table, ["0.jpg"], use).fit(rows(0))


def test_a_file_that_is_no_parquet_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match=r"side columns .*x.parquet: cannot be read as Parquet"):
        read_of(store, tmp_path / "x.parquet", ["0.jpg"])
