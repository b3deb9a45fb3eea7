"""Files made by hand, odd ones too: each becomes the right pixels, or a reason, never an error."""

import hashlib
import struct
import tarfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from pipeline.images.decoding import (
    Picture,
    Refusal,
    decode,
    image_id,
    may_be_image,
    promises_image,
)

ODD_FILES = Path(__file__).resolve().parents[2] / "shared/data/odd-files.tar"
LARGEST = 10_000_000
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def as_is(image: Image.Image) -> Image.Image:
    assert image.mode == "RGB"
    return image


def look(data: bytes, name: str = "x.png", max_pixels: int = LARGEST) -> Picture | Refusal:
    return decode(data, name, as_is, max_pixels=max_pixels)


def pixels(data: bytes) -> list[list[tuple[int, ...]]]:
    """Decode and return the rows of (R, G, B)."""
    seen = look(data)
    assert isinstance(seen, Picture), seen
    assert seen.pixels.dtype == np.uint8
    assert seen.pixels.shape == (seen.height, seen.width, 3)
    return [[tuple(pixel) for pixel in row] for row in seen.pixels.tolist()]


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def grey(rows: list[list[int]], dtype: type[np.generic]) -> Image.Image:
    return Image.fromarray(np.array(rows, dtype))


def test_the_id_is_half_of_the_sha256_of_the_bytes() -> None:
    assert image_id(b"abc") == "ba7816bf8f01cfea414140de5dae2223"  # FIPS 180-2, appendix B.1
    for data in (b"", b"abc", bytes(1000)):
        assert image_id(data) == hashlib.sha256(data).hexdigest()[:32]


# How the stored pixels [[1, 2], [3, 4], [5, 6]] (3 high, 2 wide) are to be shown, from the
# definition of each orientation: where the stored row 0 and column 0 are on the screen.
UPRIGHT = {
    1: [[1, 2], [3, 4], [5, 6]],  # row 0 at the top, column 0 on the left
    2: [[2, 1], [4, 3], [6, 5]],  # top, right
    3: [[6, 5], [4, 3], [2, 1]],  # bottom, right
    4: [[5, 6], [3, 4], [1, 2]],  # bottom, left
    5: [[1, 3, 5], [2, 4, 6]],  # left, top
    6: [[5, 3, 1], [6, 4, 2]],  # right, top
    7: [[6, 4, 2], [5, 3, 1]],  # right, bottom
    8: [[2, 4, 6], [1, 3, 5]],  # left, bottom
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])  # lossless both
def test_each_exif_orientation_is_undone(form: str, orientation: int) -> None:
    image = grey([[1, 2], [3, 4], [5, 6]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = pixels(encoded(image, form, exif=exif))
    assert [[r for r, _, _ in row] for row in shown] == UPRIGHT[orientation]


def test_broken_exif_leaves_the_pixels_as_stored() -> None:
    data = encoded(grey([[1, 2]], np.uint8), exif=b"Exif\0\0no TIFF header")
    with Image.open(BytesIO(data)) as image, pytest.raises(SyntaxError):
        image.getexif()
    assert [r for r, _, _ in pixels(data)[0]] == [1, 2]


def test_transparency_becomes_white() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([*RED, *GREEN, *BLUE])
    palette.putdata([0, 1, 2])
    assert pixels(encoded(palette, transparency=1)) == [[RED, WHITE, BLUE]]
    assert pixels(encoded(palette, "GIF", transparency=2)) == [[RED, GREEN, WHITE]]
    half = Image.new("RGBA", (2, 1))
    half.putdata([(*RED, 0), (0, 0, 0, 128)])
    assert pixels(encoded(half)) == [[WHITE, (127, 127, 127)]]
    assert pixels(encoded(Image.new("LA", (1, 1), (9, 0)))) == [[WHITE]]
    assert pixels(encoded(Image.new("RGB", (1, 1), RED), transparency=RED)) == [[WHITE]]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight(form: str) -> None:
    deep = grey([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16)
    assert deep.mode == "I;16"
    assert [r for r, _, _ in pixels(encoded(deep, form))[0]] == [0, 0, 1, 0x80, 255]
    dark = grey([[0, 7, 255]], np.uint16)  # fits into 8 bits: taken as it is
    assert [r for r, _, _ in pixels(encoded(dark, form))[0]] == [0, 7, 255]


def test_whole_numbers_of_32_bits_are_taken_as_16() -> None:
    wide = grey([[-5, 0, 256, 0xFFFF, 0x10000]], np.int32)
    assert wide.mode == "I"
    assert [r for r, _, _ in pixels(encoded(wide, "TIFF"))[0]] == [0, 0, 1, 255, 255]


def test_modes_that_are_not_rgb_are_shown_in_their_own_colours() -> None:
    bits = Image.new("1", (2, 1))
    bits.putdata([0, 1])
    assert pixels(encoded(bits)) == [[(0, 0, 0), WHITE]]
    assert pixels(encoded(grey([[0, 7, 255]], np.uint8)))[0][1] == (7, 7, 7)
    inks = Image.new("CMYK", (2, 1))
    inks.putdata([(0, 255, 255, 0), (255, 255, 0, 0)])  # magenta and yellow; cyan and magenta
    assert pixels(encoded(inks, "TIFF")) == [[RED, BLUE]]
    jpeg = pixels(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG"))
    assert max(max(pixel) for row in jpeg for pixel in row) < 10  # black, not inverted


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in (GREEN, RED, BLUE)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(gif) == [[GREEN, GREEN], [GREEN, GREEN]]


def test_a_picture_tells_its_true_format_and_its_size_before_fitting() -> None:
    webp = encoded(Image.new("RGB", (6, 2), RED), "WEBP", lossless=True)
    seen = decode(webp, "wrong.JPG", lambda image: image.resize((1, 1)), max_pixels=LARGEST)
    assert isinstance(seen, Picture)
    assert (seen.width, seen.height, seen.format) == (6, 2, "WEBP")
    assert seen.pixels.tolist() == [[list(RED)]]
    assert seen.pixels.flags.writeable  # torch wants memory it may write to


def huge_png(width: int, height: int) -> bytes:
    """Return a PNG that promises many pixels and holds none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def test_a_picture_too_large_is_refused_before_it_is_decoded() -> None:
    refused = Refusal("unreadable", "3000 x 4000 pixels are more than max_pixels 11999999")
    assert look(huge_png(3000, 4000), max_pixels=11_999_999) == refused
    small = encoded(Image.new("L", (30, 40)))
    assert isinstance(look(small, max_pixels=1200), Picture)
    assert isinstance(look(small, max_pixels=1199), Refusal)


def test_a_band_of_pixels_cannot_fill_the_memory() -> None:
    """Fitting scales the short side up to the model's size, and the long one with it."""
    handed: list[tuple[int, int]] = []

    def fit(image: Image.Image) -> Image.Image:
        handed.append(image.size)
        return image.resize((2, 2))

    band = Image.new("RGB", (20_000, 1), RED)
    band.paste(BLUE, (9_000, 0, 11_000, 1))
    for image in (band, band.transpose(Image.Transpose.ROTATE_90)):
        seen = decode(encoded(image), "x.png", fit, max_pixels=LARGEST)
        assert all(max(size) <= 100 * min(size) for size in handed)
        if isinstance(seen, Picture):  # its middle, as the model would see it
            assert (seen.width, seen.height) == image.size
            assert {tuple(pixel) for row in seen.pixels.tolist() for pixel in row} == {BLUE}


JPEG = encoded(Image.effect_noise((64, 64), 50), "JPEG")


@pytest.mark.parametrize(
    ("data", "name", "status", "says"),
    [
        (b"", "a.jpg", "unreadable", "empty file"),
        (b"", "notes.txt", "ignored", "empty file"),
        (b"just words", "a.PNG", "unreadable", "not an image"),
        (b"just words", "notes.txt", "ignored", "not an image"),
        (b"just words", "notes", "ignored", "not an image"),
        (JPEG[: len(JPEG) // 2], "a.jpg", "unreadable", "OSError: image file is truncated"),
        (JPEG[: len(JPEG) // 2], "notes", "unreadable", "OSError: image file is truncated"),
        (b"\0\0\0\x18ftypheic", "a.heic", "unreadable", "not an image, or of a format that Pillow"),
        (huge_png(2, 2), "a.png", "unreadable", ""),
        (huge_png(2**30, 2**30), "a.png", "unreadable", ""),
        (huge_png(0, 5), "a.png", "unreadable", ""),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(
    data: bytes, name: str, status: str, says: str
) -> None:
    seen = look(data, name)
    assert isinstance(seen, Refusal)
    assert seen.status == status
    assert seen.reason.strip(": ")
    assert says in seen.reason


@pytest.mark.parametrize(
    "error", [TypeError, EOFError, NotImplementedError, KeyError, ZeroDivisionError, struct.error]
)
def test_whatever_is_raised_over_one_file_is_its_reason(error: type[Exception]) -> None:
    def fit(image: Image.Image) -> Image.Image:
        raise error("odd")

    seen = decode(encoded(Image.new("L", (1, 1))), "a.png", fit, max_pixels=9)
    assert isinstance(seen, Refusal)
    assert seen.reason.startswith(f"{error.__name__}: ")
    assert "odd" in seen.reason


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_with_a_hole_is_refused() -> None:
    data = bytearray(encoded(Image.effect_noise((64, 64), 50), "AVIF"))
    hole = data.index(b"mdat") + 4
    data[hole : hole + 100] = b"\xff" * 100
    seen = look(bytes(data), "a.avif")  # libavif's errors are RuntimeErrors
    assert isinstance(seen, Refusal)
    assert "decod" in seen.reason


def test_a_header_that_pillow_stumbles_over_is_refused() -> None:
    data = bytearray(encoded(Image.new("F", (16, 16)), "SPIDER"))
    data[104:108] = struct.pack("=f", 1)  # an image within a stack that is none: AttributeError
    assert isinstance(look(bytes(data), "a.spi"), Refusal)


def test_a_name_or_a_beginning_promises_an_image() -> None:
    assert promises_image("/photos/A.b.JPeG")
    assert promises_image("x.heic")
    assert not promises_image("jpg")
    assert not promises_image("x.jpg.txt")
    assert may_be_image("x.jpg", b"")
    assert may_be_image("no extension", JPEG[:32])
    assert not may_be_image("x.txt", b"just words")
    assert not may_be_image("x", b"")


def fitted(image: Image.Image) -> Image.Image:
    assert image.mode == "RGB"
    return image.resize((8, 8))


@pytest.mark.filterwarnings("ignore")  # Pillow has much to say about them
def test_each_real_odd_file_ends_as_a_picture_or_a_reason(tmp_path: Path) -> None:
    if not ODD_FILES.is_file():
        pytest.skip(f"the odd files are not here: no {ODD_FILES}")
    with tarfile.open(ODD_FILES, errors="surrogateescape") as tar:
        tar.extractall(tmp_path, filter="data", members=[m for m in tar if m.isreg()])
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) > 250
    pictures = 0
    for path in files:
        seen = decode(path.read_bytes(), path.name, fitted, max_pixels=LARGEST)
        if isinstance(seen, Picture):
            pictures += 1
            assert seen.pixels.shape == (8, 8, 3), path
            assert seen.width * seen.height <= LARGEST, path
        else:
            assert seen.status in ("unreadable", "ignored"), path
            assert seen.reason.strip(": "), path
    assert pictures > 100
