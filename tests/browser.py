"""A headless Chromium, asked over its DevTools what a page did: requests, console, dialogs."""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.sync.client import connect  # Prefect brings it
from websockets.sync.connection import Connection

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
_QUIET = 1.0  # seconds after the page has loaded in which it may still do something


@dataclass
class Visit:
    """What a page did."""

    requests: list[str] = field(default_factory=list)  # beside the page's own; no data: URIs
    said: list[str] = field(default_factory=list)  # console, warnings and errors of the browser
    dialogs: list[str] = field(default_factory=list)


class Browser:
    """One tab."""

    def __init__(self, socket: Connection) -> None:
        self._socket, self._number, self._events = socket, 0, list[dict[str, Any]]()
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **given: Any) -> Any:
        """Call a method of the DevTools protocol and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": given}))
        while True:
            told = json.loads(self._socket.recv(timeout=60))
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]
            self._events.append(told)

    def value_of(self, expression: str) -> Any:
        """Return what a JavaScript expression comes to in the page."""
        told = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def visit(self, url: str, quiet: float = _QUIET) -> Visit:
        """Open a page and watch it until it has loaded, and a while longer."""
        self._events.clear()
        visit, loaded, end = Visit(), False, time.monotonic() + 60
        self.ask("Page.navigate", url=url)
        while time.monotonic() < end:
            if not self._events:
                try:
                    self._events.append(json.loads(self._socket.recv(timeout=0.1)))
                except TimeoutError:
                    continue
            event = self._events.pop(0)
            if event.get("method") == "Page.loadEventFired" and not loaded:
                loaded, end = True, time.monotonic() + quiet
            self._note(event, url, visit)
        assert loaded, f"{url} did not load"
        return visit

    def _note(self, event: dict[str, Any], url: str, visit: Visit) -> None:
        about = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                asked = about["request"]["url"]
                if asked != url and not asked.startswith("data:"):
                    visit.requests.append(asked)
            case "Page.javascriptDialogOpening":
                visit.dialogs.append(about["message"])
                self.ask("Page.handleJavaScriptDialog", accept=True)
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                visit.said.append(json.dumps(about))


@contextmanager
def chromium(folder: Path, width: int = 1280, height: int = 1000) -> Iterator[Browser]:
    """Start Chromium with a profile of its own in `folder`, and end it with the block."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",  # root has none
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        f"--window-size={width},{height}",
        f"--user-data-dir={folder}",
        "--remote-debugging-port=0",
        "about:blank",
    ]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        place = folder / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not place.is_file() or not place.read_text().strip():
            assert process.poll() is None, f"{CHROMIUM} ended with {process.returncode}"
            assert time.monotonic() < end, f"{CHROMIUM} does not listen"
            time.sleep(0.1)
        port = place.read_text().splitlines()[0]
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
            [tab, *_] = [each for each in json.load(answer) if each["type"] == "page"]
        with connect(tab["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
            yield Browser(socket)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
