"""How the service does with many clients at once, and while a run writes to its store.

    python -m tests.benchmarks.search_api --images FOLDER [--drops N] [--clients N] [--seconds S]

Labels half of a folder's images with the bundled tiny CLIP, serves the store by the command `api`
in a process of its own, and has 32 clients ask without a pause: by words, by image id, by an
upload, and for thumbnails, in turn. First alone; then once more while `run` takes the other half.
Told are requests a second, how long they took, and how many failed: any answer but 200.
"""

import argparse
import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np

MODEL = f"local-dir:{Path(__file__).resolve().parents[2] / 'data/models/tiny-clip'}"
COMMAND = [str(Path(sys.executable).with_name("pseudolabel"))]
LABELS = "a dog,a cat,a car,a bird,a flower,food,clothes"


@dataclass
class Load:
    """What the clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=dict)  # of each request, by kind
    failed: list[str] = field(default_factory=list)

    def show(self, title: str, took: float) -> None:
        """Print it."""
        count = sum(map(len, self.seconds.values()))
        sys.stdout.write(f"{title}: {count / took:,.0f} requests/s, {len(self.failed)} failed\n")
        for kind, seconds in self.seconds.items():
            p50, p99 = 1000 * np.percentile(seconds, [50, 99])
            sys.stdout.write(f"  {kind:<10} {len(seconds):7,}  p50 {p50:6.0f}  p99 {p99:6.0f} ms\n")
        for reason in self.failed[:5]:
            sys.stdout.write(f"  failed: {reason}\n")
        sys.stdout.flush()


async def client(
    number: int, url: str, ids: Sequence[str], photo: bytes, load: Load, until: asyncio.Event
) -> None:
    """Ask, one request after another, until told to stop."""
    chance = np.random.default_rng(number)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        turn = number
        while not until.is_set():
            image_id = ids[int(chance.integers(len(ids)))]
            kind = ("text", "id", "upload", "thumbnail")[turn % 4]
            started = time.perf_counter()
            try:
                if kind == "text":
                    words = f"a photo of {chance.integers(1000)} things"
                    answer = await http.get("/search", params={"text": words})
                elif kind == "id":
                    answer = await http.get("/search", params={"id": image_id})
                elif kind == "upload":
                    answer = await http.post("/search", files={"images": ("a.jpg", photo)})
                else:
                    answer = await http.get(f"/thumbnails/{image_id}")
                if answer.status_code != 200:
                    load.failed.append(f"{kind}: {answer.status_code} {answer.text[:200]}")
            except httpx.HTTPError as error:
                load.failed.append(f"{kind}: {type(error).__name__} {error}")
            load.seconds.setdefault(kind, []).append(time.perf_counter() - started)
            turn += 1


async def press(
    url: str, ids: Sequence[str], photo: bytes, clients: int, wait: "asyncio.Future[Any]"
) -> tuple[Load, float]:
    """Have that many clients ask until `wait` is done."""
    load, until = Load(), asyncio.Event()
    started = time.perf_counter()
    asking = [asyncio.create_task(client(n, url, ids, photo, load, until)) for n in range(clients)]
    await wait
    until.set()
    await asyncio.gather(*asking)
    return load, time.perf_counter() - started


def serve(store: Path, log: IO[str]) -> tuple["subprocess.Popen[str]", str]:
    """Start the service; return it and its URL once it answers."""
    command = [*COMMAND, "api", "--store", str(store), "--model", MODEL, "--port", "0"]
    process = subprocess.Popen(command, stderr=log, text=True)
    for _ in range(600):
        for line in Path(log.name).read_text().splitlines():
            if "http://" in line and line.startswith("serving"):
                return process, line.split(" on ")[1].split()[0]
        time.sleep(0.2)
    raise TimeoutError("the service does not answer")


async def measure(root: Path, clients: int, seconds: float) -> None:
    """Ask the service alone, and while a drop is taken."""
    run = [*COMMAND, "run", str(root / "drop"), "--store", str(root / "store"), "--plain"]
    run += ["--model", MODEL, "--labels", LABELS, "--set", "scan.settle_seconds=0", "--json"]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    with (root / "log").open("w") as log:
        process, url = serve(root / "store", log)
        try:
            hits = httpx.get(url + "/search", params={"text": "a photo", "k": 1000}).json()
            ids = [hit["image_id"] for hit in hits["hits"]]
            photo = next((root / "drop").iterdir()).read_bytes()
            pause = asyncio.ensure_future(asyncio.sleep(seconds))
            load, took = await press(url, ids, photo, clients, pause)
            load.show(f"{clients} clients alone", took)
            for image in (root / "later").iterdir():
                image.rename(root / "drop" / image.name)
            going = await asyncio.create_subprocess_exec(*run, stdout=asyncio.subprocess.PIPE)
            told = asyncio.ensure_future(going.communicate())
            load, took = await press(url, ids, photo, clients, told)
            load.show(f"{clients} clients during a run of {took:.0f} s", took)
            embedded = json.loads(told.result()[0])["embed"]["embedded"]
            health = httpx.get(url + "/health").json()
            sys.stdout.write(f"the run embedded {embedded}; health: {health}\n")
        finally:
            process.send_signal(signal.SIGTERM)
            sys.stdout.write(f"stopped with {process.wait(30)}\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--most", type=int, default=4000, help="images taken of it")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20)
    asked = parser.parse_args()
    found = sorted(p for p in asked.images.rglob("*") if p.suffix.lower() in (".jpg", ".png"))
    root = Path(tempfile.mkdtemp())
    try:
        for number, image in enumerate(found[: asked.most]):
            folder = root / ("drop", "later")[number % 2]
            folder.mkdir(exist_ok=True)
            shutil.copy(image, folder / f"{number}{image.suffix}")
        asyncio.run(measure(root, asked.clients, asked.seconds))
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
