"""Files made by hand, odd ones too: each becomes the right pixels, or a reason, never an error."""

import hashlib
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from pipeline.images.decoding import (
    Picture,
    Refusal,
    decode,
    image_id,
    may_be_image,
    promises_image,
)
from pipeline.images.fitting import Fitting
from pipeline.images.workers import Decoders
from tests.test_workers import mine

ROOT = Path(__file__).resolve().parents[1]
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


@pytest.mark.filterwarnings("error")
def test_fractions_and_other_floats_become_eight_bits() -> None:
    nan, inf = float("nan"), float("inf")
    for given, shown in (
        ([0, 0.5, 1, -3], [0, 127, 255, 0]),
        ([0, 1.5, 255, nan], [0, 1, 255, 0]),
        ([0, 256, 0xFFFF, -inf], [0, 1, 255, 0]),
        ([0, 256, 512, inf], [0, 1, 2, 255]),
    ):
        image = grey([given], np.float32)  # type: ignore[list-item]
        assert image.mode == "F"
        assert [r for r, _, _ in pixels(encoded(image, "TIFF"))[0]] == shown


def test_either_order_of_bytes_is_read() -> None:
    data = encoded(grey([[0x0102, 0xFF00]], np.uint16), "TIFF")
    swapped = Image.frombytes("I;16B", (2, 1), b"\x01\x02\xff\x00")
    assert pixels(encoded(swapped, "TIFF")) == pixels(data) == [[(1, 1, 1), WHITE]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "F"])
def test_a_picture_converted_strip_by_strip_is_whole(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    if mode in ("RGBA", "LA"):
        image = Image.fromarray(rng.integers(0, 256, (31, 7, 4), np.uint8)).convert(mode)
    else:
        dark = rng.integers(0, 200, (31, 7))
        dark[30, 6] = 60_000  # in the last strip alone: it decides about all the others
        image = Image.fromarray(dark.astype(np.uint16 if mode == "I;16" else np.float32))
    data = encoded(image, "TIFF")
    at_once = pixels(data)
    for strip in (1, 7, 20, 100):
        monkeypatch.setattr("pipeline.images.decoding._STRIP", strip)
        assert pixels(data) == at_once


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


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("GIF", {}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("MPO", {"quality": 95}),
    ],
)
def test_an_animation_or_a_pile_of_pages_is_its_first(form: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in (GREEN, RED, BLUE)]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    with Image.open(BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert np.abs(np.array(pixels(data)) - GREEN).max() <= 2  # MPO is lossy


def test_an_eps_file_is_not_run() -> None:
    refused = look(encoded(Image.new("RGB", (2, 2)), "EPS"), "x.eps")
    assert isinstance(refused, Refusal)
    assert "is a program" in refused.reason


def test_a_progressive_jpeg_with_a_broken_profile_keeps_its_colours() -> None:
    image = Image.new("RGB", (16, 16), BLUE)
    data = encoded(image, "JPEG", progressive=True, quality=95, icc_profile=b"no profile at all")
    assert np.abs(np.array(pixels(data)) - BLUE).max() <= 2
    assert pixels(encoded(image, icc_profile=b"\0" * 300)) == [[BLUE] * 16] * 16


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_read_upright(orientation: int) -> None:
    heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 32), RED)
    image.paste(BLUE, (0, 0, 32, 32))  # the left half
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = BytesIO()
    heif.from_pillow(image).save(file, quality=95, exif=exif.tobytes())
    seen = look(file.getvalue(), "photo.txt")
    assert isinstance(seen, Picture)
    assert (seen.width, seen.height) == ((64, 32) if orientation == 1 else (32, 64))
    first = seen.pixels[4, 4].tolist()  # stored left is shown at the top
    assert np.abs(np.array(first) - BLUE).max() < 20


def test_a_picture_tells_its_true_format_and_its_size_before_fitting() -> None:
    webp = encoded(Image.new("RGB", (6, 2), RED), "WEBP", lossless=True)
    seen = decode(webp, "wrong.JPG", lambda image: image.resize((1, 1)), max_pixels=LARGEST)
    assert isinstance(seen, Picture)
    assert (seen.width, seen.height, seen.format) == (6, 2, "WEBP")
    assert seen.pixels.tolist() == [[list(RED)]]


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
        (b"\0\0\0\x18ftypheic", "a.heic", "unreadable", "HEIC"),
        (b"\0\0\0\x18ftypheic", "notes.txt", "unreadable", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a.jpg", "unreadable", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "a.jpg", "unreadable", "AVIF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "a.mp4", "ignored", "not an image"),
        (b"some of heic, and more words", "notes", "ignored", "not an image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a", "unreadable", "pillow-jxl-plugin"),
        (b"\xff\x0a\0\0", "a.jxl", "unreadable", "pillow-jxl-plugin"),
        (b"jxl", "a.jxl", "unreadable", "not an image, or of a format that Pillow cannot read"),
        (huge_png(2, 2), "a.png", "unreadable", ""),
        (huge_png(2**30, 2**30), "a.png", "unreadable", f"{2**60} pixels are more than max_pixels"),
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


def test_a_reason_is_a_short_line_that_a_table_can_hold() -> None:
    def fit(image: Image.Image) -> Image.Image:
        raise OSError("two\nlines\tand \udce9 " + "no end " * 1000)

    seen = decode(encoded(Image.new("L", (1, 1))), "a.png", fit, max_pixels=9)
    assert isinstance(seen, Refusal)
    assert seen.reason.startswith("OSError: two lines and ? no end no end")
    assert len(seen.reason) <= 300


def test_too_little_memory_is_a_reason() -> None:
    def fit(image: Image.Image) -> Image.Image:
        raise MemoryError

    seen = decode(encoded(Image.new("L", (1, 1))), "a.png", fit, max_pixels=9)
    reason = "decoding takes more memory than one picture may have"
    assert seen == Refusal("unreadable", reason)


WITHOUT = """
import sys
sys.modules["pillow_heif"] = None
from PIL import features
features.check = lambda name: False
from pipeline.images.decoding import decode
for brand in (b"heic", b"mif1", b"avif"):
    seen = decode(b"\\0\\0\\0\\x18ftyp" + brand, "x.jpg", None, max_pixels=9)
    print(seen.status, seen.reason)
"""


def test_without_the_plugin_the_reason_names_what_to_install() -> None:
    command = [sys.executable, "-c", WITHOUT]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    heic = 'unreadable HEIC needs pillow-heif: pip install "pseudolabel[heic]"'
    avif = "unreadable AVIF needs a newer Pillow: pip install --upgrade pillow"
    assert run.stdout.splitlines() == [heic, heic, avif]


class Growing(ImageFile.ImageFile):
    """A picture that is larger than its header says, as some HEICs are."""

    format = "GROWING"

    def _open(self) -> None:
        self._size, self._mode = (1, 1), "L"

    def load(self) -> Any:
        self._size = (100, 100)
        self.im = Image.new("L", self._size).im


def test_a_picture_that_grows_while_it_is_decoded_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opener = (Growing, lambda head: head.startswith(b"growing"))
    monkeypatch.setitem(Image.OPEN, "GROWING", opener)
    monkeypatch.setattr(Image, "ID", [*Image.ID, "GROWING"])
    assert isinstance(look(b"growing", max_pixels=10_000), Picture)
    refused = Refusal("unreadable", "100 x 100 pixels are more than max_pixels 9999")
    assert look(b"growing", max_pixels=9999) == refused


FIRST = """
import sys
from pipeline.images.decoding import decode
print(decode(sys.stdin.buffer.read(), "x", lambda image: image, max_pixels=9999).format)
"""


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_that_calls_itself_heif_goes_to_pillow_s_own_reader() -> None:
    data = bytearray(encoded(Image.new("RGB", (64, 64), RED), "AVIF"))
    assert data[8:12] == b"avif"
    data[8:12] = b"mif1"
    command = [sys.executable, "-c", FIRST]  # a process in which Pillow has read nothing yet
    run = subprocess.run(command, cwd=ROOT, input=bytes(data), capture_output=True, check=True)
    assert run.stdout == b"AVIF\n"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="memory is told by /proc")
@pytest.mark.parametrize(("mode", "form"), [("RGBA", "PNG"), ("RGB", "JPEG"), ("I;16", "PNG")])
def test_no_more_than_two_copies_of_a_picture_live_at_a_time(mode: str, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned: the one step that needs a second copy
    data = encoded(Image.new(mode, (6000, 5000)), form, exif=exif)
    copy = 4 * 6000 * 5000  # bytes, as Pillow keeps RGB

    def peak() -> int:
        [worker] = mine()
        status = Path(f"/proc/{worker}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    with Decoders(Fitting((8, 8)), max_pixels=30_000_000, processes=1) as decoders:
        assert isinstance(decoders.decode(encoded(Image.new("L", (8, 8))), "small.png"), Picture)
        before = peak()
        assert isinstance(decoders.decode(data, "large"), Picture)
        assert peak() - before < 2.4 * copy  # a strip or two on top


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
    assert may_be_image("x.txt", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert may_be_image("x.txt", b"\xff\x0a")
    assert not may_be_image("x.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0isommp42")
    assert not may_be_image("x.txt", b"just words")
    assert not may_be_image("x", b"")
