"""The command `api` as a user starts it: in a process of its own, with crowds and floods."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from flows.api.server import serve
from pipeline.errors import InputError
from tests.conftest import DATA, demo_config, pseudolabel, run_plain

CLIENTS = 32
MEGABYTE = 1_000_000
EVIL = "<img src=x onerror=document.title='pwned'>.jpg"


@dataclass
class Served:
    process: subprocess.Popen[str]
    url: str
    store: Path
    log: list[str]

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "photos").mkdir()
    shutil.copy(DATA / "images/food/kiwi/kiwi-01.jpg", folder / "photos" / EVIL)
    shutil.copytree(DATA / "images/animals/dog", folder / "photos/dog")
    sources = [str(folder / "photos")]
    run_plain(demo_config(folder / "store", sources=sources, train={"every_run": False}))
    command = [str(Path(sys.executable).with_name("pseudolabel")), "api"]
    knobs = ["api.max_upload_mb=1", "api.follow_seconds=0.1", "api.upload_seconds=10"]
    options = ["--store", str(folder / "store"), "--port", "0"]
    process = subprocess.Popen(
        [*command, *options, *(part for knob in knobs for part in ("--set", knob))],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    log: list[str] = []
    assert process.stderr is not None
    url = ""
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"on (http://127\.0\.0\.1:\d+)", line):
            url = found[1]
            break
    assert url, log
    reader = threading.Thread(target=log.extend, args=[process.stderr], daemon=True)
    reader.start()
    served = Served(process, url, folder / "store", log)
    wait_until(lambda: served.get("/health")["status"] == "ok")
    yield served
    process.kill()
    process.wait()
    reader.join()


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def test_a_crowd_asks_while_a_drop_arrives_and_nobody_fails(served: Served, tmp_path: Path) -> None:
    shutil.copy(DATA / "images/vehicles/truck/truck-01.jpg", tmp_path / "new truck.jpg")
    words = ["a dog", "a kiwi", "a truck", "a red fruit"]
    arrived = threading.Event()

    def ask(number: int) -> int:
        asked = 0
        while not arrived.is_set() or asked < 3:
            k = 1 + number % 5
            hits = served.get(f"/search?text={quote(words[asked % 4])}&k={k}")["hits"]
            assert len(hits) == k
            if number % 8 == 0:
                url = f"{served.url}/thumbnails/{hits[0]['image_id']}"
                with urllib.request.urlopen(url, timeout=60) as answer:
                    assert answer.read(2) == b"\xff\xd8"
            asked += 1
            time.sleep(0.05)  # a client that never rests would leave the run no core
        return asked

    def found() -> bool:
        [hit] = served.get("/search?text=a%20truck&k=1")["hits"]
        return bool(hit["path"] == str(tmp_path / "new truck.jpg"))

    before = served.get("/health")["images"]
    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(ask, number) for number in range(CLIENTS)]
        try:
            options = ["--store", str(served.store), "--plain", "--set", "scan.settle_seconds=0"]
            labels = ["--labels", str(DATA / "labels.toml"), "--set", "train.every_run=false"]
            run = pseudolabel("run", str(tmp_path), *options, *labels)
            assert run.returncode == 0, run.stderr
            wait_until(found)
        finally:
            arrived.set()
        assert sum(future.result() for future in asking) >= 3 * CLIENTS
    assert served.get("/health")["images"] == before + 1
    assert served.process.poll() is None


def flooded(served: Served, headers: str, most: int) -> tuple[int, bytes]:
    """Send a body without end; return how many bytes went out, and the answer."""
    with socket.create_connection(served.address, timeout=30) as client:
        start = "POST /classify HTTP/1.1\r\nHost: localhost\r\n"
        kind = "Content-Type: multipart/form-data; boundary=x\r\n"
        client.sendall(f"{start}{kind}{headers}\r\n".encode())
        part = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
        sent, answer = 0, b""
        try:
            client.sendall(chunk(part))
            while sent < most:
                client.sendall(chunk(b"x" * 65_536))
                sent += 65_536
        except (ConnectionError, TimeoutError):
            pass
        try:
            while more := client.recv(65_536):
                answer += more
        except (ConnectionError, TimeoutError):
            pass
    return sent, answer


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_an_upload_without_end_is_cut_off(served: Served) -> None:
    sent, answer = flooded(served, "Transfer-Encoding: chunked\r\n", 200 * MEGABYTE)
    assert sent < 20 * MEGABYTE  # the limit, and what the system buffers on the way
    assert b" 413 " in answer.partition(b"\r\n")[0] or not answer  # cut off, it may not arrive
    assert served.get("/health")["status"] == "ok"


def test_an_upload_of_10_gigabytes_is_refused_at_its_first_word(served: Served) -> None:
    with socket.create_connection(served.address, timeout=30) as client:
        client.sendall(
            b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = client.recv(65_536)
    assert b" 413 " in answer.partition(b"\r\n")[0]
    assert served.get("/health")["status"] == "ok"


def test_who_hangs_up_or_talks_nonsense_harms_nobody(served: Served) -> None:
    nonsense = b"\x00\xff\r\n\r\n", b"GET /search?text=a HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for words in (*nonsense, b"POST /search HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"):
        with socket.create_connection(served.address, timeout=30) as client:
            client.sendall(words)
    assert len(served.get("/search?text=a%20dog&k=2")["hits"]) == 2


def test_who_says_nothing_or_not_all_is_hung_up_on(served: Served) -> None:
    """Otherwise some thousands of them would take all the files a process may open."""
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    with ExitStack() as stack:
        clients = []
        for words in (b"", head, head + b"\r\n" + head):  # not even after a first answer
            clients.append(stack.enter_context(socket.create_connection(served.address, 30)))
            clients[-1].sendall(words)
        for client in clients:
            while client.recv(65_536):
                pass
    assert served.get("/health")["status"] == "ok"


def test_answers_on_an_open_connection_do_not_wait_for_their_acknowledgement(
    served: Served,
) -> None:
    taken = []
    connection = HTTPConnection(*served.address, timeout=30)
    for _ in range(40):  # the kernel acknowledges the first ones at once
        began = time.perf_counter()
        connection.request("GET", "/labels")
        connection.getresponse().read()
        taken.append(time.perf_counter() - began)
    connection.close()
    assert min(taken[20:]) < 0.03  # an acknowledgement is put off by 40 ms


def test_the_page_shows_a_hostile_name_as_text(served: Served, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium to look at the page with")
    hits = served.get("/search?text=a%20kiwi&k=1")["hits"]
    assert hits[0]["path"].endswith(EVIL)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    page = subprocess.run(
        [
            chromium,
            *options,
            "--virtual-time-budget=10000",
            "--dump-dom",
            f"{served.url}/?text=a%20kiwi",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    ).stdout
    assert "&lt;img src=x onerror=" in page
    assert "<img src=x" not in page.replace("&lt;", "")
    assert "<title>pseudolabel</title>" in page
    assert f"thumbnails/{hits[0]['image_id']}" in page


def test_it_stops_at_a_signal_with_0_and_leaves_no_process(served: Served) -> None:
    """The last test: the service ends here."""
    body = (DATA / "images/food/kiwi/kiwi-01.jpg").read_bytes()
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
    whole = head + body + b"\r\n--x--\r\n"
    request = (
        "POST /search HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(whole)}\r\n\r\n"
    )
    with socket.create_connection(served.address, timeout=30) as client:
        client.sendall(request.encode() + whole[:-10])  # under way when the signal comes
        wait_until(lambda: served.get("/health")["queue"]["inside"] == 1)
        children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
        held = children.read_text().split() if children.exists() else []
        os.kill(served.process.pid, signal.SIGTERM)
        time.sleep(0.2)
        client.sendall(whole[-10:])
        answer = b""
        while more := client.recv(65_536):
            answer += more
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert served.process.wait(60) == 0
    assert not any(Path(f"/proc/{child}").exists() for child in held)
    assert not any("Traceback" in line for line in served.log)


def test_what_it_cannot_serve_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"api.port = {port}: cannot be listened on"):
            serve(demo_config(tmp_path, api={"port": port}), print)
    with pytest.raises(InputError, match="no store here"):
        serve(demo_config(tmp_path / "none", api={"port": 0}), print)
    with pytest.raises(InputError, match=r"api.host = '300.1.1.1': "):
        serve(demo_config(tmp_path, api={"host": "300.1.1.1", "port": 0}), print)
