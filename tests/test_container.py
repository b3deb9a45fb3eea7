"""The container and the unit are built and run where there is an engine, and linted where not."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml  # type: ignore[import-untyped]

from flows.cli import app
from flows.commands.serve import POOL
from flows.quiet import _SETTINGS
from flows.serving import _STOP_SECONDS
from pipeline.config import make_config
from tests.conftest import ROOT

FOLDER = ROOT / ".container"
INSTRUCTIONS = {
    *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN"),
    *("SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
}
SERVICE_KEYS = {
    *("build", "command", "depends_on", "deploy", "entrypoint", "environment", "healthcheck"),
    *("image", "ports", "profiles", "restart", "shm_size", "stop_grace_period", "volumes"),
}
Instruction = tuple[str, str]


@lru_cache
def dockerfile() -> list[Instruction]:
    """Return instruction and arguments, line by line, continued ones joined."""
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text)
    words = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name, arguments.strip()) for name, _, arguments in words]


def stages() -> dict[str, list[Instruction]]:
    """Return the instructions of each stage, by its name."""
    found: dict[str, list[Instruction]] = {}
    for name, arguments in dockerfile():
        if name == "FROM":
            stage = re.fullmatch(r"\S+ AS (\w+)", arguments)
            assert stage, f"FROM {arguments}: has no name"
            found[stage[1]] = []
        elif found:
            found[list(found)[-1]].append((name, arguments))
    return found


def given(stage: str, instruction: str) -> list[str]:
    return [arguments for name, arguments in stages()[stage] if name == instruction]


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return content


def commands() -> dict[str, Any]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def require_command(words: list[str]) -> None:
    """See that `pseudolabel` has a command and each of the options that it is given."""
    assert words[0] in commands(), words
    known = {name for parameter in commands()[words[0]].params for name in parameter.opts}
    assert {word for word in words[1:] if word.startswith("--")} <= known, words


# -- the Dockerfile ----------------------------------------------------------------------------


def test_every_instruction_is_one_and_every_stage_has_a_name() -> None:
    assert {name for name, _ in dockerfile()} <= INSTRUCTIONS
    assert list(stages()) == ["build", "run"]


def test_bases_are_pinned_and_come_from_no_named_host() -> None:
    preset = dict(a.split("=") for n, a in dockerfile() if n == "ARG" and "=" in a)
    for name, arguments in dockerfile():
        if name == "FROM":
            image = re.sub(r"\$\{(\w+)\}", lambda found: preset[found[1]], arguments.split()[0])
            tag = image.partition(":")[2]
            assert re.match(r"\d+\.\d+", tag), f"{image}: a tag that moves"
            assert "/" not in image, f"{image}: names a registry"
    assert "==" in next(a for a in given("build", "RUN") if a.startswith("pip install"))


def test_every_argument_is_used_and_every_variable_is_set() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    declared = {a.partition("=")[0] for n, a in dockerfile() if n == "ARG"}
    shell = set(re.findall(r"(\w+)=\"", text)) | {"PATH"}
    used = set(re.findall(r"\$\{(\w+)\}", text))
    assert declared <= used
    assert used <= declared | shell


def test_what_is_copied_is_there_and_not_ignored() -> None:
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    for arguments in given("build", "COPY"):
        *sources, _ = arguments.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source.rstrip("/") in allowed, f".dockerignore keeps {source} out"
    for arguments in given("run", "COPY"):
        stage = re.match(r"--from=(\w+) (\S+)", arguments)
        assert stage
        assert stage[1] in stages()
        assert any(stage[2] in run for run in given(stage[1], "RUN"))


def test_the_build_has_all_that_the_wheel_is_made_of() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"]}
    needed |= {"pyproject.toml", *project["project"]["license-files"]}
    copied = {word.rstrip("/") for a in given("build", "COPY") for word in a.split()[:-1]}
    assert needed == copied
    [line] = [run for run in given("build", "RUN") if "--extra" in run]
    extras = set(re.findall(r"--extra (\w+)", line))
    assert extras == set(project["project"]["optional-dependencies"])


def test_it_runs_as_nobody_special_with_prefect_quiet_and_writes_where_volumes_are() -> None:
    assert given("run", "USER")[-1] not in ("root", "0")
    order = [name for name, _ in stages()["run"]]
    assert "RUN" not in order[order.index("USER") :]
    environment = " ".join(given("run", "ENV"))
    quiet = {k: v for k, v in _SETTINGS.items() if "LOGGING" not in k}  # what a log says is chosen
    assert {f"{name}={value}" for name, value in quiet.items()} <= set(environment.split())
    volumes = yaml.safe_load(given("run", "VOLUME")[0])
    owned = next(run for run in given("run", "RUN") if "install -d" in run)
    assert all(f" {volume}" in f" {owned} " for volume in volumes)
    entry = yaml.safe_load(given("run", "ENTRYPOINT")[0])
    assert entry == ["pseudolabel"]


@pytest.mark.parametrize(
    ("variant", "backend", "code"), [("cpu", "cpu", 0), ("cuda", "", 0), ("x", "", 2)]
)
def test_a_variant_chooses_its_torch(tmp_path: Path, variant: str, backend: str, code: int) -> None:
    [line] = [run for run in given("build", "RUN") if "--extra" in run]
    (tmp_path / "uv").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "uv").chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VARIANT": variant}
    run = subprocess.run(["/bin/sh", "-c", line], env=path, capture_output=True, text=True)
    assert run.returncode == code, run.stderr
    assert ("--torch-backend=cpu" in run.stdout) is (backend == "cpu")
    if code:
        assert "VARIANT is cpu or cuda, not x" in run.stderr


def test_uv_knows_the_options_it_is_given() -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on the path")
    for words in (["pip", "install"], ["venv"], ["build"]):
        told = subprocess.run([uv, *words, "--help"], capture_output=True, text=True).stdout
        for line in given("build", "RUN"):
            for part in line.replace('"', " ").split("&&"):
                if f"uv {' '.join(words)}" in part:
                    assert set(re.findall(r"--[a-z-]+", part)) <= set(
                        re.findall(r"--[a-z-]+", told)
                    )


# -- compose -----------------------------------------------------------------------------------


def test_services_have_known_keys_and_only_what_is_declared() -> None:
    content = compose()
    services = content["services"]
    assert {k for k in content if not k.startswith("x-")} == {"name", "services", "volumes"}
    for name, service in services.items():
        assert set(service) <= SERVICE_KEYS, name
        assert set(service.get("depends_on", {})) <= set(services)
        assert not str(service["image"]).endswith("latest")
        assert ":" in service["image"]
        build = service["build"]
        assert (FOLDER / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        declared = {a.partition("=")[0] for n, a in dockerfile() if n == "ARG"}
        assert set(build.get("args", {})) <= declared
        assert service["image"].endswith(build.get("args", {}).get("VARIANT", "cpu"))
        for volume in service["volumes"]:
            source = re.sub(r"\$\{.*?\}", "", volume).split(":")[0]
            assert not source or source in content["volumes"], volume
    for dependency in (d for s in services.values() for d in s.get("depends_on", {})):
        assert "profiles" not in services[dependency]


def test_services_are_restarted_checked_and_seen_from_this_machine_only() -> None:
    for name, service in compose()["services"].items():
        assert service["restart"] == "unless-stopped", name
        check = service["healthcheck"]
        assert check["test"][0] == "CMD", name
        assert {"interval", "timeout", "start_period"} <= set(check), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_services_and_their_checks_call_what_exists() -> None:
    volumes = compose()["services"]["serve"]["volumes"]
    inside = {volume.removesuffix(":ro").rpartition(":")[2] for volume in volumes}
    for service in compose()["services"].values():
        program = service.get("entrypoint", ["pseudolabel"])[0]
        if program == "pseudolabel":
            require_command(service["command"])
            for word in service["command"]:
                if word.startswith("/"):
                    assert {word, str(Path(word).parent)} & inside, word
        else:
            assert (Path(sys.executable).with_name(program)).exists()
        check = service["healthcheck"]["test"][1:]
        if check[0] == "pseudolabel":
            require_command(check[1:])
        else:
            compile(check[-1], "healthcheck", "exec")


def test_servers_answer_on_the_ports_that_are_shown_and_asked() -> None:
    services = compose()["services"]
    listening = {name: s["ports"][0].split(":")[-1] for name, s in services.items() if "ports" in s}
    assert listening == {"prefect": "4200", "api": str(make_config({}).api.port)}
    for name, port in listening.items():
        assert f"http://127.0.0.1:{port}/" in services[name]["healthcheck"]["test"][-1]
    asked = services["serve"]["environment"]["PREFECT_API_URL"]
    assert asked == f"http://prefect:{listening['prefect']}/api"
    words = services["worker"]["command"]
    assert words[words.index("--pool") + 1] == POOL  # where `deploy` leaves it


# -- the systemd unit --------------------------------------------------------------------------


def unit() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read(FOLDER / "pseudolabel.service")
    return parsed


def test_the_unit_is_tried_again_after_a_failure_and_not_after_a_mistake() -> None:
    service = unit()["Service"]
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"].split() == ["2"]
    assert service["KillMode"] == "mixed"  # the run and the server are ended by serve
    assert int(service["TimeoutStopSec"]) > _STOP_SECONDS
    assert service["User"] not in ("root", "0")
    assert service["ProtectSystem"] == "strict"
    assert service["ReadWritePaths"] == service["WorkingDirectory"]
    program, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "pseudolabel"
    require_command(words)


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd here")
    text = (FOLDER / "pseudolabel.service").read_text()
    here = str(Path(sys.executable).with_name("pseudolabel"))  # one that is there is asked for
    copy = tmp_path / "pseudolabel.service"
    copy.write_text(text.replace("/opt/pseudolabel/bin/pseudolabel", here))
    run = subprocess.run([analyze, "verify", str(copy)], capture_output=True, text=True)
    if "Failed to" in run.stderr and "unit" not in run.stderr:
        pytest.skip(f"systemd cannot look at units here: {run.stderr.strip()}")
    assert (run.returncode, run.stderr) == (0, "")


# -- the real thing ----------------------------------------------------------------------------


def engine() -> str | None:
    """Return a container engine that runs; a client without its daemon is none."""
    for name in ("docker", "podman"):
        found = shutil.which(name)
        if found and not subprocess.run([found, "info"], capture_output=True).returncode:
            return found
    return None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_image_is_built_and_the_demo_runs_in_it() -> None:
    docker = engine()
    if docker is None:
        pytest.skip("no container engine runs here")
    tag = "pseudolabel-test:cpu"
    build = [docker, "build", "-f", str(FOLDER / "Dockerfile"), "-t", tag, str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True)
    if built.returncode and re.search(r"resolve|resolution|dial tcp|network is", built.stderr):
        pytest.skip("no network to fetch the image's parts from")
    assert built.returncode == 0, built.stderr[-4000:]
    demo = [docker, "run", "--rm", "--network", "none", tag, "demo", "--plain"]
    ran = subprocess.run(demo, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert "accuracy" in ran.stdout
    who = subprocess.run(
        [docker, "run", "--rm", "--entrypoint", "id", tag, "-u"], capture_output=True, text=True
    )
    assert who.stdout.strip() != "0"
