"""The two halves of embedding, each alone and with all cores to itself, as fast as we can make it.

    python -m tests.benchmarks.embed_halves model MODEL --way torch-bf16 --batch-size 64
    python -m tests.benchmarks.embed_halves decode FOLDER --way pillow --size 224

`model` embeds one ready batch again and again; `decode` makes pixels of the model's size from bytes
in memory, in a process per core. Both print images/s.
"""

import argparse
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.clip.encoder import load_encoder
from pipeline.clip.loading import load_model
from pipeline.images.fitting import Fitting
from tests.benchmarks.embed_inputs import images_in

Embed = Callable[[], object]
_DTYPES = {"torch-fp32": torch.float32, "torch-bf16": torch.bfloat16, "torch-fp16": torch.float16}
CORES = len(os.sched_getaffinity(0))
_CUDA = torch.cuda.is_available()
BATCH_SIZES = (16, 32, 64) if not _CUDA else (64, 256, 1024)


def embedder(name: str, way: str) -> Callable[[int], Embed]:
    """Load a model; return what makes, of a size of batch, a call that embeds a ready batch.

    Ours starts from bytes, torch from tensors that were made beforehand.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as a run does
    chance = np.random.default_rng(0)
    if way == "encoder":
        encoder = load_encoder(name)

        def ours(batch_size: int) -> Embed:
            pixels = chance.integers(0, 256, (batch_size, *encoder.fit.size, 3), np.uint8)
            return lambda: encoder.encode_images(pixels)

        return ours
    visual = load_model(name).model.visual
    height, width = input_size(visual)
    device, dtype = "cuda" if _CUDA else "cpu", _DTYPES[way]
    visual.to(device, dtype=dtype, memory_format=torch.channels_last)

    def direct(batch_size: int) -> Embed:
        images = torch.from_numpy(chance.normal(size=(batch_size, 3, height, width)))
        images = images.to(device, dtype=dtype, memory_format=torch.channels_last)

        return lambda: visual(images).float().cpu()

    return direct


def input_size(visual: Any) -> tuple[int, int]:
    """Return height and width of the images that a tower of open_clip takes."""
    size = visual.image_size
    return (size, size) if isinstance(size, int) else tuple(size)


def model_rate(ready: Callable[[int], Embed], batch_size: int, callers: int, need: float) -> float:
    """Return images/s of the model alone.

    Args:
        ready: makes what embeds a ready batch.
        batch_size: images of a batch.
        callers: threads that embed a batch each, at the same time, and share the cores.
        need: seconds to measure for, at least.
    """
    start = threading.Barrier(callers)

    def call(embed: Embed) -> float:
        torch.set_num_threads(max(1, CORES // callers))  # of this thread alone
        with torch.inference_mode():
            embed()
            embed()
            start.wait()
            batches, began = 0, time.perf_counter()
            while (passed := time.perf_counter() - began) < need:
                embed()
                batches += 1
        return batches * batch_size / passed

    with ThreadPoolExecutor(callers) as pool:
        return sum(pool.map(call, [ready(batch_size) for _ in range(callers)]))


def fastest_precision(name: str, seconds: float) -> str:
    """Return the way to use torch that is fastest with batches of the smallest size."""
    ways = [way for way in _DTYPES if _CUDA or way != "torch-fp16"]
    size = BATCH_SIZES[0]
    return max(ways, key=lambda way: model_rate(embedder(name, way), size, 1, seconds))


def fastest_model(name: str, seconds: float) -> dict[str, object]:
    """Try every way, size of batch and division of the cores; return the fastest."""
    rates = {}
    for way in ("encoder", fastest_precision(name, seconds)):
        ready = embedder(name, way)
        for size in BATCH_SIZES:
            for callers in {1} if _CUDA else {1, CORES}:
                rates[way, size, callers] = model_rate(ready, size, callers, seconds)
    way, size, callers = max(rates, key=lambda key: rates[key])
    tried = {f"{w} {n} x {c}": round(rate, 1) for (w, n, c), rate in rates.items()}
    height, _ = input_size(load_model(name).model.visual)
    chosen = {"way": way, "batch_size": size, "callers": callers}
    return {**chosen, "input": height, "tried": tried}


def pillow(data: bytes, size: int) -> object:
    """Decode as open_clip does, bit for bit."""
    image = Image.open(BytesIO(data))
    return np.array(Fitting((size, size))(image.convert("RGB")))


def pillow_short(data: bytes, size: int) -> object:
    """Let the decoder itself scale down where it can, and resize only what is not cut off."""
    image = Image.open(BytesIO(data))
    image.draft("RGB", (size, size))
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    rgb = image.convert("RGB")
    return np.array(rgb.resize((size, size), Image.Resampling.BICUBIC, box))


def torchvision_way(data: bytes, size: int) -> object:
    """Decode and resize with torchvision, on tensors."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional

    encoded = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
    pixels = decode_jpeg(encoded, mode=ImageReadMode.RGB)
    bicubic = functional.InterpolationMode.BICUBIC
    resized = functional.resize(pixels, [size], interpolation=bicubic, antialias=True)
    return functional.center_crop(resized, [size, size]).permute(1, 2, 0).contiguous().numpy()


DECODE_WAYS: dict[str, Callable[[bytes, int], object]] = {
    "pillow": pillow,
    "pillow-short": pillow_short,
    "torchvision": torchvision_way,
}


def _decode_share(
    paths: list[Path],
    way: str,
    size: int,
    seconds: float,
    start: Barrier,
    told: "Queue[tuple[int, float]]",
) -> None:
    """Decode some files, again and again, and tell how many a second."""
    torch.set_num_threads(1)
    files = [path.read_bytes() for path in paths]
    decode = DECODE_WAYS[way]
    for data in files[:20]:
        decode(data, size)
    start.wait()
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        decode(files[done % len(files)], size)
        done += 1
    told.put((done, passed))


def decode_rate(folder: Path, way: str, size: int, seconds: float) -> float:
    """Return images/s of decoding alone, on all cores."""
    processes = CORES
    paths = images_in(folder)[:400]
    spawn = multiprocessing.get_context("spawn")
    start, told = spawn.Barrier(processes), spawn.Queue()
    workers = [
        spawn.Process(
            target=_decode_share, args=(paths[n::processes], way, size, seconds, start, told)
        )
        for n in range(processes)
    ]
    for worker in workers:
        worker.start()
    rate = 0.0
    for _ in workers:
        done, passed = told.get(timeout=60 + seconds)
        rate += done / passed
    for worker in workers:
        worker.join()
    return rate


def main() -> None:
    """Measure one half in one way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("half", choices=("model", "decode"))
    parser.add_argument("what", help="the model, or a folder")
    parser.add_argument("--way", required=True, help="best: try all, and tell which is fastest")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--callers", type=int, default=1, help="batches at the same time")
    parser.add_argument("--size", type=int, default=224, help="pixels of the model's input")
    parser.add_argument("--seconds", type=float, default=6.0)
    asked = parser.parse_args()
    way, seconds = asked.way, asked.seconds
    if asked.half == "decode":
        print(json.dumps(decode_rate(Path(asked.what), way, asked.size, seconds)))
    elif way == "best":
        print(json.dumps(fastest_model(asked.what, seconds)))
    else:
        ready = embedder(asked.what, way)
        print(json.dumps(model_rate(ready, asked.batch_size, asked.callers, seconds)))


if __name__ == "__main__":
    main()
