"""What several tests share: the demo's data, the tiny CLIP, and stores made once a session."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.drop import DEFAULT_OPTIONS, DropSummary, process_drop
from flows.runners import PlainTasks
from pipeline.config import Config, make_config
from pipeline.cores import cores
from tests.s3 import s3, s3_proxy  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

    from pipeline.clip.encoder import Encoder

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
TINY = f"local-dir:{DATA / 'models/tiny-clip'}"
SHARED = ROOT.parent / "shared/data"  # real photos; not part of the repository

# Where bytecode may not be kept, every process compiles torch or Prefect anew, for 5 s and more.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.pycache_prefix = str(ROOT / ".pytest_cache/bytecode")
    sys.dont_write_bytecode = False
    os.environ.setdefault("PYTHONPYCACHEPREFIX", sys.pycache_prefix)
if "PYTEST_XDIST_WORKER" in os.environ:  # set before torch is loaded: a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The files that take longest are begun first, so that none is left over at the end.
SLOW = [
    *("test_crash", "test_serve", "prefect", "test_ray", "test_deploy", "test_verify"),
    *("test_leases", "test_workers", "test_remote_runs"),
]
PREFECT = {"test_flows", "test_readme", "test_relabel", "test_caption"}  # one Prefect demo for all


def group_of(nodeid: str) -> str:
    """Return what runs in one process, one after another: a file, or those that share a demo."""
    file = nodeid.partition(".py::")[0].rpartition("/")[2]
    return "prefect" if file in PREFECT else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run the whole suite in a process for each core, four at most; named files in this one."""
    if any(".py" in argument for argument in config.args):
        return 0
    return min(cores(), 4)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadScopeScheduling":
    """Deal out groups; `--dist loadgroup` of xdist 3.8 does not go with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = group_of
    return scheduler


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow groups."""
    places = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: places.get(group_of(item.nodeid), len(SLOW)))


def demo_config(store: Path, **sections: object) -> Config:
    """Return the config of `pseudolabel demo`, in fp32 so that numbers are exact.

    One decoder unless more are asked for: a process takes longer to start than these pictures take.
    """
    run = sections.pop("run", {})
    assert isinstance(run, dict)
    values: dict[str, object] = {
        "run": {"decode_workers": 1, **run},
        "store": str(store),
        "sources": [str(DATA / "images")],
        "encoder": {"model": TINY, "device": "cpu", "precision": "fp32"},
        "labels": {"label_set": str(DATA / "labels.toml")},
        "scan": {"settle_seconds": 0},
    }
    return make_config({**values, **sections})


def run_plain(config: Config) -> DropSummary:
    """Take a drop through every stage, without Prefect."""
    return process_drop(config, PlainTasks(), DEFAULT_OPTIONS)


def pseudolabel(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    command = [str(Path(sys.executable).with_name("pseudolabel")), *arguments]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def unpacked(name: str, into: Path) -> Path:
    """Unpack one archive of the shared data, or skip the test where there is none."""
    script = SHARED / "unpack.py"
    if not script.is_file():
        pytest.skip(f"the real images ({name}) are not here: no {SHARED}")
    subprocess.run([sys.executable, str(script), str(into), name], check=True, capture_output=True)
    return into / name


@pytest.fixture(scope="session")
def tiny() -> "Encoder":
    """The tiny CLIP in fp32 on the CPU."""
    from pipeline.clip.encoder import load_encoder  # here, for torch takes seconds to load

    return load_encoder(TINY, device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that one plain run over the demo images has filled; tests only read it."""
    store = tmp_path_factory.mktemp("demo") / "store"
    run_plain(demo_config(store))
    return store


@dataclass(frozen=True)
class DemoRun:
    """What `pseudolabel demo` left and printed."""

    folder: Path
    output: str
    notes: str  # on standard error

    @property
    def store(self) -> Path:
        """Its store."""
        return self.folder / "demo-store"


@pytest.fixture(scope="session")
def prefect_demo(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """The demo, run by a user in an empty folder: through Prefect, with no server set up."""
    folder = tmp_path_factory.mktemp("prefect")
    run = pseudolabel("demo", cwd=folder, PREFECT_HOME=str(folder / "prefect-home"))
    assert run.returncode == 0, run.stderr
    return DemoRun(folder, run.stdout, run.stderr)
