"""A Ray cluster: the configured one, or one of this machine alone for as long as it is needed.

What Ray calls a node is a machine here, with so many CPU and GPU to give away.
"""

import io
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.stopping import cleaned_by
from pipeline.cores import cores
from pipeline.errors import InputError
from pipeline.knobs_of_run import RunConfig

logger = logging.getLogger(__name__)

_PORT, _CLIENT_PORT = 6379, 10001  # Ray's own defaults
_ANSWERS_WITHIN = 10.0  # seconds
_REMOVALS = 10  # of a folder, 0.1 s apart
_OBJECT_BYTES = 80 << 20  # Ray's least: nothing but summaries travels


@dataclass(frozen=True)
class Share:
    """What each worker takes of its machine."""

    cpus: float
    gpus: float

    def fits(self, machines: Sequence[Mapping[str, float]]) -> int:
        """Return how many workers there is room for."""
        return sum(self._fits(machine) for machine in machines)

    def _fits(self, machine: Mapping[str, float]) -> int:
        by_cores = int(machine.get("CPU", 0) / self.cpus)
        return min(by_cores, int(machine.get("GPU", 0) / self.gpus)) if self.gpus else by_cores


class _Overheard(io.TextIOBase):
    """Takes what Ray's driver tells of dead workers: no setting keeps it from standard output,
    where a summary in JSON is expected.
    """

    def write(self, text: str) -> int:
        if text.strip():
            logger.info("Ray: %s", text.strip())
        return len(text)


def require_ray(address: str) -> None:
    """Raise InputError where Ray is not installed, or nobody listens at an address."""
    if find_spec("ray") is None:
        raise InputError(
            'run.engine = "ray": Ray is not installed here; pip install "pseudolabel[ray]", or '
            'take run.engine = "local"'
        )
    _require_answer(address)


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """Connect to a cluster; yield Ray. One that this process is connected to is used as it is.

    Args:
        address: as `run.ray_address`; empty: a cluster is started, and ended with the block.

    Raises:
        InputError: Ray is not installed, or no cluster answers.
    """
    require_ray(address)
    with _environment(own=not address), _ending_in_order() as take_signals_back:
        import ray

        if ray.is_initialized():
            yield ray
            return
        with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
            try:
                ray.init(**(_joining(address) if address else _own(folder)))
            except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
                raise InputError(_silent(address, str(error))) from error
            take_signals_back()

            def leave(*_: object) -> None:  # a command that is stopped at once unwinds nothing
                ray.shutdown()
                _remove(folder)

            try:
                with cleaned_by(leave), redirect_stdout(_Overheard()):
                    yield ray
            finally:
                ray.shutdown()


def _remove(folder: str) -> None:
    """Remove a folder that the main thread, or a process that ends, may be at work in, too."""
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not Path(folder).exists():
            return
        time.sleep(0.1)


def machines_of(ray: Any) -> list[dict[str, float]]:
    """Return what each machine of the cluster that is alive has to give: CPU, GPU ..."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def share_of(asked: RunConfig, machines: Sequence[Mapping[str, float]]) -> Share:
    """Decide what each worker takes.

    Args:
        asked: `num_cpus` 0: the cores of the smallest machine that will do, shared by its GPUs.
        machines: what each has.

    Raises:
        InputError: no machine of the cluster has as much.
    """
    gpus, least = asked.num_gpus, asked.num_cpus or 1
    for name, amount in (("num_cpus", asked.num_cpus), ("num_gpus", gpus)):
        if amount > 1 and amount % 1:
            raise InputError(f"run.{name} = {amount:g}: above 1 Ray takes whole numbers only")
    able = [m for m in machines if m.get("GPU", 0) >= gpus and m.get("CPU", 0) >= least]
    if not able:
        has = ", ".join(f"{m.get('CPU', 0):g} and {m.get('GPU', 0):g}" for m in machines)
        raise InputError(
            f"run.num_cpus = {asked.num_cpus:g}, run.num_gpus = {gpus:g}: no machine of the Ray "
            f"cluster has as much; CPUs and GPUs of each: {has or 'there is none'}"
        )
    workers = [max(1, int(m["GPU"] / gpus)) if gpus else 1 for m in able]
    shares = [max(1, m["CPU"] // count) for m, count in zip(able, workers, strict=True)]
    return Share(asked.num_cpus or min(shares), gpus)


@contextmanager
def _environment(*, own: bool) -> Iterator[None]:
    """Set what Ray and all that it starts read; what the user has set stays.

    Without a token of its own our cluster would obey everybody who has an account on this machine,
    or Ray would leave a token in the user's home.
    """
    wanted = {"RAY_USAGE_STATS_ENABLED": "0"}
    if own:  # else workers are nicer to the rest of the machine than a run without Ray is
        wanted["RAY_worker_niceness"] = "0"
        # Ray takes 127.0.0.1 for the machine's own address, and then listens to everybody, but
        # where it takes this system for one without clusters: its own default on others than Linux.
        wanted["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if own and "RAY_AUTH_MODE" not in os.environ:
        wanted |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _ending_in_order() -> Iterator[Callable[[], None]]:
    """Yield what takes SIGTERM back from Ray, under whose hands the process would abort.

    Whoever handled it before does so again; where nobody did, it is taken for Ctrl-C, so that the
    workers are dismissed. (Ray turns any other exception of a handler into an error of its own.)
    """
    before = signal.getsignal(signal.SIGTERM)

    def handle(handler: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # no other may
            signal.signal(signal.SIGTERM, handler)

    try:
        yield lambda: handle(signal.default_int_handler if before == signal.SIG_DFL else before)
    finally:
        handle(before)


def _own(folder: str) -> dict[str, Any]:
    return {
        "address": "local",  # whatever RAY_ADDRESS says
        "num_cpus": cores(),
        "include_dashboard": False,
        "object_store_memory": _OBJECT_BYTES,
        "_node_ip_address": "127.0.0.1",  # it listens to nobody else
        "_temp_dir": folder,
        **_quiet(),
    }


def _joining(address: str) -> dict[str, Any]:
    return {"address": address, **_quiet()}


def _quiet() -> dict[str, Any]:
    return {"log_to_driver": False, "logging_level": logging.ERROR}


def _require_answer(address: str) -> None:
    """Ask whether anybody listens: Ray itself would try for minutes, and print meanwhile."""
    client = address.startswith("ray://")
    if not address or ("://" in address and not client) or ":" not in address:
        return  # auto, or what Ray may make of it
    try:
        place = urlsplit(address if client else f"//{address}")
        port = place.port or (_CLIENT_PORT if client else _PORT)
        with socket.create_connection((place.hostname or "", port), _ANSWERS_WITHIN):
            return
    except (OSError, ValueError) as error:
        raise InputError(_silent(address, str(error))) from error


def _silent(address: str, why: str) -> str:
    told = (why.strip() or "no reason given").splitlines()[0]
    if not address:
        return f'run.engine = "ray": no Ray cluster can be started on this machine ({told})'
    return (
        f'run.ray_address = "{address}": no Ray cluster answers there ({told}); start one with '
        "`ray start --head`, or leave it empty for one of this machine alone"
    )
