"""Images per second beside the limit of the machine, beside clip-retrieval and two usual loops.

    python -m tests.benchmarks.bench_embed --photos FOLDER --peer VENV/bin/python
    python -m tests.benchmarks.bench_embed --photos FOLDER --tiny
    python -m tests.benchmarks.bench_embed --photos FOLDER --growth

FOLDER holds JPEGs, which are copied under several names, no two of the same bytes. The model is
ViT-B-32 with random weights, the same for everybody; with `--tiny` and `--growth` the tiny CLIP.

Rate: everybody runs in a process of its own over a smaller and a larger folder, and what the
difference of the images takes beyond the smaller is the rate: starting and loading cancel out.
Of the core time likewise; where other machines share the cores, it says more than the wall does.
Of a run of ours that is all of it but training: scan, decode, embed, write, label, index, select,
report; the row "its scan and embed" counts these two stages alone. Memory: the proportional set
sizes of the whole tree of processes, summed every 50 ms, in a run of its own that is not timed.

The limit is what the model alone (ready batches; best precision, size of batch and division of the
cores; our encoder or torch directly) and decoding alone (bytes in memory to pixels, a process per
core, the fastest of three ways) allow: 1 / (1 / model + 1 / decode) where both share the cores,
the smaller of the two where there is a GPU.

The peer is clip-retrieval 2.45.0 in an environment of its own:
    uv venv --python 3.11 venv
    uv pip install --python venv clip-retrieval==2.45.0 "setuptools<70"
The second package has the module pkg_resources, which the peer's import of CLIP asks for. Nothing
in it is changed. It has no other precision than float32 on a CPU.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import embed_parties as parties
from tests.benchmarks.embed_growth import measure_growth
from tests.benchmarks.embed_inputs import bring_to_memory, copy_photos, machine, save_weights
from tests.benchmarks.embed_limit import Limit
from tests.benchmarks.process_tree import ROOT

TINY = f"local-dir:{ROOT / 'data/models/tiny-clip'}"
Round = dict[str, dict[str, float]]  # of each party: rate, core time, seconds of its larger run


@dataclass(frozen=True)
class Bench:
    """What is measured, where, and how often."""

    members: list[parties.Party]
    limit: Limit
    root: Path
    lock: Path | None

    def rounds(self, count: int) -> Iterator[Round]:
        """Measure everybody in turn, again and again."""
        for _ in range(count):
            measured: Round = {}
            for party in self.members:
                measured.update(self._rate(party))
            with quiet(self.lock):
                measured.update(self.limit.measure())
            yield measured

    def peaks(self) -> dict[str, float]:
        """Return the MB that each takes for its larger folder."""
        peaks = {}
        for party in self.members:
            with quiet(self.lock):
                ended = party.run(
                    self.root / "in", self.results(party), max(party.counts), watch=True
                )
            peaks[party.name] = ended.peak or 0.0
        return peaks

    def results(self, party: parties.Party) -> Path:
        """Return where a party writes."""
        return self.root / party.name

    def _rate(self, party: parties.Party) -> Round:
        seconds, used, stages = [], [], []
        for count in party.counts:
            with quiet(self.lock):
                ended = party.run(self.root / "in", self.results(party), count)
            seconds.append(ended.seconds)
            used.append(ended.core_seconds)
            if party.name == parties.OURS:
                by_stage = parties.told_by_ours(ended, count)["seconds"]
                stages.append(by_stage["scan"] + by_stage["embed"])
        more = party.counts[1] - party.counts[0]
        rate = more / (seconds[1] - seconds[0])
        core = (used[1] - used[0]) / more
        whole = {"smaller": seconds[0], "seconds": seconds[1]}
        told = {party.name: {"rate": rate, "core": core, **whole}}
        if stages:
            told["its scan and embed"] = {"rate": more / (stages[1] - stages[0])}
        return told


@contextmanager
def quiet(lock: Path | None) -> Iterator[None]:
    """Hold a lock while something is measured, where others measure on this machine, too."""
    with open(lock, "a") if lock else nullcontext() as held:
        if held:
            flock(held, LOCK_EX)
        yield


def show(rounds: list[Round], peaks: dict[str, float], members: list[parties.Party]) -> None:
    """Print the table: medians over the rounds; ratios are taken within each round."""
    counts = {party.name: max(party.counts) for party in members}
    print(f"{'':<20} {'images/s':>9} {'ours / it':>10} {'core ms':>8} {'it / ours':>10}", end="")
    print(f" {'peak MB':>8}  whole process")
    for name in rounds[0]:
        rates = [each[name]["rate"] for each in rounds]
        ratio = median(each[parties.OURS]["rate"] / each[name]["rate"] for each in rounds)
        line = f"{name:<20} {median(rates):9.1f} {ratio:10.2f}"
        if name in counts:
            seconds, core = (
                median(each[name][what] for each in rounds) for what in ("seconds", "core")
            )
            less = median(each[name]["core"] / each[parties.OURS]["core"] for each in rounds)
            line += f" {1000 * core:8.2f} {less:10.2f} {peaks[name]:8.0f}"
            line += f"  {seconds:.1f} s for {counts[name]} images"
        print(line)


def compare(asked: argparse.Namespace, root: Path, model: str) -> dict[str, Any]:
    """Measure everybody over the same photos and print the table."""
    counts = (asked.smaller, asked.images)
    members = [parties.ours(model, counts)]
    few = (asked.smaller // 10, asked.smaller // 10 + 200)  # it is slow
    if asked.tiny:
        members += [parties.loader_loop(model, counts, workers) for workers in asked.workers]
    else:
        members.append(parties.readme_loop(model, few))
    if asked.peer and not asked.tiny:
        members.append(parties.clip_retrieval(asked.peer, model, counts, asked.peer_settings))
    for count in {count for party in members for count in party.counts}:
        copy_photos(asked.photos, root / "in" / str(count), 0, count)
    bring_to_memory(root / "in")
    with quiet(asked.lock):
        limit = Limit.best(model, root / "in" / str(asked.smaller))
    print(f"limit: {limit.told}")
    bench = Bench(members, limit, root, asked.lock)
    peaks = bench.peaks()
    if any(party.name == parties.PEER for party in members):
        alike = parties.same_vectors(root / parties.OURS, root / parties.PEER)
        print(f"our vectors and the peer's, less their means: correlation {alike:.4f} or more")
    rounds = []
    for measured in bench.rounds(asked.rounds):
        rounds.append(measured)
        told = ", ".join(f"{name} {each['rate']:.1f}" for name, each in measured.items())
        print(f"round {len(rounds)}: {told}", flush=True)
    show(rounds, peaks, members)
    return {"limit": limit.told, "peaks": peaks, "rounds": rounds}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--peer", type=Path, default=None, help="the peer's Python")
    parser.add_argument(
        "--peer-settings", default="batch_size=32,num_prepro_workers=1", help="name=value,..."
    )
    parser.add_argument("--tiny", action="store_true", help="the tiny CLIP beside a DataLoader")
    parser.add_argument("--workers", type=int, nargs="+", default=(1, 2), help="of the DataLoader")
    parser.add_argument("--growth", action="store_true", help="what 1,000 images take, of many")
    parser.add_argument("--counts", type=int, nargs="+", default=(1_000, 10_000, 50_000))
    parser.add_argument("--images", type=int, default=2000, help="of the larger folder")
    parser.add_argument("--smaller", type=int, default=400, help="images of the smaller folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: /tmp")
    parser.add_argument("--lock", type=Path, default=None, help="a file to lock while measuring")
    parser.add_argument("--json", type=Path, default=None, help="a file for all the numbers")
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="bench-embed-", dir=asked.folder)).resolve()
    print(machine(), flush=True)
    try:
        if asked.growth:
            told = measure_growth(asked, root, TINY, lambda: quiet(asked.lock))
        else:
            told = compare(asked, root, TINY if asked.tiny else save_weights(root / "b32.pt"))
    finally:
        shutil.rmtree(root)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), **told}, indent=1))


if __name__ == "__main__":
    main()
