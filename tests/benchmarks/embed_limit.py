"""The limit of a machine: what the model alone and decoding alone allow, measured in turn."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.embed_halves import DECODE_WAYS
from tests.benchmarks.process_tree import finish

_HALVES = (sys.executable, "-m", "tests.benchmarks.embed_halves")


@dataclass(frozen=True)
class Limit:
    """The fastest way of each half."""

    model: str
    photos: Path
    size: int  # pixels of the model's input
    model_way: dict[str, Any]  # way, batch_size and callers
    decode_way: str
    told: dict[str, Any]  # every way that was tried, and its images/s

    @classmethod
    def best(cls, model: str, photos: Path) -> "Limit":
        """Try every way for a moment and keep the fastest ones."""
        chosen = _ask("model", model, "best", seconds=1)
        size = int(chosen["input"])
        way = {name: chosen[name] for name in ("way", "batch_size", "callers")}
        decoding = {
            each: round(_ask("decode", str(photos), each, size=size, seconds=2), 1)
            for each in DECODE_WAYS
        }
        fastest = max(decoding, key=lambda each: decoding[each])
        told = {
            "model": way,
            "decode": fastest,
            "tried": {**chosen["tried"], **decoding},
        }
        return cls(model, photos, size, way, fastest, told)

    def measure(self) -> dict[str, dict[str, float]]:
        """Return the images/s of both halves and of the limit."""
        model = _ask("model", self.model, **self.model_way, seconds=8)
        decode = _ask("decode", str(self.photos), self.decode_way, size=self.size, seconds=4)
        apart = torch.cuda.is_available()
        limit = min(model, decode) if apart else 1 / (1 / model + 1 / decode)
        return {
            "the limit": {"rate": limit},
            "model alone": {"rate": model},
            "decoding alone": {"rate": decode},
        }


def _ask(half: str, what: str, way: str, **options: Any) -> Any:
    words = [str(word) for k, v in options.items() for word in (f"--{k.replace('_', '-')}", v)]
    return json.loads(finish([*_HALVES, half, what, "--way", way, *words]).output.splitlines()[-1])
