"""The rows of numbers as tables, in Markdown."""

from collections.abc import Callable, Iterable, Sequence
from statistics import mean

from pipeline.labels.refinement import FEWEST
from tests.benchmarks.quality_methods import METHODS, REFINEMENTS
from tests.benchmarks.quality_runs import Row
from tests.benchmarks.quality_unknowns import WAYS

Family = Callable[[Row], bool]
SMALL = f"fewer than {FEWEST} images (the library leaves these alone)"


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def families() -> dict[str, Family]:
    """Return who belongs to which family of tasks; sums of families begin with "mean"."""

    def closed(starts: tuple[str, ...]) -> Family:
        return lambda row: _closed(row) and row.plan.regime.startswith(starts)

    return {
        "all classes": closed(("all",)),
        "long tail": closed(("long",)),
        "half of the classes": closed(("half",)),
        "1 to 3 classes": closed(("1 class", "2 classes", "3 classes")),
        "20 % unknown": closed(("20",)),
        "mean, closed vocabulary": _closed,
        "mean, open vocabulary": _opened,
        SMALL: lambda row: row.images < FEWEST,
    }


def _closed(row: Row) -> bool:
    return row.images >= FEWEST and not row.plan.vocabulary


def _opened(row: Row) -> bool:
    return row.images >= FEWEST and bool(row.plan.vocabulary)


def change_table(rows: Sequence[Row]) -> str:
    """Return the mean change of accuracy (the worst task's) of each family and method."""
    lines = []
    for title, belongs in families().items():
        mine = [row for row in rows if belongs(row)]
        if not mine:
            continue
        cells = []
        for method in METHODS[1:]:
            changes = [row.change.mean for row in mine if row.method == method]
            cells.append(f"{mean(changes):+.1f} ({min(changes):+.1f})")
        naive = [row.accuracy for row in mine if row.method == "naive"]
        lines.append([title, str(len(naive)), f"{100 * mean(naive):.1f}", *cells])
    return markdown(["tasks", "number", "naive", *METHODS[1:]], lines)


def refinement_table(rows: Sequence[Row]) -> str:
    """Return what else is to be known of each refinement, N >= 300: recall, ECE, how sure it is."""
    lines = []
    for title, belongs in (("closed", _closed), ("open", _opened)):
        naive = {_task(row): row for row in rows if row.method == "naive" and belongs(row)}
        for method in REFINEMENTS:
            mine = [row for row in rows if row.method == method and belongs(row)]
            if not mine:
                continue
            recall = [100 * (row.recall - naive[_task(row)].recall) for row in mine]
            kin = [100 * (row.kin_accuracy - naive[_task(row)].kin_accuracy) for row in mine]
            ece = [100 * (row.ece - naive[_task(row)].ece) for row in mine]
            worst = min(mine, key=lambda row: row.change.mean)
            below = sum(row.change.high < 0 for row in mine)
            above = sum(row.change.low > 0 for row in mine)
            cells = [f"{method}, {title}", f"{mean(row.change.mean for row in mine):+.2f}"]
            if title == "open":
                cells[1] += f" (kin counted: {mean(kin):+.2f})"
            cells += [f"{mean(recall):+.1f} ({min(recall):+.1f})", f"{mean(ece):+.1f}"]
            cells += [f"{above} / {below} of {len(mine)}"]
            cells += [f"{worst.plan.name}: {_interval(worst)}"]
            lines.append(cells)
    heads = ["refinement", "accuracy", "macro recall (worst)", "ECE"]
    return markdown([*heads, "surely above / below naive", "worst task"], lines)


def prompt_table(rows: Sequence[Row]) -> str:
    """Return accuracies of whole sets by prompts and method, N >= 300."""
    whole = [
        row
        for row in rows
        if row.plan.regime == "all classes" and not row.plan.size and not row.plan.vocabulary
    ]
    shown = ("naive", *REFINEMENTS)
    lines = []
    for source in dict.fromkeys(row.plan.source for row in whole):
        for prompts in dict.fromkeys(row.prompts for row in whole):
            mine = {
                row.method: row
                for row in whole
                if (row.plan.source, row.prompts) == (source, prompts)
            }
            naive = mine["naive"]
            cells = [f"{100 * mine[method].accuracy:.1f}" for method in shown]
            against = naive.prompt_change
            gained = f"{against.mean:+.1f} ({against.low:+.1f} to {against.high:+.1f})"
            lines.append([source, str(naive.images), prompts, *cells, gained])
    heads = ["set", "images", "prompts", *shown, "naive against that with 1 prompt (95 %)"]
    return markdown(heads, lines)


def task_table(rows: Sequence[Row]) -> str:
    """Return every task: naive, and each refinement's change with its interval."""
    lines = []
    for naive in (row for row in rows if row.method == "naive"):
        mine = {row.method: row for row in rows if _task(row) == _task(naive)}
        cells = [naive.plan.name, naive.prompts, str(naive.images), f"{100 * naive.accuracy:.1f}"]
        lines.append([*cells, *(_interval(mine[method]) for method in REFINEMENTS)])
    return markdown(["task", "prompts", "images", "naive", *REFINEMENTS], lines)


def unknown_table(cases: dict[str, dict[str, float]]) -> str:
    """Return the AUROC, in percent, of each way to tell unknown images."""
    lines = [[name, *(f"{found[way]:.1f}" for way in WAYS)] for name, found in cases.items()]
    return markdown(["unknown", *WAYS], lines)


def _task(row: Row) -> tuple[str, str, object]:
    return row.model, row.prompts, row.plan


def _interval(row: Row) -> str:
    return f"{row.change.mean:+.1f} ({row.change.low:+.1f} to {row.change.high:+.1f})"
