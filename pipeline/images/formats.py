"""Formats that Pillow reads only with help: the plugins that give it, and what to install."""

from contextlib import suppress
from functools import cache
from importlib import import_module

from PIL import Image, features

EXTENSIONS = frozenset((".jfif", ".avif", ".heic", ".heics", ".heif", ".heifs", ".hif", ".jxl"))
_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")  # bare, and in a container


@cache
def load_plugins() -> None:
    """Let Pillow read HEIC and JPEG XL where their plugins are installed.

    Each decodes in one thread: pictures are decoded side by side already.
    """
    Image.init()  # first, so that Pillow's own readers are asked before the plugins
    with suppress(ImportError):
        heif = import_module("pillow_heif")
        heif.register_heif_opener(thumbnails=False, depth_images=False, decode_threads=1)
    with suppress(ImportError):
        import_module("pillow_jxl")  # registers itself
    with suppress(ImportError):  # an older Pillow
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def what_it_needs(data: bytes) -> str | None:
    """Tell by its first bytes what a picture needs that Pillow could not read.

    Returns:
        What to install, or what is wrong where that is installed; None where the bytes are of
        none of the formats known here.
    """
    if data.startswith(_JPEG_XL):
        if "JXL" in Image.OPEN:
            return "broken JPEG XL, or of a kind that pillow-jxl-plugin cannot read"
        return "JPEG XL needs its plugin: pip install pillow-jxl-plugin"
    brands = _brands(data)
    if brands & _AVIF:
        if features.check("avif"):
            return "broken AVIF, or larger or of another kind than Pillow can read"
        return "AVIF needs a newer Pillow: pip install --upgrade pillow"
    if brands & _HEIC:
        if "HEIF" in Image.OPEN:
            return "broken HEIC, or of a kind that pillow-heif cannot read"
        return 'HEIC needs pillow-heif: pip install "pseudolabel[heic]"'
    return None


def _brands(data: bytes) -> set[bytes]:
    """Return what a file of the MP4 family says it is compatible with; empty for all others."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(max(int.from_bytes(data[:4]), 12), 128)
    return {data[at : at + 4] for at in range(8, end, 4)}
