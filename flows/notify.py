"""Hooks: a command or a webhook is told when a run fails or images drift.

A hook that fails, hangs or does not answer is logged and never fails a run.
"""

import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime

from flows.metrics import record_outside
from flows.reporting import ReportSummary
from pipeline.config import Config
from pipeline.errors import exit_code
from pipeline.notice import Hook, NotifyConfig, is_url, shown, words
from pipeline.reports.drift import LEVELS

logger = logging.getLogger(__name__)

_watching: ContextVar[bool] = ContextVar("watching", default=False)
_TOO_MANY, _SERVER_FAULT = 429, 500


@contextmanager
def watched(config: Config) -> Iterator[None]:
    """Tell the owner when what runs inside fails: once, however many layers it passes.

    Every failure counts, exit codes 1, 2 and 3 alike: bad input is a failure to whoever relies on a
    schedule, and so is a store that is never free. What a person stops is none.
    """
    if _watching.get():
        yield
        return
    token = _watching.set(True)
    try:
        yield
    except Exception as error:
        tell_failure(config, error)
        raise
    finally:
        _watching.reset(token)


def tell_drift(config: Config, run_id: str, report: ReportSummary | None) -> None:
    """Tell the owner where a run's images have drifted as far as `notify.drift` says."""
    wanted = config.notify
    if not wanted.on_drift or report is None or report.drift not in LEVELS:
        return
    if LEVELS.index(report.drift) >= LEVELS.index(wanted.drift):
        about = {
            "drift": report.drift,
            "reason": report.drift_reason,
            "report": f"{config.store}/{report.page}",
        }
        call_hook(wanted.on_drift, _message(config, "drift", run_id=run_id, **about), wanted)


def tell_failure(config: Config, error: Exception) -> None:
    """Tell the owner that a run failed, and count it."""
    code = exit_code(error)
    record_outside(config, "failed", {})
    if config.notify.on_failure:
        about = {"exit_code": code, "kind": type(error).__name__, "error": str(error)}
        call_hook(config.notify.on_failure, _message(config, "failure", **about), config.notify)


def _message(config: Config, event: str, **about: object) -> dict[str, object]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"event": event, "store": config.store, "at": now, **about}


def call_hook(hook: Hook, message: dict[str, object], wanted: NotifyConfig) -> bool:
    """Tell a hook; return whether it took it.

    Args:
        hook: a command or a URL.
        message: what it is told, as JSON.
        wanted: time-out and tries.
    """
    content = json.dumps(message, ensure_ascii=False).encode(errors="replace")
    try:
        fault = _post(hook, content, wanted) if is_url(hook) else _run(hook, content, wanted)
    except Exception as error:  # whatever it is, the run is what matters
        fault = type(error).__name__
    if fault:
        logger.warning("notify: %s: %s", shown(hook), fault)
    return fault is None


def _run(hook: Hook, content: bytes, wanted: NotifyConfig) -> str | None:
    """Run a command without a shell; return what went wrong."""
    command = [os.path.expandvars(word) for word in words(hook)]
    try:
        process = subprocess.Popen(  # noqa: S603 - the owner's own command
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that what it starts can be ended with it
        )
    except (OSError, ValueError) as error:
        return f"cannot be started ({error.strerror if isinstance(error, OSError) else error})"
    try:
        _, said = process.communicate(content, timeout=wanted.timeout_seconds)
    except subprocess.TimeoutExpired:
        return f"did not end within {wanted.timeout_seconds:g} s"
    except BrokenPipeError:
        said = b""
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        return f"ended with {process.returncode}: {''.join(last)[:200]}"
    return None


def _post(hook: Hook, content: bytes, wanted: NotifyConfig) -> str | None:
    """POST to a webhook, some times; return what went wrong the last time."""
    fault: str | None = None
    for attempt in range(wanted.tries):
        if attempt:
            time.sleep(2 ** (attempt - 1))
        again, fault = _try_post(os.path.expandvars(str(hook)), content, wanted.timeout_seconds)
        if not again:
            break
    return fault


def _try_post(url: str, content: bytes, seconds: float) -> tuple[bool, str | None]:
    """Return whether another try may help, and what went wrong."""
    # A server that sends a byte now and then never runs into a time-out of its socket.
    answers: list[tuple[bool, str | None]] = []
    thread = threading.Thread(
        target=lambda: answers.append(_answer(url, content, seconds)), daemon=True
    )
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else (True, f"no answer within {seconds:g} s")


def _answer(url: str, content: bytes, seconds: float) -> tuple[bool, str | None]:
    import httpx

    headers = {"Content-Type": "application/json"}
    try:
        with httpx.stream("POST", url, content=content, headers=headers, timeout=seconds) as reply:
            status = reply.status_code
    except httpx.TransportError as error:
        return True, type(error).__name__  # its words may hold the URL
    except Exception as error:
        return False, type(error).__name__
    if httpx.codes.is_success(status):
        return False, None
    return status == _TOO_MANY or status >= _SERVER_FAULT, f"answered {status}"
