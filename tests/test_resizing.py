"""The fast way to fit a picture against the exact one, and against answers worked out by hand."""

from dataclasses import replace
from io import BytesIO
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from pipeline.arrays import Pixels
from pipeline.clip.resizing import finisher, fit_pixels
from pipeline.images.decoding import Picture, decode
from pipeline.images.fitting import Fitting, Rough

Resize = Literal["shortest", "longest", "squash"]
RESIZES: list[Resize] = ["shortest", "longest", "squash"]
SIZES = [(64, 64), (65, 65), (48, 80), (80, 48)]
# Width and height: tiny, odd, of a model's own size, wide, tall, and bands.
SHAPES = [(1, 1), (2, 3), (7, 5), (50, 31), (64, 64), (65, 64), (48, 80), (80, 48), (97, 61)]
SHAPES += [(61, 97), (333, 500), (500, 333), (1023, 767), (64, 1000), (1000, 64), (20, 320)]
ORIENTATION = ExifTags.Base.Orientation
ORIENTATIONS = range(1, 9)


def smooth(width: int, height: int) -> Image.Image:
    """A picture without fine detail, so that two good ways to resize it must agree."""
    rng = np.random.default_rng((width, height))
    few = rng.integers(0, 256, (min(9, height), min(9, width), 3), np.uint8)
    return Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "JPEG", orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = BytesIO()
    image.save(file, form, quality=95, exif=exif)
    return file.getvalue()


def decoded(data: bytes, fit: Fitting | Rough) -> Picture:
    seen = decode(data, "x.jpg", fit, max_pixels=10**8)
    assert isinstance(seen, Picture)
    return replace(seen, pixels=seen.pixels.copy())  # writable, as torch wants it


def fast(data: bytes, fitting: Fitting) -> Picture:
    return finisher(fitting)(decoded(data, Rough(fitting)))


def apart(one: Pixels, other: Pixels) -> np.ndarray:
    assert one.dtype == other.dtype == np.uint8
    assert one.shape == other.shape
    return np.abs(one.astype(int) - other)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", SIZES)
def test_a_picture_at_its_own_size_is_fitted_as_pillow_does_to_two_grey_levels(
    size: tuple[int, int], resize: Resize, interpolation: Literal["bilinear", "bicubic"]
) -> None:
    fitting = Fitting(size, resize, interpolation, fill=77)
    for shape in SHAPES:
        image = smooth(*shape)
        pixels = np.array(image)
        got = fit_pixels(torch.from_numpy(pixels), (image.height, image.width), fitting).numpy()
        off = apart(got, np.asarray(fitting(image)))
        assert off.max() <= 2, shape
        assert off.mean() <= 0.25, shape
        assert (pixels == np.asarray(image)).all()  # what was handed in is as it was


def test_fitted_pixels_by_hand() -> None:
    grey = np.arange(8, dtype=np.uint8).reshape(2, 4)  # 0 1 2 3 over 4 5 6 7
    pixels = torch.from_numpy(np.stack([grey] * 3, axis=2))

    def rows(fitting: Fitting) -> list[list[int]]:
        return fit_pixels(pixels, (2, 4), fitting)[:, :, 0].tolist()

    assert rows(Fitting((2, 2))) == [[1, 2], [5, 6]]
    assert rows(Fitting((2, 4), "squash")) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    padded = [[9] * 4, [0, 1, 2, 3], [4, 5, 6, 7], [9] * 4]
    assert rows(Fitting((4, 4), "longest", fill=9)) == padded


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize(
    ("width", "height", "reduction"),
    # The margin is 4, and the reduction a power of 2: from 8, 16 and 32 times what is wanted.
    [(401, 333, 2), (801, 643, 4), (643, 801, 4), (1999, 1511, 8), (1301, 2047, 8)],
)
def test_a_jpeg_is_decoded_at_a_fraction_and_fitted_nearly_as_exactly(
    width: int, height: int, reduction: int, size: tuple[int, int], resize: Resize
) -> None:
    fitting, data = Fitting(size, resize), encoded(smooth(width, height))
    rough, exact, quick = decoded(data, Rough(fitting)), decoded(data, fitting), fast(data, fitting)
    if size == (32, 32) and resize == "squash":
        assert rough.pixels.shape[:2] == (-(-height // reduction), -(-width // reduction))
    assert rough.pixels.shape[0] < height
    off = apart(quick.pixels, exact.pixels)
    assert off.mean() <= 0.4  # seen: 0.2
    assert off.max() <= 3  # seen: 1
    assert vars(replace(quick, pixels=0)) == vars(replace(exact, pixels=0))  # type: ignore[arg-type]


def test_a_jpeg_with_less_to_spare_is_decoded_whole() -> None:
    for width, height in ((255, 255), (255, 999), (999, 255)):
        rough = decoded(encoded(smooth(width, height)), Rough(Fitting((32, 32))))
        assert rough.pixels.shape == (height, width, 3)


def middle_of(pixels: Pixels) -> tuple[float, float]:
    """Return the centre of what is bright, in pixels from the top and from the left."""
    bright = pixels[:, :, 0].astype(float)
    down, across = np.indices(bright.shape)
    total = bright.sum()
    return float((bright * down).sum() / total), float((bright * across).sum() / total)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("shape", [(1001, 777), (777, 1001), (1030, 1023)])
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_spot_near_the_border_stays_where_it_is(
    shape: tuple[int, int], orientation: int, corner: tuple[int, int]
) -> None:
    width, height = shape
    stored = np.zeros((height, width, 3), np.uint8)
    top, left = (side - 100 if far else 60 for far, side in zip(corner, (height, width)))  # noqa: B905
    stored[top : top + 40, left : left + 40] = 255
    data = encoded(Image.fromarray(stored), orientation=orientation)
    for fitting in (Fitting((24, 24), "squash"), Fitting((24, 24), "longest")):
        upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))
        exact = middle_of(np.asarray(fitting(upright)))
        assert middle_of(fast(data, fitting).pixels) == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("shape", [(800, 640), (1001, 777), (777, 1002)])
def test_a_turned_jpeg_is_upright_and_of_its_upright_size(
    shape: tuple[int, int], orientation: int
) -> None:
    data, fitting = encoded(smooth(*shape), orientation=orientation), Fitting((24, 40))
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    seen = fast(data, fitting)
    assert (seen.width, seen.height) == upright.size
    assert ((seen.width, seen.height) == shape) == (orientation <= 4)
    assert seen.format == "JPEG"
    assert apart(seen.pixels, np.asarray(fitting(upright))).mean() <= 0.4


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turned_jpeg_is_decoded_at_a_fraction_where_that_leaves_no_rest(
    orientation: int,
) -> None:
    data = encoded(smooth(800, 640), orientation=orientation)
    rough = decoded(data, Rough(Fitting((24, 24))))
    assert sorted(rough.pixels.shape[:2]) == [160, 200]


def test_a_large_picture_and_a_band_are_fitted_by_whoever_decodes_them() -> None:
    fitting = Fitting((64, 64))
    for width, height in ((2100, 2100), (3000, 1500), (40, 660), (660, 40)):
        data = encoded(smooth(width, height), "PNG")
        rough = decoded(data, Rough(fitting))
        assert rough.pixels.shape == (64, 64, 3)
        assert apart(rough.pixels, decoded(data, fitting).pixels).mean() <= 0.4
        assert (fast(data, fitting).pixels == rough.pixels).all()
        assert (rough.width, rough.height, rough.format) == (width, height, "PNG")
    for width, height in ((2000, 2000), (40, 640)):
        rough = decoded(encoded(smooth(width, height), "PNG"), Rough(fitting))
        assert rough.pixels.shape == (height, width, 3)


def test_what_torch_cannot_do_is_left_to_pillow() -> None:
    fitting, data = Fitting((64, 64), "squash", "nearest"), encoded(smooth(130, 99), "PNG")
    assert (fast(data, fitting).pixels == decoded(data, fitting).pixels).all()


@pytest.mark.parametrize("shape", [(64, 64), (97, 64), (200, 300)])
def test_fitted_pixels_outlast_those_they_were_made_of(shape: tuple[int, int]) -> None:
    pixels = np.array(smooth(*shape))
    picture = Picture(pixels, *shape, "PNG")
    fitted = finisher(Fitting((64, 64)))(picture).pixels
    before = fitted.copy()
    pixels[:] = 0
    assert not np.shares_memory(fitted, pixels)
    assert before.any()
    assert (fitted == before).all()
    assert fitted.flags.c_contiguous
