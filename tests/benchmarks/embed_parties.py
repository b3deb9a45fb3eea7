"""Who is measured: the command of each, and how many images it is given."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.images.decoding import image_id
from tests.benchmarks.process_tree import Ended, finish

OURS, PEER, README, LOADER = "ours", "clip-retrieval", "README loop", "DataLoader"
_LOOPS = (sys.executable, "-m", "tests.benchmarks.embed_loops")


@dataclass(frozen=True)
class Party:
    """One program that embeds a folder."""

    name: str
    command: Callable[[Path, Path], list[str]]  # of a folder of images and one for the results
    counts: tuple[int, int]  # images of its smaller and its larger run
    also: Mapping[str, str] = field(default_factory=dict)  # environment variables

    def run(self, inputs: Path, results: Path, count: int, *, watch: bool = False) -> Ended:
        """Embed the folder of so many images."""
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir()
        return finish(self.command(inputs / str(count), results), also=self.also, watch=watch)


def ours(model: str, counts: tuple[int, int]) -> Party:
    """`pseudolabel run --plain`: all of a run but training, which no other party does."""
    return Party(OURS, lambda folder, results: run_command(model, [folder], results), counts)


def run_command(model: str, folders: list[Path], results: Path, *settings: str) -> list[str]:
    """Return the command of a run over new folders."""
    program = str(Path(sys.executable).with_name("pseudolabel"))
    command = [program, "run", *map(str, folders), "--plain", "--json", "--model", model]
    command += ["--labels", "dog,cat,car", "--store", str(results / "store")]
    for setting in ("scan.settle_seconds=0", "train.every_run=false", *settings):
        command += ["--set", setting]
    return command


def clip_retrieval(python: Path, model: str, counts: tuple[int, int], settings: str) -> Party:
    """`clip-retrieval inference` from the environment of this interpreter."""
    options = [word for pair in settings.split(",") for word in f"--{pair}".split("=", 1)]

    def command(folder: Path, results: Path) -> list[str]:
        program = str(python.with_name("clip-retrieval"))
        asked = ["--input_dataset", str(folder), "--output_folder", str(results / "out")]
        asked += ["--clip_model", f"open_clip:{model}", "--input_format", "files"]
        asked += ["--enable_text", "False", "--enable_image", "True", *options]
        return [program, "inference", *asked]

    return Party(PEER, command, counts, {"HF_HUB_OFFLINE": "1"})


def readme_loop(model: str, counts: tuple[int, int]) -> Party:
    """Embed one image at a time."""

    def command(folder: Path, results: Path) -> list[str]:
        asked = ["--model", model, "--out", str(results / "features.npy")]
        return [*_LOOPS, "readme", str(folder), *asked]

    return Party(README, command, counts)


def loader_loop(model: str, counts: tuple[int, int], workers: int) -> Party:
    """Embed batches that a torch DataLoader makes with open_clip's transform."""

    def command(folder: Path, results: Path) -> list[str]:
        asked = ["--model", model, "--out", str(results / "features.npy")]
        return [*_LOOPS, "loader", str(folder), *asked, "--workers", str(workers)]

    return Party(f"{LOADER}, {workers} workers", command, counts)


def told_by_ours(ended: Ended, count: int) -> dict[str, Any]:
    """Return the summary of a run of ours, having made sure that it embedded everything."""
    summary: dict[str, Any] = json.loads(ended.output)
    if summary["embed"]["embedded"] != count:
        raise RuntimeError(f"{count} images were to be embedded: {summary['embed']}")
    return summary


def same_vectors(ours_results: Path, peer_results: Path) -> float:
    """Return the lowest correlation between our vector of an image and the peer's.

    Random weights give all images nearly the same direction, so a plain cosine would always be
    high; what is compared is how each differs from the mean of all.
    """
    parts = sorted((peer_results / "out/img_emb").glob("*.npy"))
    theirs = np.concatenate([np.load(part) for part in parts]).astype(np.float32)
    about = pl.read_parquet(peer_results / "out/metadata/*.parquet")
    row_of = {
        image_id(Path(path).read_bytes()): row for row, path in enumerate(about["image_path"])
    }
    store = pl.read_parquet(ours_results / "store/embeddings/*.parquet")
    mine = store["embedding"].to_numpy().astype(np.float32)
    theirs = theirs[[row_of[identity] for identity in store["image_id"]]]
    mine, theirs = mine - mine.mean(axis=0), theirs - theirs.mean(axis=0)
    lengths = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((mine * theirs).sum(axis=1) / lengths).min())
