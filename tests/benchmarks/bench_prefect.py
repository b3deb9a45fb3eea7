"""What Prefect adds to a run of 10,000 images: seconds beside `--plain`, and their share.

    python -m tests.benchmarks.bench_prefect

Takes `pseudolabel run` over pictures of 96 px with the tiny CLIP in three ways, in turn: `--plain`;
through a Prefect server that runs already; with the temporary server that a run starts for itself.
Whole processes are timed, model and imports included. What Prefect adds depends on the number of
tasks, not on the model: with a slower one its share is smaller.
"""

import argparse
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

from tests.benchmarks.bench_memory import DATA, ROOT, make_pictures

PROGRAMS = Path(sys.executable).parent


def seconds(pictures: Path, store: Path, environment: dict[str, str], *options: str) -> float:
    """Run over a folder into a new store; return how long it took."""
    shutil.rmtree(store, ignore_errors=True)
    command = [str(PROGRAMS / "pseudolabel"), "run", str(pictures), "--json", *options]
    command += ["--labels", str(DATA / "labels.toml"), "--store", str(store)]
    command += ["--model", f"local-dir:{DATA / 'models/tiny-clip'}"]
    command += ["--set", "scan.settle_seconds=0", "--set", "train.every_run=false"]
    started = time.monotonic()
    environment = {**os.environ, **environment}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


@contextmanager
def server(home: Path) -> Iterator[str]:
    """Run a Prefect server; yield the URL of its API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [str(PROGRAMS / "prefect"), "server", "start", "--port", str(port)]
    environment = {**os.environ, "PREFECT_HOME": str(home)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(120):
            with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=1):
                break
            time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    folder = Path(tempfile.mkdtemp())
    try:
        make_pictures(folder / "in", asked.images)
        with server(folder / "server") as url:
            home = {"PREFECT_HOME": str(folder / "home")}
            ways: dict[str, tuple[dict[str, str], list[str]]] = {
                "--plain": ({}, ["--plain"]),
                "a server that runs": ({**home, "PREFECT_API_URL": url}, []),
                "a temporary server": (home, []),
            }
            took: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(asked.rounds):
                for way, (environment, options) in ways.items():
                    took[way].append(seconds(folder / "in", folder / "s", environment, *options))
    finally:
        shutil.rmtree(folder)
    for way, rounds in took.items():
        added = [each - plain for each, plain in zip(rounds, took["--plain"], strict=True)]
        share = [each / plain for each, plain in zip(added, took["--plain"], strict=True)]
        print(
            f"{way:<20} {median(rounds):6.1f} s, adds {median(added):5.1f} s ({median(share):.1%})"
        )


if __name__ == "__main__":
    main()
