"""The encoder run side by side: on lanes, on several devices, compiled, and out of memory.

All of it must give what one plain encoder gives, one batch after another.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.arrays import Floats, Pixels
from pipeline.clip.encoder import Encoder, load_encoder
from pipeline.clip.loading import load_model
from pipeline.clip.tower import ImageTower
from pipeline.errors import InputError
from tests.conftest import TINY

CPU = torch.device("cpu")
COMPILER = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")


def batches(encoder: Encoder, count: int) -> list[Pixels]:
    """Return batches of 1 to 5 pictures of noise, each of its own grey."""
    rng = np.random.default_rng(0)
    shape = (*encoder.fit.size, 3)
    sizes = [1 + number % 5 for number in range(count)]
    noise = [rng.integers(0, 100, (size, *shape), np.uint8) for size in sizes]
    return [pixels + rng.integers(0, 155, (len(pixels), 1, 1, 3), np.uint8) for pixels in noise]


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """As many cores as torch is told of; what it used before comes back."""
    before = torch.get_num_threads()
    monkeypatch.setattr("pipeline.clip.encoder.cores", lambda: 4)
    yield 4
    torch.set_num_threads(before)


@pytest.fixture
def pair(cores: int) -> Encoder:
    """The tiny CLIP on two devices, which happen to be one."""
    return Encoder(load_model(TINY), devices=[CPU, CPU], precision="fp32")


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The towers that were called, in order."""
    towers, call = [], ImageTower.__call__

    def noted(self: ImageTower, pixels: Pixels) -> Floats:
        towers.append(id(self))
        return call(self, pixels)

    monkeypatch.setattr(ImageTower, "__call__", noted)
    return towers


def test_two_devices_take_turns_and_give_what_one_gives(
    tiny: Encoder, pair: Encoder, used: list[int]
) -> None:
    given = batches(tiny, 6)
    expected = [tiny.encode_images(pixels) for pixels in given]
    used.clear()
    for pixels, vectors in zip(given, expected, strict=True):
        assert pair.encode_images(pixels) == pytest.approx(vectors, abs=1e-6)
    one, other = used[:2]
    assert one != other
    assert used == [one, other] * 3
    assert pair.identity == tiny.identity
    assert pair.devices == (CPU, CPU)
    assert pair.encode_texts(["a dog"]) == pytest.approx(tiny.encode_texts(["a dog"]), abs=1e-6)


@pytest.mark.parametrize("devices", [1, 2])
def test_many_threads_at_once_get_what_one_gets_after_another(
    tiny: Encoder, pair: Encoder, devices: int
) -> None:
    encoder = pair if devices == 2 else tiny
    given = batches(tiny, 40)
    expected = [tiny.encode_images(pixels) for pixels in given]
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(encoder.encode_images, given))
    for vectors, wanted in zip(seen, expected, strict=True):
        assert vectors == pytest.approx(wanted, abs=1e-6)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_after_a_batch_that_fails_its_tower_is_free_again(
    pair: Encoder, cores: int, used: list[int]
) -> None:
    for _ in range(3 * cores):
        with pytest.raises(RuntimeError, match="must match"):
            pair.encode_images(np.zeros((1, *pair.fit.size, 4), np.uint8))
    assert len(pair.encode_images(batches(pair, 1)[0])) == 1
    assert len(set(used)) == 2


@pytest.mark.parametrize(("threads", "each"), [(8, 2), (4, 1), (2, 1)])
def test_lanes_share_the_cores_and_give_them_back(pair: Encoder, threads: int, each: int) -> None:
    torch.set_num_threads(threads)
    with pair.lanes() as lanes:
        assert lanes.count == 4
        asked = [lanes.pool.submit(torch.get_num_threads) for _ in range(20)]
        assert {future.result() for future in asked} == {each}
        given = batches(pair, 8)
        vectors = list(lanes.pool.map(pair.encode_images, given))
    assert [len(rows) for rows in vectors] == [len(pixels) for pixels in given]
    assert torch.get_num_threads() == threads
    with pytest.raises(KeyError), pair.lanes() as lanes:
        lanes.pool.submit(torch.get_num_threads).result()
        raise KeyError
    assert torch.get_num_threads() == threads
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == threads


def test_a_batch_that_no_memory_holds_is_a_memory_error(tiny: Encoder) -> None:
    """Torch itself refuses: these pictures, all one in memory, would be 49 TB of numbers."""
    billion = np.lib.stride_tricks.as_strided(
        np.zeros(1, np.uint8), (10**9, *tiny.fit.size, 3), (0, 0, 0, 0)
    )
    with pytest.raises(MemoryError, match="can't allocate memory"):
        tiny.encode_images(billion)
    assert len(tiny.encode_images(batches(tiny, 1)[0])) == 1


def test_no_other_error_passes_for_one_of_memory(tiny: Encoder) -> None:
    with pytest.raises(RuntimeError, match="must match"):
        tiny.encode_images(np.zeros((1, *tiny.fit.size, 4), np.uint8))


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler here")
@pytest.mark.timeout(300)
def test_a_compiled_model_gives_nearly_the_same_vectors(
    tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    encoder = load_encoder(TINY, device="cpu", precision="fp32", compiled=True)
    assert list(tmp_path.rglob("*.cpp"))  # it was not merely run as before
    pixels = np.concatenate(batches(tiny, 3))
    cosines = (encoder.encode_images(pixels) * tiny.encode_images(pixels)).sum(axis=1)
    assert cosines.min() > 0.999
    assert encoder.identity == tiny.identity


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("no compiler\nand a long story"), "no compiler"),
        (NotImplementedError(), "NotImplementedError"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_model_that_cannot_be_compiled_is_told_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, error: Exception, says: str, late: bool
) -> None:
    class Failing(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            raise error

    def failing(model: torch.nn.Module) -> torch.nn.Module:
        if late:  # as torch does, which compiles at the first call
            return Failing()
        raise error

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(InputError) as caught:
        load_encoder(TINY, device="cpu", precision="fp32", compiled=True)
    message = str(caught.value)
    assert message.startswith("encoder.compile: torch.compile cannot translate this model here")
    assert f"({says})" in message
    assert message.endswith("Run without it")
