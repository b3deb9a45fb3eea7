"""Throughput on a Ray cluster beside one process, and the plan of a billion images.

    python -m tests.benchmarks.scale --photos FOLDER
    python -m tests.benchmarks.scale --plan STORE --rate 100

The first takes `pseudolabel run --plain` over copies of the JPEGs in FOLDER, no two of the same
bytes, with ViT-B-32 of random weights, three ways in turn: in one process; with one Ray worker that
has all cores; with two that have half of them each. The cluster is the run's own. Rate: each way
runs over a smaller and a larger folder, and what the difference of the images takes beyond the
smaller is the rate: starting the cluster and loading the model cancel out, and are told apart. All
ways have the same shards, small ones: at the end a worker waits for another one as long as a shard
takes. The overhead is taken within each round. Then comes the plan, by these numbers and by the
store that the larger run in one process left.

The second prints the plan alone, by a store that some run has left and a rate that was measured.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.cores import cores
from tests.benchmarks.embed_inputs import bring_to_memory, copy_photos, machine, save_weights
from tests.benchmarks.embed_parties import Party, run_command, told_by_ours
from tests.benchmarks.scale_plan import Assumed, measure_store, show_plan

LOCAL, ONE, TWO = "one process", "1 Ray worker", "2 Ray workers"
Round = dict[str, dict[str, float]]


def ways(model: str, counts: tuple[int, int], shard_rows: int, settings: list[str]) -> list[Party]:
    """Return the three ways of embedding the same folder."""
    ray = ("run.engine=ray", "run.ray_address=")
    by_name: dict[str, tuple[str, ...]] = {
        LOCAL: (),
        ONE: (*ray, "run.ray_workers=1", f"run.num_cpus={cores()}"),
        TWO: (*ray, "run.ray_workers=2", f"run.num_cpus={max(1, cores() // 2)}"),
    }

    def command(way: str, folder: Path, results: Path) -> list[str]:
        shards = f"run.shard_rows={shard_rows}"
        return run_command(model, [folder], results, shards, *by_name[way], *settings)

    return [
        Party(way, lambda folder, results, way=way: command(way, folder, results), counts)  # type: ignore[misc]
        for way in by_name
    ]


def measure(party: Party, root: Path) -> dict[str, float]:
    """Run over both folders; return images/s of scanning and embedding, and what comes on top.

    "at work" is of the larger run: what the workers were at it, from the first file that they read
    to the last vector. How long a cluster takes to start does not disturb it.
    """
    took, at_work = [], 0.0
    for count in party.counts:
        ended = party.run(root / "in", root / party.name.replace(" ", "-"), count)
        summary = told_by_ours(ended, count)
        took.append(summary["seconds"]["scan"] + summary["seconds"]["embed"])
        lanes = summary["embed"]["seconds"]
        at_work = lanes["inference"] + lanes["waiting"]
    few, many = party.counts
    rate = (many - few) / (took[1] - took[0])
    return {
        "rate": rate,
        "at work": many / at_work * (2 if party.name == TWO else 1),
        "fixed": took[0] - few / rate,
        "seconds": took[1],
    }


def show(rounds: list[Round], count: int) -> None:
    """Print medians over the rounds; overheads are taken within each."""
    print(f"\n{'':<14} {'images/s':>9} {'overhead':>9} {'at work':>9} {'overhead':>9}", end="")
    print(f" {'to begin':>9}  {count} images")
    for way in rounds[0]:
        line = f"{way:<14}"
        for name in ("rate", "at work"):
            over = median(each[LOCAL][name] / each[way][name] - 1 for each in rounds)
            line += f" {median(each[way][name] for each in rounds):9.1f} {over:9.1%}"
        fixed, whole = (median(each[way][n] for each in rounds) for n in ("fixed", "seconds"))
        print(f"{line} {fixed:7.1f} s  {whole:.1f} s")
    print("overhead: time per image more than in one process; the goal is under 10 % on 2 cores")


def throughput(asked: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Measure the three ways, and print the table."""
    model, counts = save_weights(root / "b32.pt"), (asked.smaller, asked.images)
    for count in counts:
        copy_photos(asked.photos, root / "in" / str(count), 0, count)
    bring_to_memory(root / "in")
    rounds: list[Round] = []
    for _ in range(asked.rounds):
        measured = {}
        for party in ways(model, counts, asked.shard_rows, asked.set):
            measured[party.name] = measure(party, root)
            print(f"{party.name}: {measured[party.name]['rate']:.1f} images/s", flush=True)
        rounds.append(measured)
    show(rounds, asked.images)
    return {"rounds": rounds}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs to make copies of")
    parser.add_argument("--images", type=int, default=3200, help="of the larger folder")
    parser.add_argument("--smaller", type=int, default=400)
    parser.add_argument("--shard-rows", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for all")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: /tmp")
    parser.add_argument("--plan", type=str, default=None, help="a store; print the plan alone")
    parser.add_argument("--rate", type=float, default=None, help="images/s of a worker")
    parser.add_argument("--json", type=Path, default=None, help="a file for all the numbers")
    for name, value in vars(Assumed()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    asked = parser.parse_args()
    assumed = Assumed(**{name: getattr(asked, name) for name in vars(Assumed())})
    if not asked.photos and not (asked.plan and asked.rate):
        parser.error("give --photos, or --plan and --rate")
    told: dict[str, Any] = {"machine": machine()}
    print(told["machine"], flush=True)
    if asked.plan:
        told["plan"] = show_plan(measure_store(asked.plan), asked.rate, assumed)
    else:
        root = Path(tempfile.mkdtemp(prefix="scale-", dir=asked.folder)).resolve()
        try:
            told |= throughput(asked, root)
            rate = asked.rate or median(each[ONE]["rate"] for each in told["rounds"])
            store = root / LOCAL.replace(" ", "-") / "store"
            told["plan"] = show_plan(measure_store(str(store)), rate, assumed)
        finally:
            shutil.rmtree(root)
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
