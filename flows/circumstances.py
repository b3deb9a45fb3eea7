"""What a run embedded with, and what it cost to begin: kept, so that a dry run can tell times."""

import time
from contextvars import ContextVar
from dataclasses import dataclass

from flows import resources
from pipeline.config import Config
from pipeline.cores import cores

_began: ContextVar[float | None] = ContextVar("began", default=None)
_start: ContextVar[float | None] = ContextVar("start", default=None)


@dataclass(frozen=True)
class Circumstances:
    """What decides how fast a run embeds, and the seconds before its first step."""

    model: str
    asked_device: str  # as the config has it, such as auto
    device: str  # cpu or cuda
    devices: list[str]  # by their own names
    asked_precision: str
    precision: str
    compile: bool
    decode: str
    engine: str
    cores: int
    load_seconds: float  # of the model
    start_seconds: float | None  # model and Prefect; null where no command began the run: serve


def begun() -> None:
    """Note that a command begins a run now."""
    _began.set(time.perf_counter())


def started() -> None:
    """Note that the run's own steps begin now."""
    began = _began.get()
    _start.set(None if began is None else round(time.perf_counter() - began, 3))
    _began.set(None)


def circumstances(config: Config) -> Circumstances | None:
    """Return what this process embeds with; None where the model was not loaded here."""
    loaded = resources.loaded(config)
    if loaded is None:
        return None
    from pipeline.clip.tower import device_name  # torch is loaded already

    encoder, seconds = loaded
    wanted = config.encoder
    return Circumstances(
        model=resources.model_name(config),
        asked_device=wanted.device,
        device=encoder.device.type,
        devices=[device_name(device) for device in encoder.devices],
        asked_precision=wanted.precision,
        precision=encoder.precision,
        compile=wanted.compile,
        decode=wanted.decode,
        engine=config.run.engine,
        cores=cores(),
        load_seconds=round(seconds, 3),
        start_seconds=_start.get(),
    )
