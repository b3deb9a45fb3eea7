"""Decoders that crash, hang, bloat and babble: the file gets a reason, all others their picture.

The worker processes import this module to find `misbehave`, so it imports nothing heavy.
"""

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.images.decoding import Picture, Refusal, decode
from pipeline.images.fitting import Fitting
from pipeline.images.serving import SHARED_BYTES
from pipeline.images.workers import Decoders

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="counts processes by /proc"),
]


def babble() -> None:
    for fd in (1, 2):
        os.write(fd, b'{"status": "unreadable", "reason": "garbage"}' * 100)


def spin() -> None:
    while True:
        pass


# What the "decoder" does with a picture of this width.
TRICKS: dict[int, Callable[[], object]] = {
    1: lambda: ctypes.string_at(0),  # a true fault in C
    2: lambda: os.kill(os.getpid(), signal.SIGKILL),  # as the kernel does when memory runs out
    3: lambda: ctypes.CDLL(None).abort(),
    4: lambda: os._exit(0),
    5: spin,
    6: lambda: ctypes.PyDLL(None).sleep(100),  # in C, and no other thread runs meanwhile
    7: lambda: [bytearray(MIB) for _ in range(1024)],  # 1 GB
    8: babble,
    9: lambda: time.sleep(1),
}


def misbehave(image: Image.Image) -> Image.Image:
    TRICKS.get(image.width, lambda: None)()
    return image.resize((2, 2))


def png(width: int, height: int = 1, colour: str = "red") -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


GOOD = png(20, 30)


def is_good(seen: Picture | Refusal) -> bool:
    return isinstance(seen, Picture) and seen.pixels.tolist() == [[[255, 0, 0]] * 2] * 2


def workers_of(parent: int) -> list[int]:
    """Return the decoder processes of a process, by what the system tells."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            ours = b"pipeline.images.serving" in (entry / "cmdline").read_bytes()
            if ours and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
        except (OSError, ValueError, IndexError):
            continue  # no process, or one that has just ended
    return found


def mine() -> list[int]:
    return workers_of(os.getpid())


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    with Decoders(misbehave, max_pixels=1_000_000, processes=2, timeout=2) as made:
        yield made
    assert mine() == []


@pytest.mark.parametrize(
    ("width", "reason"),
    [
        (1, "the decoder crashed (signal 11)"),
        (2, "the decoder crashed (signal 9)"),
        (3, "the decoder crashed (signal 6)"),
        (4, "the decoder crashed (exit code 0)"),
        (5, "decoding took longer than 2 s"),
        (6, "decoding took longer than 2 s"),
        (7, "decoding takes more memory than one picture may have"),
    ],
)
def test_a_decoder_that_fails_costs_its_file_only(
    decoders: Decoders, width: int, reason: str
) -> None:
    assert is_good(decoders.decode(GOOD, "before.png"))
    assert decoders.decode(png(width), "bad.png") == Refusal("unreadable", reason)
    assert is_good(decoders.decode(GOOD, "after.png"))


def test_what_a_decoder_prints_reaches_neither_us_nor_the_user(
    decoders: Decoders, capfd: pytest.CaptureFixture[str]
) -> None:
    assert is_good(decoders.decode(png(8), "loud.png"))
    assert is_good(decoders.decode(GOOD, "after.png"))
    decoders.close()
    assert capfd.readouterr() == ("", "")


def test_many_threads_get_what_one_gets_each_for_its_own_file() -> None:
    rng = np.random.default_rng(0)
    files = []
    for number in range(60):
        file = BytesIO()
        noise = rng.integers(0, 256, (40 + number, 60, 3), np.uint8)
        Image.fromarray(noise).save(file, "JPEG" if number % 2 else "PNG")
        whole = file.getvalue()
        files.append((whole[: len(whole) // 2] if number % 5 == 0 else whole, f"{number}.png"))
    files += [(b"", "empty.jpg"), (b"", "empty"), (b"words", "notes.txt"), (b"words", "x.jpg")]
    files += [(whole, "latin1_\udce9\n.jpg")]
    fit = Fitting((32, 32))
    with (
        Decoders(fit, max_pixels=10_000, processes=3) as decoders,
        ThreadPoolExecutor(8) as pool,
    ):
        seen = list(pool.map(lambda file: decoders.decode(*file), files))
        assert len(mine()) == 3
    for (data, name), got in zip(files, seen, strict=True):
        expected = decode(data, name, fit, max_pixels=10_000)
        assert type(got) is type(expected), name
        if isinstance(got, Picture) and isinstance(expected, Picture):
            assert (got.pixels == expected.pixels).all()
            assert got.pixels.flags.writeable  # torch wants memory it may write to
            assert (got.width, got.height, got.format) == (
                expected.width,
                expected.height,
                expected.format,
            )
        else:
            assert got == expected


def as_it_is(image: Image.Image) -> Image.Image:
    return image


def noisy(width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def bmp(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "BMP")
    return file.getvalue()


@pytest.mark.parametrize("more", [0, 1])
def test_a_picture_comes_back_whole_whether_shared_memory_holds_it_or_not(more: int) -> None:
    large = noisy(2048, 2048 + more, seed=0)  # by one row more than SHARED_BYTES, or not
    assert len(large.tobytes()) == SHARED_BYTES + more * 3 * 2048
    small, slim = noisy(30, 20, seed=1), noisy(20, 30, seed=2)
    with Decoders(as_it_is, max_pixels=5_000_000, processes=1) as decoders:
        for image in (small, large, slim, large, small):
            seen = decoders.decode(bmp(image), "x.bmp")
            assert isinstance(seen, Picture)
            assert (seen.width, seen.height, seen.format) == (*image.size, "BMP")
            assert (seen.pixels == np.asarray(image)).all()
            assert seen.pixels.flags.writeable


@pytest.mark.parametrize("size", [(30, 20), (2048, 2049)])  # shared, and too large for it
def test_pixels_that_were_handed_out_are_not_overwritten_by_the_next(size: tuple[int, int]) -> None:
    images = [noisy(*size, seed=seed) for seed in range(3)]
    with Decoders(as_it_is, max_pixels=5_000_000, processes=1) as decoders:
        seen = [decoders.decode(bmp(image), "x.bmp") for image in images]
    for picture, image in zip(seen, images, strict=True):
        assert isinstance(picture, Picture)
        assert (picture.pixels == np.asarray(image)).all()


def test_crashes_in_many_threads_blame_no_other_file(decoders: Decoders) -> None:
    files = [png(4) if number % 3 == 0 else GOOD for number in range(30)]
    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(lambda data: decoders.decode(data, "x.png"), files))
    assert [is_good(s) for s in seen] == [number % 3 != 0 for number in range(30)]


def test_workers_start_when_needed_and_no_more_than_needed(decoders: Decoders) -> None:
    assert mine() == []
    for _ in range(3):
        decoders.decode(GOOD, "x.png")
    assert len(mine()) == 1


def test_a_worker_that_dies_idle_is_replaced_and_no_file_blamed(decoders: Decoders) -> None:
    decoders.decode(GOOD, "x.png")
    [worker] = mine()
    os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while "Z" not in Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0]:
        assert time.monotonic() < deadline
    assert is_good(decoders.decode(GOOD, "x.png"))


def test_a_worker_may_wait_for_longer_than_a_file_may_take() -> None:
    with Decoders(misbehave, max_pixels=9999, processes=1, timeout=0.5) as decoders:
        decoders.decode(GOOD, "x.png")
        before = mine()
        time.sleep(0.8)
        assert is_good(decoders.decode(GOOD, "x.png"))
        assert mine() == before


def test_a_worker_is_light_and_hears_no_ctrl_c(decoders: Decoders) -> None:
    with Decoders(Fitting((224, 224)), max_pixels=10**6, processes=1) as light:
        light.decode(GOOD, "x.png")
        [worker] = mine()
        status = Path(f"/proc/{worker}/status").read_text()
        assert int(status.split("VmHWM:")[1].split()[0]) < 100 * 1024  # in kB; torch takes 300 MB
        assert "torch" not in Path(f"/proc/{worker}/maps").read_text()
        assert os.getpgid(worker) != os.getpgid(0)  # Ctrl-C goes to the group of the foreground


def test_ctrl_c_while_waiting_leaves_no_answer_for_the_next_file(decoders: Decoders) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    decoders.decode(GOOD, "warm.png")
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            decoders.decode(png(9, colour="blue"), "slow.png")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert is_good(decoders.decode(GOOD, "next.png"))


def test_closing_ends_even_a_decoder_at_work(decoders: Decoders) -> None:
    caught: list[BaseException] = []

    def look() -> None:
        try:
            decoders.decode(png(6), "slow.png")
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    deadline = time.monotonic() + 10
    while not mine():
        assert time.monotonic() < deadline
    time.sleep(0.5)
    decoders.close()
    thread.join(5)
    assert mine() == []
    assert "closed" in str(caught)
    with pytest.raises(RuntimeError, match="closed"):
        decoders.decode(GOOD, "x.png")


class SlowToLoad:
    """Takes a minute to be unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return time.sleep, (60,)

    def __call__(self, image: Image.Image) -> Image.Image:
        return image


def test_closing_ends_even_a_decoder_that_starts() -> None:
    decoders = Decoders(SlowToLoad(), max_pixels=9, processes=1)
    caught: list[BaseException] = []

    def look() -> None:
        try:
            decoders.decode(GOOD, "x.png")
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    deadline = time.monotonic() + 10
    while not mine():
        assert time.monotonic() < deadline
    decoders.close()
    thread.join(5)
    assert mine() == []
    assert "closed" in str(caught)


class Unloadable:
    """Can be pickled, not unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("no number",)

    def __call__(self, image: Image.Image) -> Image.Image:
        return image


def test_a_worker_that_cannot_start_is_no_file_s_fault() -> None:
    with Decoders(Unloadable(), max_pixels=9, processes=1) as decoders:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"cannot start: ValueError: .*no number"):
                decoders.decode(GOOD, "x.png")


@pytest.mark.parametrize("wrong", [{"processes": 0}, {"timeout": 0}, {"timeout": float("nan")}])
def test_nonsense_is_refused_at_once(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        Decoders(misbehave, **{"max_pixels": 9, "processes": 1, **wrong})  # type: ignore[arg-type]


def huge_png(width: int, height: int) -> bytes:
    """Return a PNG that promises many pixels and holds none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, body in ((b"IHDR", header), (b"IDAT", b"x"), (b"IEND", b"")):
        chunks += struct.pack(">I", len(body)) + kind + body
        chunks += struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_max_pixels_is_the_only_limit_above_pillow_s_own_and_below() -> None:
    """Pillow alone refuses 358 million pixels."""
    data = huge_png(20_000, 20_000)
    with Decoders(misbehave, max_pixels=400_000_000, processes=1) as decoders:
        seen = decoders.decode(data, "x.png")
        assert isinstance(seen, Refusal)
        assert "pixels are more than" not in seen.reason  # it was tried, and found to hold nothing
    for allowed, size in ((399_999_999, "20000 x 20000"), (1000, "400000000")):
        with Decoders(misbehave, max_pixels=allowed, processes=1) as decoders:
            reason = f"{size} pixels are more than max_pixels {allowed}"
            assert decoders.decode(data, "x.png") == Refusal("unreadable", reason)


def test_the_memory_of_a_worker_follows_max_pixels_and_the_file() -> None:
    big = Decoders(misbehave, max_pixels=100_000_000, processes=1)
    with big:
        assert is_good(big.decode(png(7), "bloated.png"))  # 1 GB of 2.2
    tight = Decoders(misbehave, max_pixels=1000, processes=1)
    with tight:
        heavy = GOOD + bytes(400 * MIB)  # more than a worker may take, were it not for the file
        assert is_good(tight.decode(heavy, "x.png"))
        assert not is_good(tight.decode(png(7), "bloated.png"))


PARENT = """
import json, sys, threading, time
from tests.test_workers import GOOD, Decoders, misbehave, mine, png
decoders = Decoders(misbehave, max_pixels=9999, processes=2, timeout=3)
threading.Thread(target=decoders.decode, args=(png(5), "hangs.png"), daemon=True).start()
while not mine(): time.sleep(0.01)
decoders.decode(GOOD, "x.png")
print(json.dumps(mine()), flush=True)
time.sleep(100)
"""


def test_workers_end_with_a_parent_that_is_killed_even_those_that_hang() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        left = set(json.loads(parent.stdout.readline()))
        assert len(left) == 2
        parent.kill()
    deadline = time.monotonic() + 20
    while left:
        assert time.monotonic() < deadline, f"still there: {left}"
        left = {pid for pid in left if Path(f"/proc/{pid}").is_dir() and not is_zombie(pid)}
        time.sleep(0.05)


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
