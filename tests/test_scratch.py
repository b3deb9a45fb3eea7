"""Arrays in files without a name: as good as others, and nothing of them is ever to be met."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.opening import create_store
from pipeline.search import scratch as module
from pipeline.search.scratch import scratch
from pipeline.store import Store


def files(store: Store) -> set[str]:
    return {path.as_posix() for path in Path(store.location).rglob("*")}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(str(tmp_path / "s"))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (1,), (10,), (2, 5), (1000, 3)])
@pytest.mark.parametrize("fill", [np.int32(-1), np.float32(-np.inf), np.uint64(2**63 + 1)])
def test_an_array_is_full_of_one_number_and_keeps_what_is_put_in(
    store: Store, shape: tuple[int, ...], fill: np.generic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 10)
    made = scratch(store, shape, fill)
    assert (made.shape, made.dtype) == (shape, fill.dtype)
    assert (made == fill).all()
    made[:] = np.arange(made.size).reshape(shape)
    assert made.ravel().tolist() == list(range(made.size))


def test_nobody_meets_its_file(store: Store) -> None:
    before = files(store)
    held = scratch(store, (1000,), np.int32(0))
    assert files(store) == before
    assert len(held) == 1000


def test_a_process_that_is_killed_leaves_nothing(store: Store) -> None:
    before = files(store)
    code = (
        "import os, sys, numpy, pipeline.opening as o, pipeline.search.scratch as s;"
        "held = s.scratch(o.open_store(sys.argv[1]), (100_000,), numpy.int32(0)); held[7] = 1;"
        "os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", code, store.location], check=False)
    assert run.returncode == -signal.SIGKILL
    assert files(store) == before


def test_it_lies_in_the_stores_folder_or_else_where_temporary_files_do(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert len(scratch(store, (3,), np.int32(0))) == 3
    monkeypatch.setattr(Store, "local", None)  # as that of a bucket
    with pytest.raises(FileNotFoundError, match="missing"):
        scratch(store, (3,), np.int32(0))


def test_a_full_disk_is_an_error_and_no_signal(store: Store) -> None:
    before, (soft, hard) = files(store), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            scratch(store, (1 << 20,), np.int32(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(store) == before
