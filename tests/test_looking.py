"""Files looked through by threads: in order, bounded, each with what became of it."""

import random
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.clock import Clock
from pipeline.images.decoding import Decode, Picture, Refusal, image_id
from pipeline.images.looking import Seen, look_through
from pipeline.images.reading import Planned


def picture(data: bytes, name: str) -> Picture:
    return Picture(np.array([[[len(data)] * 3]], np.uint8), 1, 1, "TEXT")


def files(folder: Path, contents: Sequence[bytes]) -> list[Planned]:
    rows = []
    for number, content in enumerate(contents):
        path = folder / f"{number:03}.png"
        path.write_bytes(content)
        rows.append(Planned(str(path), len(content), path.stat().st_mtime_ns))
    return rows


def look(
    rows: Iterator[Planned] | Sequence[Planned],
    decode: Decode = picture,
    known: Container[str] = (),
    *,
    threads: int = 4,
    window: Callable[[], int] = lambda: 8,
    clock: Clock | None = None,
) -> Iterator[Seen]:
    clock = clock or Clock()
    return look_through(rows, known, decode, threads=threads, window=window, clock=clock)


@pytest.mark.parametrize("window", [1, 2, 7, 100])
def test_what_was_seen_comes_in_the_order_of_the_plan(tmp_path: Path, window: int) -> None:
    slow = random.Random(window)

    def late(data: bytes, name: str) -> Picture:
        time.sleep(slow.random() / 100)
        return picture(data, name)

    contents = [b"x" * (n + 1) for n in range(40)]
    seen = list(look(files(tmp_path, contents), late, window=lambda: window))
    assert [s.image_id for s in seen] == [image_id(content) for content in contents]
    pictures = [s.picture for s in seen if isinstance(s.picture, Picture)]
    assert [p.pixels[0, 0, 0] for p in pictures] == list(range(1, 41))


def test_every_file_comes_with_what_became_of_it(tmp_path: Path) -> None:
    rows = files(tmp_path, [b"good", b"known", b"bad", b"gone", b"changed"])
    Path(rows[3].path).unlink()
    Path(rows[4].path).write_bytes(b"changed since it was listed")
    asked = []

    def choosy(data: bytes, name: str) -> Picture | Refusal:
        asked.append((data, name))
        return Refusal("unreadable", "bad") if data == b"bad" else picture(data, name)

    good, known, bad, gone, changed = look(rows, choosy, {image_id(b"known")}, threads=1)
    assert sorted(asked) == [(b"bad", "002.png"), (b"good", "000.png")]
    assert (good.status, good.image_id, good.reason) == ("ok", image_id(b"good"), None)
    assert good.picture is not None
    assert known == Seen(image_id(b"known"), "ok")  # and was not decoded
    assert bad == Seen(image_id(b"bad"), "unreadable", "bad")
    assert gone.status == changed.status == "waiting"
    assert gone.image_id is changed.image_id is None
    assert gone.reason
    assert changed.reason


def test_what_becomes_known_meanwhile_is_not_decoded_again(tmp_path: Path) -> None:
    known: set[str] = set()
    decoded = 0

    def count(data: bytes, name: str) -> Picture:
        nonlocal decoded
        decoded += 1
        return picture(data, name)

    for seen in look(files(tmp_path, [b"same"] * 20), count, known, window=lambda: 1):
        known.add(str(seen.image_id))
    assert decoded == 1


class Source:
    """Rows that are counted as they are taken."""

    def __init__(self, rows: Sequence[Planned]) -> None:
        self.taken, self._rows = 0, rows

    def __iter__(self) -> Iterator[Planned]:
        for row in self._rows:
            self.taken += 1
            yield row


def test_no_more_files_are_taken_than_the_window_holds_even_as_it_changes(
    tmp_path: Path,
) -> None:
    source, window = Source(files(tmp_path, [b"%d" % n for n in range(60)])), 5
    looking = look(iter(source), window=lambda: window)
    for given in range(1, 60):
        if given == 20:
            window = 15
        if given == 40:
            window = 1
        before = source.taken
        next(looking)
        # One more than the window: it was taken, and then there was no room for it.
        assert source.taken <= max(before, given + window)
        assert source.taken >= min(60, given)
    assert len(list(looking)) == 1


def test_threads_decode_at_once_and_no_more_of_them_than_asked_for(tmp_path: Path) -> None:
    together, most, lock = 0, 0, threading.Lock()
    all_here = threading.Barrier(3)

    def meet(data: bytes, name: str) -> Picture:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        all_here.wait(timeout=10)  # nobody goes on before three are here
        with lock:
            together -= 1
        return picture(data, name)

    rows = files(tmp_path, [b"%d" % n for n in range(12)])
    assert len(list(look(rows, meet, threads=3, window=lambda: 12))) == 12
    assert most == 3


def test_what_a_decoder_raises_is_heard_of_after_the_files_before_it(tmp_path: Path) -> None:
    def closed(data: bytes, name: str) -> Picture:
        if data == b"3":
            raise RuntimeError("the decoders were closed")
        return picture(data, name)

    rows = files(tmp_path, [b"%d" % n for n in range(9)])
    seen: list[str | None] = []
    with pytest.raises(RuntimeError, match="were closed"):
        seen.extend(s.image_id for s in look(rows, closed))
    # `extend` keeps what came before the error.
    assert seen == [image_id(b"%d" % n) for n in range(3)]


def test_whoever_stops_looking_leaves_undone_what_was_not_begun(tmp_path: Path) -> None:
    begun = 0

    def slow(data: bytes, name: str) -> Picture:
        nonlocal begun
        begun += 1
        time.sleep(0.05)
        return picture(data, name)

    rows = files(tmp_path, [b"%d" % n for n in range(50)])
    looking = look(rows, slow, threads=2, window=lambda: 50)
    next(looking)
    looking.close()  # type: ignore[attr-defined]
    assert 1 <= begun <= 6
    assert not [t for t in threading.enumerate() if t.name.startswith("read")]


def test_reading_and_decoding_are_summed_up_over_the_threads(tmp_path: Path) -> None:
    def slow(data: bytes, name: str) -> Picture:
        time.sleep(0.05)
        return picture(data, name)

    clock, rows = Clock(), files(tmp_path, [b"%d" % n for n in range(8)])
    known = {image_id(b"0"), image_id(b"1")}  # which are read, but not decoded
    assert len(list(look(rows, slow, known, clock=clock))) == 8
    seconds = clock.seconds()
    assert set(seconds) == {"reading", "decoding"}
    assert 0.3 <= seconds["decoding"] < 3
    assert seconds["reading"] > 0
