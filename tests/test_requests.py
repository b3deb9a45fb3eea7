"""What a user asks for, option by option and row by row: read as meant, or refused by name."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.search.requests import Item, Kind, Request, parse_item, read_requests


@pytest.mark.parametrize(
    ("given", "value", "weight"),
    [
        ("a dog", "a dog", 1.0),
        ("a dog^2", "a dog", 2.0),
        ("a dog ^ .5", "a dog", 0.5),
        ("a dog^1e-3", "a dog", 0.001),
        ("time: 10:30^2", "time: 10:30", 2.0),
        ("x^2^1", "x^2", 1.0),
        ("10^nine", "10^nine", 1.0),
        ("^_^", "^_^", 1.0),
    ],
)
def test_a_weight_stands_behind_the_last_caret(given: str, value: str, weight: float) -> None:
    assert parse_item("text", given) == Item("text", value, weight)
    assert parse_item("id", given, away=True) == Item("id", value, -weight)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "-Infinity", "1e999"])
def test_a_weight_is_above_0(weight: str) -> None:
    with pytest.raises(InputError, match=r"must be a number above 0.*--not-image"):
        parse_item("image", f"a.jpg^{weight}")


@pytest.mark.parametrize("given", ["", "  ", "^2"])
def test_an_empty_text_is_told(given: str) -> None:
    with pytest.raises(InputError, match="is empty"):
        parse_item("text", given)


def items(*asked: tuple[Kind, str, float]) -> tuple[Item, ...]:
    return tuple(Item(*one) for one in asked)


def test_json_lines_are_read_row_by_row(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(
        '\ufeff{"key": "a", "text": ["a dog^2", "snow"], "not_text": "a toy"}\n'
        "\n"
        '{"id": "1a2b3c", "not_id": ["4d5e6f^3"], "image": "ü.jpg", "text": null, "key": ""}\n'
        '{"key": 7, "not_image": "b.jpg", "text": "x"}',
        "utf-8",
    )
    assert read_requests(file) == [
        Request(items(("text", "a dog", 2), ("text", "snow", 1), ("text", "a toy", -1)), "a", 1),
        Request(items(("image", "ü.jpg", 1), ("id", "1a2b3c", 1), ("id", "4d5e6f", -3)), None, 3),
        Request(items(("image", "b.jpg", -1), ("text", "x", 1)), "7", 4),
    ]


def test_csv_is_read_by_its_column_names(tmp_path: Path) -> None:
    file = tmp_path / "q.CSV"
    file.write_text('not_text,text ,key\n,"a dog, wet^2",a\na toy,"two\nlines",\n')
    assert read_requests(file) == [
        Request(items(("text", "a dog, wet", 2)), "a", 2),
        Request(items(("text", "two\nlines", 1), ("text", "a toy", -1)), None, 4),
    ]


def test_every_bad_row_is_told_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    bad = {
        2: ('{"k": 5, "text": "x"}', "has 'k', which is none of id, image, key, not_id"),
        3: ("nonsense", "is no JSON"),
        4: ('["a dog"]', "is no JSON object"),
        5: ('{"text": 5}', "text must be a text, or a list of texts, got 5"),
        6: ('{"key": "b"}', "asks for nothing"),
    }
    texts = tmp_path / "texts.jsonl"
    texts.write_text('"a dog"\n""')
    with pytest.raises(InputError, match=r"(?s)line 1: is no JSON object.*line 2: is no JSON obj"):
        read_requests(texts)
    rows = ['{"text": "fine", "key": "a"}', *(row for row, _ in bad.values())]
    file.write_text("\n".join(rows))
    with pytest.raises(InputError) as told:
        read_requests(file)
    first, *lines = str(told.value).splitlines()
    assert first.endswith("q.jsonl: 5 of 6 rows cannot be answered, so none is:")
    for (number, (_, says)), line in zip(bad.items(), lines, strict=True):
        assert line.startswith(f"  line {number}: {says}")
    more = ['{"not_text": "x"}', '{"text": "x", "key": "a"}', '{"text": ["x", 1]}']
    file.write_text("\n".join([rows[0], *more]))
    with pytest.raises(InputError, match="line 2: says only what is not wanted") as told:
        read_requests(file)
    assert "line 3: key 'a' stands in line 1 already" in str(told.value)
    file.write_text("\n".join(more[:1] * 7))
    with pytest.raises(InputError, match="7 of 7 rows") as told:
        read_requests(file)
    assert str(told.value).endswith("and 2 more")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("q.jsonl", b"\n \n", "holds no row"),
        ("q.csv", b"text\n", "holds no row"),
        ("q.csv", b"text,key\nx,y,z\n", "line 2: has more cells than"),
        ("q.csv", b"words\nx\n", "has 'words', which is none of"),
        ("q.csv", b"text,text \na dog,a cat\n", "two columns have one name: text, text"),
        ("q.jsonl", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_requests(file)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"queries .*no.jsonl: cannot be read: .*No such file"):
        read_requests(tmp_path / "no.jsonl")
