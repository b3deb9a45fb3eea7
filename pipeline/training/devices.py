"""The device that training runs on."""

import torch

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
