"""The README is run: its commands, its configs, its numbers and its tree."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from flows.cli import app
from pipeline.config import make_config
from pipeline.label_set import LabelSet
from tests.conftest import ROOT, DemoRun, pseudolabel
from tests.test_cli import Command, command  # noqa: F401 - a fixture

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def words_and_numbers(line: str) -> tuple[str, list[float]]:
    """Split a line into its words, with # for each number, and its numbers."""
    number = r"\d+(?:\.\d+)?"
    return " ".join(re.sub(number, "#", line).split()), [float(n) for n in re.findall(number, line)]


def test_the_two_commands_stand_where_a_newcomer_looks() -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert commands[:2] == [
        "pip install uv && uv run pseudolabel demo",
        "pip install uv && uv run pytest",
    ]


def test_the_numbers_are_those_that_the_demo_prints(prefect_demo: DemoRun) -> None:
    printed = dict(map(words_and_numbers, prefect_demo.output.splitlines()))
    quoted = [line for block in blocks("text") for line in block.splitlines()]
    assert len(quoted) == 6
    for words, numbers in map(words_and_numbers, quoted):
        if words.startswith("│ linear"):  # the last number is seconds
            numbers, printed[words] = numbers[:-1], printed[words][:-1]
        # Another processor rounds differently: one of the 50 held-out images is 2 points.
        assert numbers == pytest.approx(printed[words], abs=4), words


def test_the_classify_example_runs(prefect_demo: DemoRun) -> None:
    [line] = [part for block in blocks("sh") for part in block.splitlines() if "classify" in part]
    run = pseudolabel(*shlex.split(line)[3:], cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert re.search(r"a kiwi\s*│\s*(9\d\.\d|100\.0) %", run.stdout)


def test_the_three_commands_run_with_a_model_at_hand(
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The weights of the README's model are out of reach here: the tiny CLIP stands for them."""
    lines = [
        part for block in blocks("sh") for part in block.splitlines() if "out" in shlex.split(part)
    ]
    assert [shlex.split(line)[3] for line in lines] == ["run", "search", "export"]
    for line in lines:
        line = line.replace("~/photos", str(ROOT / "data/images/animals"))
        line = line.replace(
            "ViT-B-32/datacomp_xl_s13b_b90k", f"local-dir:{ROOT / 'data/models/tiny-clip'}"
        )
        arguments = shlex.split(line)[3:]
        if arguments[0] == "run":  # fresh files would wait half a minute, and Prefect take its own
            arguments += ["--plain", "--set", "scan.settle_seconds=0"]
            run = pseudolabel(*arguments, cwd=tmp_path)
            assert run.returncode == 0, run.stderr
        else:
            ended = command(*arguments)
            assert ended.code == 0, ended.err
    assert (tmp_path / "labels.parquet").stat().st_size > 0


def test_the_configs_are_valid() -> None:
    remote, config, label_set, ray, told = (tomllib.loads(block) for block in blocks("toml"))
    assert make_config(remote).store == "s3://bucket/store"
    assert make_config(config).labels.abstain_below == 0.3
    assert make_config(config).select.policy == "quantile"
    assert (make_config(ray).run.engine, make_config(ray).run.num_gpus) == ("ray", 1)
    assert make_config(told).notify.on_drift
    assert LabelSet.model_validate(label_set).names == ["dog", "crane"]


def test_every_command_is_described() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    table = README[README.index("## Commands") : README.index("## The map")]
    for name in commands:
        assert f"`{name}" in table, name


@pytest.mark.parametrize("package", ["flows", "pipeline"])
def test_every_file_stands_in_the_tree(package: str) -> None:
    tree = README[README.index("## The tree") : README.index("Imports point down")]
    for path in (ROOT / package).rglob("*.py"):
        if path.name != "__init__.py":
            assert path.name in tree, path


def test_each_promise_names_a_test_that_is_there() -> None:
    promises = README[README.index("## What it promises") : README.index("## The tree")]
    named = set(re.findall(r"`(test_\w+)`", promises))
    assert len(named) >= 12
    assert named <= {path.stem for path in (ROOT / "tests").glob("test_*.py")}
