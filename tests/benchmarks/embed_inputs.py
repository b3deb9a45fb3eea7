"""What every party is given: as many different files as are wanted, and the same weights."""

import logging
import os
import platform
from pathlib import Path

import open_clip
import torch

ARCHITECTURE = "ViT-B-32"
_SUFFIXES = {".jpg", ".jpeg"}
_PER_FOLDER = 1000


def copy_photos(photos: Path, target: Path, first: int, count: int) -> None:
    """Write copies of some JPEGs, no two of the same bytes: a comment in each numbers them.

    Args:
        photos: the folder of the originals.
        target: the folder to write to.
        first: the number of the first copy; copies of different numbers differ.
        count: how many.
    """
    originals = [path.read_bytes() for path in images_in(photos)]
    if not originals:
        raise SystemExit(f"{photos}: holds no JPEG")
    for number in range(first, first + count):
        data = originals[number % len(originals)]
        folder = target / f"{number // _PER_FOLDER:03}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06}.jpg").write_bytes(data[:2] + _comment(number) + data[2:])
    os.sync()  # or the disk is still busy with them while others are measured


def _comment(number: int) -> bytes:
    """Return a comment segment, which stands behind the two bytes that a JPEG begins with."""
    text = f"copy {number}".encode()
    return b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text


def images_in(folder: Path) -> list[Path]:
    """Return the JPEGs of a folder in the order of their names."""
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES]


def bring_to_memory(folder: Path) -> None:
    """Read every file once, so that nobody measures the disk."""
    for path in images_in(folder):
        path.read_bytes()


def save_weights(file: Path) -> str:
    """Save a model of random weights, always the same; return the name we give it."""
    logging.getLogger().setLevel(logging.ERROR)  # it warns that the weights are random
    torch.manual_seed(0)
    torch.save(open_clip.create_model(ARCHITECTURE).state_dict(), file)
    return f"{ARCHITECTURE}/{file}"


def machine() -> str:
    """Describe in a line what was measured on."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    about = Path("/proc/cpuinfo").read_text()
    name = next(
        (line.split(":")[1].strip() for line in about.splitlines() if "model name" in line),
        platform.machine(),
    )
    able = [word for word in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if word in about]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{cores} cores of {name} ({' '.join(able)}), {memory:.0f} GiB, {gpu}, {versions}"
