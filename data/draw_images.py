"""Draw the demo images: Noto's colour emoji in, small JPEGs with one folder per class out.

Every picture has a seed of its own, so the same font and Pillow give the same bytes, and a class
that is added to the table leaves the pictures of the others alone.
"""

import argparse
import colorsys
import io
import random
import sys
from pathlib import Path

from PIL import ExifTags, Image, ImageChops, ImageDraw, ImageFilter, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # px, the one size that its bitmaps come in
PER_CLASS = 12
MAX_BYTES = 9_200

# The folder of a class, and its glyphs: picture number n takes the n-th of them, round and round.
# The demo model was trained without the dove, guide dog, taxi, passenger ship and departing
# airplane, and hardly knows the owl or the pick-up: some mistakes are meant to be there.
CLASSES = {
    "animals/bird": "🐦🦆🦅🐦🦜🦆🕊🦅🐦🦉🦆🕊",  # bird, duck, eagle, parrot, dove, owl
    "animals/cat": "🐱🐈😺🐈",  # face, whole cat, smiling face
    "animals/dog": "🐶🐕🐩🐶🐕🦮",  # face, whole dog, poodle, guide dog
    "animals/frog": "🐸",
    "animals/horse": "🐴🐎",  # face, galloping horse
    "clothes/dress": "👗",
    "clothes/shoes": "👟👞👟👡👞👟🥿👞👟👠👞🥾",  # running, man's, sandal, flat, heel, boot
    "food/avocado": "🥑",
    "food/banana": "🍌",
    "food/kiwi": "🥝",
    "food/lemon": "🍋",
    "food/mushroom": "🍄",
    "food/orange": "🍊",
    "food/pear": "🍐",
    "food/pineapple": "🍍",
    "food/tomato": "🍅",
    "vehicles/airplane": "✈🛩✈🛩✈🛫",  # airliner, small airplane, departure
    "vehicles/automobile": "🚗🚙🚘🚗🚙🚕",  # car, off-roader, car from the front, taxi
    "vehicles/ship": "🚢⛴🚢⛴🚢🛳🚢⛴🚢⛴⛵🛳",  # liner, ferry, passenger ship, sailing boat
    "vehicles/truck": "🚚🚛🚚🚛🚚🚛🚚🚛🚒🚚🚛🛻",  # van, articulated lorry, fire engine, pick-up
}
SIZES = [(224, 288), (240, 320), (256, 256), (288, 224), (300, 300), (304, 272), (320, 240)]  # px
TONES = [(0.2, 0.97), (0.35, 0.95), (0.55, 0.88), (0.5, 0.58)]  # saturation, value: pastel to deep

Colour = tuple[int, int, int]
Size = tuple[int, int]


def pick_palette(rng: random.Random) -> list[Colour]:
    """Pick three colours that go together: of one tone and neighbours in hue."""
    hue, step = rng.random(), rng.choice([-0.12, -0.07, 0.07, 0.12])
    saturation, value = rng.choice(TONES)
    palette = []
    for i, (richer, lighter) in enumerate([(1.0, 1.0), (0.7, 1.1), (1.3, 0.85)]):
        tone = min(1, saturation * richer), min(1, value * lighter)
        red, green, blue = colorsys.hsv_to_rgb((hue + i * step) % 1, *tone)
        palette.append((round(255 * red), round(255 * green), round(255 * blue)))
    return palette


def draw_background(size: Size, palette: list[Colour], rng: random.Random) -> Image.Image:
    """Draw a gradient, soft blobs, a spotlight, stripes or a landscape."""
    base, light, dark = palette
    kind = rng.choice(["melt", "melt", "spotlight", "stripes", "scene", "scene"])
    if kind == "spotlight":
        edge = Image.radial_gradient("L").resize(size)  # black in the middle
        return Image.composite(Image.new("RGB", size, base), Image.new("RGB", size, light), edge)
    # A few coloured points, enlarged until they melt into each other.
    columns, rows = rng.choice([(2, 2), (3, 3), (4, 3)]) if kind == "melt" else (1, 2)
    points = Image.new("RGB", (columns, rows))
    cells = columns * rows
    points.putdata(rng.choices(palette, k=cells) if cells > 4 else (palette * 2)[:cells])
    width, height = 2 * size[0], 2 * size[1]  # drawn at twice the size for smooth edges
    image = points.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    if kind == "stripes":
        band, lean = rng.randint(40, 90), rng.choice([-height, 0, height // 2, height])
        for x in range(-2 * height, width + 2 * height, 2 * band):
            end = x + lean
            draw.polygon([(x, 0), (x + band, 0), (end + band, height), (end, height)], light)
    elif kind == "scene":
        horizon, middle = round(height * rng.uniform(0.55, 0.75)), rng.randint(0, width)
        draw.circle((rng.randint(0, width), round(0.22 * height)), 0.12 * height, light)
        draw.ellipse((middle - 1.5 * width, horizon, middle + 1.5 * width, 3 * height), dark)
    return image.resize(size, Image.Resampling.LANCZOS)


def draw_glyph(font: ImageFont.FreeTypeFont, glyph: str) -> Image.Image:
    """Draw one glyph on nothing, four times as large as the font has it, without a margin."""
    # Drawn straight onto transparency, its soft edge would be mixed with black. What differs
    # between black and white paper is what shows through, and on black lies colour times alpha.
    on_black, on_white = (Image.new("RGB", (160, 160), paper) for paper in ("black", "white"))
    for image in (on_black, on_white):
        ImageDraw.Draw(image).text((0, 0), glyph, font=font, embedded_color=True)
    alpha = ImageChops.invert(ImageChops.subtract(on_white, on_black).getchannel("G"))
    image = Image.merge("RGBa", (*on_black.split(), alpha)).convert("RGBA")
    image = image.crop(image.getbbox())
    return image.resize((4 * image.width, 4 * image.height), Image.Resampling.LANCZOS)


def place(image: Image.Image, glyph: Image.Image, x: float, y: float, rng: random.Random) -> None:
    """Paste the glyph's middle near (x, y), fractions of the image, perhaps over a shadow."""
    jitter = 0.05 * min(image.size)
    left, top = (
        min(max(round(at * side - length / 2 + rng.uniform(-jitter, jitter)), 0), side - length)
        for at, side, length in zip((x, y), image.size, glyph.size, strict=True)
    )
    if rng.random() < 0.5:
        drop = round(0.03 * min(image.size))
        shade = Image.new("L", image.size)
        shade.paste(100, (left + drop, top + drop), glyph)
        image.paste((20, 20, 40), mask=shade.filter(ImageFilter.GaussianBlur(drop)))
    image.paste(glyph, (left, top), glyph)


def draw_picture(font: ImageFont.FreeTypeFont, character: str, seed: str) -> Image.Image:
    """Draw a glyph once or twice on a background; turn, size and place are the seed's."""
    rng = random.Random(seed)  # noqa: S311 - drawing, not cryptography
    glyph = draw_glyph(font, character)
    if rng.random() < 0.4:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Of three palettes, the one that differs most from the glyph's own mean colour.
    mean = glyph.resize((1, 1), Image.Resampling.BOX).convert("RGB").tobytes()
    palettes = [pick_palette(rng) for _ in range(3)]
    palette = max(palettes, key=lambda p: sum(abs(a - b) for a, b in zip(p[0], mean, strict=True)))
    image = draw_background(rng.choice(SIZES), palette, rng)
    pair = rng.random() < 0.14
    least, most = (0.45, 0.52) if pair else (0.5, 0.85)  # of the picture's short side
    for x, y in [(0.3, 0.42), (0.7, 0.6)] if pair else [(0.5, 0.5)]:
        side = round(min(image.size) * rng.uniform(least, most))
        turned = glyph.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC, expand=True)
        turned = turned.crop(turned.getbbox())
        turned.thumbnail((side, side), Image.Resampling.LANCZOS)
        place(image, turned, x, y, rng)
    return image


def encode(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    """Encode as JPEG at the best quality that stays within MAX_BYTES."""
    for quality in range(95, 20, -3):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True, exif=exif or b"")
        if file.tell() <= MAX_BYTES:
            return file.getvalue()
    raise ValueError(f"no quality brings {image.size} px under {MAX_BYTES} bytes")


def draw_all(font: ImageFont.FreeTypeFont) -> dict[str, bytes]:
    """Draw everything: the bytes of each file by its path, the odd five included."""
    files = {}
    for folder, glyphs in CLASSES.items():
        for n in range(PER_CLASS):
            seed = f"{Path(folder).name}-{n + 1:02}"
            picture = draw_picture(font, glyphs[n % len(glyphs)], seed)
            files[f"{folder}/{seed}.jpg"] = encode(picture)
    files["animals/cat/cat-03-copy.jpg"] = files["animals/cat/cat-03.jpg"]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # "turn me clockwise": the pixels lie turned the other way
    upright = draw_picture(font, "🐎", "horse-sideways")
    sideways = upright.transpose(Image.Transpose.ROTATE_90)
    files["animals/horse/horse-sideways.jpg"] = encode(sideways, exif)
    files["food/lemon/lemon-misnamed.png"] = encode(draw_picture(font, "🍋", "lemon-misnamed"))
    whole = encode(draw_picture(font, "🐸", "truncated"))
    files["broken/truncated.jpg"] = whole[: len(whole) * 3 // 5]
    files["broken/not-an-image.jpg"] = b"This is a text file with the name of a JPEG.\n"
    return files


def main() -> None:
    """Read the command line and write the tree; files of other names in it are left alone."""
    parser = argparse.ArgumentParser(description="Draw the demo images from Noto's colour emoji.")
    images = Path(__file__).parent / "images"
    parser.add_argument("dest", nargs="?", type=Path, default=images, help="default: %(default)s")
    parser.add_argument("--font", type=Path, default=FONT, help="default: %(default)s")
    options = parser.parse_args()
    try:
        font = ImageFont.truetype(options.font, FONT_SIZE)
    except OSError as error:
        sys.exit(
            f"cannot use the font {options.font}: {error}. Install Debian's package "
            "fonts-noto-color-emoji, or name its NotoColorEmoji.ttf with --font"
        )
    files = draw_all(font)
    for name, content in files.items():
        path: Path = options.dest / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    print(f"{len(files)} files, {sum(map(len, files.values())):,} bytes in {options.dest}")


if __name__ == "__main__":
    main()
