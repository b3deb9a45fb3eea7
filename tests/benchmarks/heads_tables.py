"""The rows of `heads` as tables, in Markdown."""

from collections.abc import Sequence
from statistics import mean
from typing import Protocol

from tests.benchmarks.quality_table import markdown

GAP = 3.0  # points; of a smaller one no share is told


class Row(Protocol):
    """What is read of a row."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def source(self) -> str:
        """The set's name."""

    @property
    def regime(self) -> str:
        """How the task is drawn."""

    @property
    def method(self) -> str:
        """The way of learning."""

    @property
    def images(self) -> int:
        """That teach."""

    @property
    def accuracy(self) -> float:
        """0 to 1."""


Key = tuple[str, str, str]


class Means:
    """Mean accuracies over the seeds, in percent, by task and method."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Take rows of all tasks."""
        together: dict[Key, dict[str, list[float]]] = {}
        self.images: dict[Key, float] = {}
        for row in rows:
            key = (row.model, row.source, row.regime)
            together.setdefault(key, {}).setdefault(row.method, []).append(100 * row.accuracy)
        for key in together:
            mine = [row.images for row in rows if (row.model, row.source, row.regime) == key]
            self.images[key] = mean(mine)
        self.of = {k: {m: mean(v) for m, v in each.items()} for k, each in together.items()}
        first = next(iter(self.of.values()))
        self.methods = [method for method in first if method not in ("zero-shot", "ceiling")]

    def gain(self, key: Key, method: str) -> float:
        """Return points above the zero-shot labels."""
        return self.of[key][method] - self.of[key]["zero-shot"]

    def gap(self, key: Key) -> float:
        """Return points between the zero-shot labels and the ceiling."""
        return self.of[key]["ceiling"] - self.of[key]["zero-shot"]

    def closed(self, key: Key, method: str) -> float | None:
        """Return the share of the gap that is closed; None where there is hardly any."""
        return self.gain(key, method) / self.gap(key) if self.gap(key) > GAP else None


def summary_table(rows: Sequence[Row]) -> str:
    """Return each method's mean gain, its worst task, and how much of the gap it closes."""
    means = Means(rows)
    lines = []
    for model in dict.fromkeys(key[0] for key in means.of):
        keys = [key for key in means.of if key[0] == model]
        for method in means.methods:
            gains = {key: means.gain(key, method) for key in keys}
            worst = min(gains, key=lambda key: gains[key])
            closed = [c for key in keys if (c := means.closed(key, method)) is not None]
            below = sum(gain < -0.3 for gain in gains.values())
            lines.append(
                [
                    model,
                    method,
                    f"{mean(gains.values()):+.1f}",
                    f"{gains[worst]:+.1f} ({worst[1]}, {worst[2]})",
                    f"{below} of {len(keys)}",
                    f"{mean(closed):.0%}" if closed else "-",
                    f"{min(closed):.0%}" if closed else "-",
                    f"{sum(c >= 0.4 for c in closed)} of {len(closed)}",
                ]
            )
    heads = ["model", "head, taught by", "mean", "worst task", "below by more than 0.3"]
    heads += ["gap closed, mean", "worst", "40 % or more"]
    return markdown(heads, lines)


def task_table(rows: Sequence[Row]) -> str:
    """Return each task's accuracies: zero-shot, ceiling, and what each method adds."""
    means = Means(rows)
    lines = [
        [
            *(f"{key[0]}, {key[1]}, {key[2]}", f"{means.images[key]:.0f}"),
            *(f"{means.of[key]['zero-shot']:.1f}", f"{means.of[key]['ceiling']:.1f}"),
            *(f"{means.gain(key, method):+.1f}" for method in means.methods),
        ]
        for key in means.of
    ]
    return markdown(["task", "images", "zero-shot", "ceiling", *means.methods], lines)
