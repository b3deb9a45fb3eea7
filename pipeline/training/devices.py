"""The device that training runs on, and how it is made the most of."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.clip.devices import choose_precision
from pipeline.errors import InputError


def device_named(name: str) -> torch.device:
    """Return the device of a name: cpu, cuda or cuda:1.

    Raises:
        InputError: it is not there.
    """
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name}: torch sees {torch.cuda.device_count()} CUDA devices here; use cpu"
        )
    return device


def usual_device() -> str:
    """Return the name of the device where heads are trained when nobody says: a GPU's, or cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def multiplies_halves(device: torch.device) -> bool:
    """Tell whether this is a CPU that multiplies bfloat16 by itself."""
    return device.type == "cpu" and choose_precision("auto", device) == "bf16"


@contextmanager
def a_core_left() -> Iterator[None]:
    """Have torch leave one core to others in the block.

    Its threads wait for each other at the end of every operation: with one of them held up by who
    reads, all are.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before - 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)
