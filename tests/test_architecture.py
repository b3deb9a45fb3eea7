"""Imports point one way, no circle, and heavy libraries only where they belong."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Lowest first: a package may import itself and what stands before it.
LAYERS = [
    ["pipeline"],  # the ground floor: modules directly in pipeline/
    ["pipeline.images"],
    ["pipeline.clip"],
    ["pipeline.labels"],
    ["pipeline.search"],
    ["pipeline.training", "pipeline.reports"],
    ["flows"],
]
# Where a library may be imported; everywhere below these, and nowhere else.
HOMES = {
    "prefect": ["flows"],
    "ray": ["flows.ray_cluster"],
    "typer": ["flows"],
    "rich": ["flows"],
    "torch": ["pipeline.clip", "pipeline.training"],
    "torchvision": ["pipeline.clip"],
    "open_clip": ["pipeline.clip"],
    "faiss": ["pipeline.search"],
    "sklearn": ["pipeline.training", "pipeline.labels.calibration"],
    "matplotlib": ["pipeline.reports.plots"],
    "jinja2": ["pipeline.reports"],
    "prometheus_client": ["pipeline.reports.openmetrics"],
    "httpx": ["flows"],
    "simplejpeg": ["pipeline.images.jpegs"],
    "PIL": ["pipeline.images", "pipeline.clip", "pipeline.reports"],
    "pydantic": [
        "pipeline.config",
        "pipeline.knobs_of_api",
        "pipeline.knobs_of_run",
        "pipeline.sections",
        "pipeline.label_set",
        "pipeline.notice",
        "pipeline.validation",
        "flows.drop",
        "flows.api",
    ],
    "fastapi": ["flows.api"],
    "starlette": ["flows.api"],
    "uvicorn": ["flows.api", "flows.local_server"],
    "watchfiles": ["flows.hearing"],
}
PRINTERS = {"flows"}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("flows", "pipeline"):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports_of(name: str) -> set[str]:
    """Return every module that a module names in an import, wherever it stands in the file."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            module = node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                found.add(inner if inner in MODULES else module)
    return found


def home_of(name: str) -> int:
    """Return the layer of a module."""
    fits = [
        (len(package), layer)
        for layer, packages in enumerate(LAYERS)
        for package in packages
        if name == package or name.startswith(f"{package}.")
    ]
    return max(fits)[1]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name: str) -> None:
    for target in imports_of(name) & set(MODULES):
        assert home_of(target) <= home_of(name), f"{name} imports {target}"


def test_packages_of_one_storey_leave_each_other_alone() -> None:
    for name in MODULES:
        for target in imports_of(name):
            pair = {".".join(name.split(".")[:2]), ".".join(target.split(".")[:2])}
            assert pair != {"pipeline.training", "pipeline.reports"} or name.startswith(
                "pipeline.reports"
            ), f"{name} imports {target}"


def test_there_is_no_circle() -> None:
    graph = {name: imports_of(name) & set(MODULES) for name in MODULES}
    while graph:
        free = [name for name, targets in graph.items() if not targets & set(graph) - {name}]
        assert free, f"a circle among {sorted(graph)}"
        for name in free:
            del graph[name]


@pytest.mark.parametrize("library", sorted(HOMES))
def test_a_heavy_library_stays_at_home(library: str) -> None:
    for name in MODULES:
        roots = {target.split(".")[0] for target in imports_of(name)}
        if library in roots:
            homes = HOMES[library]
            assert any(name == h or name.startswith(f"{h}.") for h in homes), f"{name}: {library}"


def test_the_library_neither_prints_nor_reads_the_environment() -> None:
    for name in MODULES:
        if name.split(".")[0] in PRINTERS:
            continue
        text = MODULES[name].read_text()
        called = {
            node.func.id
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert "print" not in called, name
        assert "os.environ" not in text, name
        assert "getenv" not in text, name


def test_importing_the_whole_library_does_nothing(tmp_path: Path) -> None:
    names = [name for name in MODULES if name.startswith("pipeline")]
    code = "; ".join(f"import {name}" for name in names)
    code += "; import sys; print([m for m in ('prefect', 'ray', 'sqlalchemy') if m in sys.modules])"
    cache = "PYTHONPYCACHEPREFIX"  # where bytecode may not lie beside the code; see conftest
    bytecode = {cache: os.environ[cache]} if cache in os.environ else {}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": "", **bytecode},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (run.stdout, run.stderr) == ("[]\n", "")
    assert not [p for p in tmp_path.rglob("*") if ".cache" not in p.parts]


def test_files_are_of_a_page_or_two() -> None:
    for name, path in MODULES.items():
        lines = len(path.read_text().splitlines())
        assert lines <= 250, f"{name} has {lines} lines"
