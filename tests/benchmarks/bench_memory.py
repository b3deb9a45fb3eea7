"""Does the memory of a run grow with the number of images?

    python tests/benchmarks/bench_memory.py

Takes `pseudolabel run --plain` over 500 and over 10,000 pictures (random crops of the demo's) with
the tiny CLIP, each in a process of its own, and prints the peak resident memory of each and their
ratio, training and contact sheet included.
"""

import argparse
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"


def make_pictures(folder: Path, count: int) -> None:
    """Write `count` different pictures of 96 px, in folders of 1,000."""
    chance = random.Random(0)
    sources = []
    for path in sorted((DATA / "images").rglob("*.jpg")):
        try:
            with Image.open(path) as image:
                sources.append(image.convert("RGB").resize((160, 160)))
        except OSError:  # the demo has a broken one
            continue
    for number in range(count):
        source = sources[number % len(sources)]
        side = chance.randint(60, 150)
        left, top = (chance.randint(0, 160 - side) for _ in range(2))
        crop = source.crop((left, top, left + side, top + side)).resize((96, 96))
        bands = [
            band.point([min(255, v * gain // 10) for v in range(256)])
            for band, gain in zip(
                crop.split(), (chance.randint(5, 14) for _ in range(3)), strict=True
            )
        ]
        target = folder / f"{number // 1000}" / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.merge("RGB", bands).save(target, quality=85)


def peak_megabytes(pictures: Path, store: Path) -> tuple[float, float]:
    """Run over a folder; return the peak resident memory in MB, and the seconds it took."""
    program = str(Path(sys.executable).with_name("pseudolabel"))
    command = [program, "run", str(pictures), "--plain", "--json"]
    command += ["--labels", str(DATA / "labels.toml"), "--store", str(store)]
    command += ["--model", f"local-dir:{DATA / 'models/tiny-clip'}"]
    command += ["--set", "scan.settle_seconds=0"]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, status
    return usage.ru_maxrss / 1024, time.monotonic() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs=2, default=(500, 10_000))
    counts = parser.parse_args().counts
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    peaks = []
    for count in counts:
        folder = Path(tempfile.mkdtemp())
        try:
            make_pictures(folder / "in", count)
            peak, seconds = peak_megabytes(folder / "in", folder / "store")
        finally:
            shutil.rmtree(folder)
        peaks.append(peak)
        print(f"{count:>7} images: peak {peak:7.0f} MB, {seconds:.1f} s")
    print(f"ratio {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
