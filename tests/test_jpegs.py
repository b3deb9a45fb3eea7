"""JPEGs decoded in this process, against Pillow's own decoding; the rest left to workers."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.arrays import Pixels
from pipeline.images import jpegs, workers
from pipeline.images.decoding import Picture, Refusal, decode
from pipeline.images.fitting import Fitting, Rough
from pipeline.images.jpegs import decode_here
from pipeline.images.undecoded import left_undecoded
from pipeline.images.workers import Decoders
from tests.conftest import DATA, unpacked
from tests.test_decoding import encoded

LIMIT = 10_000_000
ROUGH = Rough(Fitting((24, 24)))


def drawn(width: int, height: int) -> Pixels:
    """A smooth picture with noise on it."""
    chance = np.random.default_rng(width * 1000 + height)
    slope = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    return (slope + chance.integers(0, 16, (height, width, 3))).astype(np.uint8)


def jpeg(width: int = 50, height: int = 40, mode: str = "RGB", **options: Any) -> bytes:
    return encoded(Image.fromarray(drawn(width, height)).convert(mode), "JPEG", **options)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(exif=exif)


def here(data: bytes, rough: Rough = ROUGH, max_pixels: int = LIMIT) -> Picture | None:
    return decode_here(data, "a.jpg", rough, max_pixels=max_pixels)


def require_as_pillow(data: bytes, rough: Rough = ROUGH) -> None:
    got, expected = here(data, rough), decode(data, "a.jpg", rough, max_pixels=LIMIT)
    assert isinstance(got, Picture)
    assert isinstance(expected, Picture)
    assert np.array_equal(got.pixels, expected.pixels)
    assert (got.width, got.height, got.format) == (
        (expected.width, expected.height, expected.format)
    )


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_pillows(mode: str, quality: int, subsampling: int) -> None:
    options = {} if mode == "L" else {"subsampling": subsampling}
    require_as_pillow(jpeg(mode=mode, quality=quality, **options))
    require_as_pillow(jpeg(mode=mode, quality=quality, restart_marker_rows=1, **options))
    require_as_pillow(turned(1))


@pytest.mark.parametrize("wanted", [(8, 8), (8, 20), (24, 24)])
@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
def test_a_large_one_is_scaled_as_pillow_scales_it(wanted: tuple[int, int], resize: Any) -> None:
    rough, reductions = Rough(Fitting(wanted, resize)), set()
    for width, height in [(30, 31), (65, 64), (127, 130), (193, 200), (257, 300), (801, 600)]:
        data = jpeg(width, height)
        require_as_pillow(data, rough)
        reductions.add(rough.reduction(height, width))
        with Image.open(BytesIO(data)) as image:
            rough.draft(image)
            by = rough.reduction(height, width)
            assert image.size == (-(-width // by), -(-height // by))
    assert len(reductions) > 2


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(jpeg(progressive=True), id="progressive"),
        pytest.param(jpeg(mode="CMYK"), id="cmyk"),
        pytest.param(jpeg(keep_rgb=True, subsampling=0), id="stored as rgb"),
        pytest.param(turned(3), id="upside down"),
        pytest.param(turned(6), id="on its side"),
        pytest.param(jpeg()[:-40], id="cut off"),
        pytest.param(jpeg()[:-400] + b"\xff\xd9", id="cut off, with an end"),
        pytest.param(jpeg() + b"more", id="more behind the end"),
        pytest.param(jpeg(400, 20), id="band"),
        pytest.param((DATA / "images/broken/truncated.jpg").read_bytes(), id="truncated"),
        pytest.param(b"\xff\xd8\xff\xd9", id="empty"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_others(data: bytes) -> None:
    assert here(data) is None


def test_so_is_what_is_too_large_or_fitted_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(50, 40)
    assert here(data, max_pixels=2000) is not None
    assert here(data, max_pixels=1999) is None
    assert here(data, Rough(Fitting((24, 24), interpolation="nearest"))) is None
    monkeypatch.setattr(jpegs, "_MOST_PIXELS", 1999)
    assert here(data) is None


def test_several_scans_are_left_to_others() -> None:
    # Sequential, but each component in a scan of its own: the whole picture would lie in memory.
    data = bytearray(jpeg(16, 16, subsampling=0))
    scan = data.index(b"\xff\xda")
    assert data[scan + 4] == 3
    data[scan + 2 : scan + 12] = b"\x00\x08\x01\x01\x00\x00\x3f\x00"  # one component in it
    left = left_undecoded(bytes(data), "a.jpg", max_pixels=LIMIT)
    assert left is not None
    assert not left.one_scan
    assert here(bytes(data)) is None


def test_no_process_is_started_for_an_ordinary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Counted(workers._Worker):
        def __init__(self, setup: bytes) -> None:
            started.append(1)
            super().__init__(setup)

    monkeypatch.setattr(workers, "_Worker", Counted)
    with Decoders(ROUGH, max_pixels=LIMIT, processes=1, here=lambda d, _: here(d)) as pool:
        assert isinstance(pool.decode(jpeg(), "a.jpg"), Picture)
        assert not started
        assert isinstance(pool.decode(jpeg(progressive=True), "b.jpg"), Picture)
        assert isinstance(pool.decode(jpeg()[:-40], "c.jpg"), Refusal)
        assert len(started) == 1


def test_real_photos_come_out_the_same(tmp_path: Path) -> None:
    rough = Rough(Fitting((64, 64)))
    photos = [path.read_bytes() for path in unpacked("photos", tmp_path).rglob("*.JPEG")]
    taken = [photo for photo in photos if here(photo, rough) is not None]
    assert len(taken) > 0.9 * len(photos)
    for photo in taken[::4]:
        require_as_pillow(photo, rough)
