"""310 odd, broken and hostile files: each is a picture or has a named reason, in time and memory.

What each should be is told by the list that came with them, which was made with Pillow alone.
"""

import csv
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.arrays import Pixels
from pipeline.catalog import current_files
from pipeline.images.decoding import Picture, Refusal
from pipeline.images.fitting import Fitting
from pipeline.images.paths import local_path
from pipeline.images.workers import Decoders
from pipeline.opening import open_store
from tests.conftest import SHARED, demo_config, run_plain, unpacked
from tests.test_workers import mine

LARGEST = 178_956_970  # the default of max_pixels
FIT = Fitting((64, 64), "squash")

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

# Pillow alone lets pass what the list calls ok; decoding reads them to the end, where they break.
BROKEN_AT_THE_END = {
    "png_truncated/pillow__truncated_end_chunk.png",
    "png_corrupt/pillow__broken_data_stream.png",
    "png_bad_exif/me__c-m2-272ae9468b7883e5cf61873a17271fb4.png",
    "png_bad_exif/me__9a3e0c7b687b526987e2270541002d47.png",
    "png_bad_exif/me__c-9a3e0c7b687b526987e2270541002d47.png",
}
# Its layers are broken, which the list holds against it; what it looks like is not.
WHOLE = "other_format/pillow__negative_layer_count.psd"
HEIC = {
    "heic/pillow__hopper.heif": (128, 128),
    "heic/small__heif.heif": (64, 64),
    "heic/me__cheers_1440x960.heic": (1440, 960),
    "heic/me__exif-at-eof.heic": (3024, 4032),
    "heic/heif__colors-with-alpha-thumbnail.heic": (72, 72),
}


@dataclass(frozen=True)
class Seen:
    """What became of one file."""

    outcome: Picture | Refusal
    seconds: float

    @property
    def picture(self) -> Picture:
        """The picture it must be."""
        assert isinstance(self.outcome, Picture), self.outcome
        return self.outcome

    @property
    def reason(self) -> str:
        """The reason there must be."""
        assert isinstance(self.outcome, Refusal)
        return self.outcome.reason


def peak_memory() -> int:
    """Return the most that the one worker has ever taken, in bytes."""
    [worker] = mine()
    status = Path(f"/proc/{worker}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("odd-files", tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def listed(odd: Path) -> dict[str, dict[str, str]]:
    """The rows of the list, by file."""
    with open(SHARED / "odd-files.csv", newline="", errors="surrogateescape") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert len(rows) == 310
    assert all(os.path.lexists(odd / name) for name in rows)
    return rows


@pytest.fixture(scope="module")
def seen(odd: Path, listed: dict[str, dict[str, str]]) -> dict[str, Seen]:
    """Every regular file, all decoded by one worker that none of them may bring down."""
    found = {}
    with Decoders(FIT, max_pixels=LARGEST, processes=1, timeout=30) as decoders:
        decoders.decode(b"", "")
        [first] = mine()
        for name in listed:
            if (odd / name).is_file():
                data = (odd / name).read_bytes()
                start = time.monotonic()
                outcome = decoders.decode(data, name)
                found[name] = Seen(outcome, time.monotonic() - start)
        assert mine() == [first], "a worker died"
        assert peak_memory() < 1e9
    assert len(found) == 304
    return found


def test_every_file_is_a_picture_or_has_a_named_reason(seen: dict[str, Seen]) -> None:
    for name, one in seen.items():
        if isinstance(one.outcome, Picture):
            assert one.outcome.pixels.shape == (64, 64, 3), name
        else:
            assert one.outcome.status in ("unreadable", "ignored"), name
            assert len(one.outcome.reason.strip(": ")) > 8, name
            assert one.outcome.reason.isprintable(), name
        assert one.seconds < 20, name


def test_pictures_are_those_of_the_list_with_their_format_and_size(
    seen: dict[str, Seen], listed: dict[str, dict[str, str]]
) -> None:
    for name, one in seen.items():
        row = listed[name]
        fine = row["pil_outcome"] == "ok" and name not in BROKEN_AT_THE_END
        if not (fine or name == WHOLE):
            assert isinstance(one.outcome, Refusal) or name in HEIC, name
            continue
        size = int(row["width"]), int(row["height"])
        if int(row["orientation"] or 1) >= 5:  # lies on its side
            size = size[::-1]
        picture = one.picture
        assert (picture.width, picture.height, picture.format) == (*size, row["pil_format"]), name


def test_heic_is_read(seen: dict[str, Seen]) -> None:
    pytest.importorskip("pillow_heif")
    for name, size in HEIC.items():
        picture = seen[name].picture
        assert (picture.width, picture.height, picture.format) == (*size, "HEIF"), name
    for name, one in seen.items():
        if name.startswith("heic/") and name not in HEIC:
            assert one.reason == "broken HEIC, or of a kind that pillow-heif cannot read"
    # The same picture in two formats.
    assert apart(seen["heic/pillow__hopper.heif"], seen["avif/pillow__hopper.avif"]) < 8


def test_bombs_are_refused_before_they_are_decoded(odd: Path, seen: dict[str, Seen]) -> None:
    refused = [n for n, one in seen.items() if "more than max_pixels" in str(one.outcome)]
    assert len(refused) == 9
    with Decoders(FIT, max_pixels=LARGEST, processes=1) as decoders:
        for name in seen:
            if name.startswith("bomb/") and not name.endswith("flat_12000.png"):
                decoders.decode((odd / name).read_bytes(), name)
                assert seen[name].seconds < 5, name
        assert peak_memory() < 200e6
    flat = seen["bomb/flat_12000.png"].picture
    assert flat.pixels.std(axis=(0, 1)).max() == 0  # 144 million pixels of one colour


def apart(one: Seen, other: Seen) -> float:
    """Return the mean distance of two pictures' values, 0 to 255."""
    a, b = one.picture.pixels.astype(float), other.picture.pixels.astype(float)
    return float(np.abs(a - b).mean())


@pytest.mark.parametrize(
    ("upright", "pattern"),
    [
        ("exif__Landscape_1.jpg", "exif__Landscape_"),
        ("exif__Portrait_0.jpg", "exif__Portrait_"),
        ("pillow__hopper_orientation_2.webp", "pillow__hopper_orientation_"),
    ],
)
def test_every_orientation_shows_the_same_picture(
    seen: dict[str, Seen], upright: str, pattern: str
) -> None:
    expected = seen[f"exif_orientation/{upright}"]
    family = [name for name in seen if name.startswith(f"exif_orientation/{pattern}")]
    assert len(family) >= 5
    for name in family:
        assert apart(seen[name], expected) < 6, name  # JPEG's own noise; a mirrored one: over 20
    mirrored = Seen(Picture(expected.picture.pixels[:, ::-1], 1, 1, ""), 0)
    assert apart(mirrored, expected) > 20


def corner(seen: Seen) -> list[int]:
    value: list[int] = seen.picture.pixels[0, 0].tolist()
    return value


def test_what_is_transparent_is_white(seen: dict[str, Seen]) -> None:
    for name in (
        "tiny/small__png-transparent.png",
        "tiny/small__gif-transparent.gif",
        "gif_odd/pillow__transparent.gif",
        "webp/pillow__transparent.webp",
    ):
        assert min(corner(seen[name])) >= 250, name


def test_an_animation_is_its_first_frame(odd: Path, seen: dict[str, Seen]) -> None:
    moving = 0
    for name, one in seen.items():
        if name.startswith("animated/"):
            frames = [on_white(frame) for frame in frames_of(odd / name)]
            distances = [np.abs(one.picture.pixels.astype(int) - f).mean() for f in frames]
            assert distances[0] == min(distances) < 1, name
            moving += distances[1] > 1
    assert moving >= 4


def frames_of(path: Path) -> Iterator[Image.Image]:
    with Image.open(path) as image:
        for number in range(2):
            image.seek(number)
            yield image.convert("RGBA")


def on_white(frame: Image.Image) -> Pixels:
    """Return a frame at 64 x 64, mixed with white by hand."""
    values = np.array(frame, float)
    mixed = values[..., :3] * values[..., 3:] / 255 + 255 - values[..., 3:]
    return np.array(FIT(Image.fromarray(mixed.round().astype(np.uint8))))


def test_a_whole_run_ends_with_a_status_for_every_path(odd: Path, tmp_path: Path) -> None:
    """Links, folders, a pipe and names of any kind are met by the scan, not by the decoder."""
    config = demo_config(tmp_path / "store", train={"every_run": False})
    run_plain(config.model_copy(update={"sources": (str(odd),)}))
    rows = {
        os.path.relpath(local_path(row["path"]), odd): (row["status"], row["reason"])
        for row in current_files(open_store(str(tmp_path / "store"))).iter_rows(named=True)
    }
    assert len(rows) == 306  # 310, less two folders and two files whose names begin with a dot
    assert all(status == "ok" or reason for status, reason in rows.values())
    names = [name for name in rows if name.startswith("odd_names/")]
    assert len(names) == 14
    assert "odd_names/new\nline.jpg" in names
    assert "odd_names/latin1_\udce9.jpg" in names
    assert {rows[name][0] for name in names} == {"ok"}
    assert rows["file_kinds/pipe.jpg"] == ("unreadable", "not a regular file")
    assert rows["file_kinds/loop.jpg"] == (
        "unreadable",
        "cannot be opened: Too many levels of symbolic links",
    )
    assert rows["file_kinds/dangling.jpg"][0] == "unreadable"
    assert not [name for name in rows if name.startswith("file_kinds/folder")]
    readable = os.access(odd / "file_kinds/unreadable.jpg", os.R_OK)  # root may read anything
    expected = ("ok", None) if readable else ("unreadable", "cannot be read: Permission denied")
    assert rows["file_kinds/unreadable.jpg"] == expected
