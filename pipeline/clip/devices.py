"""Where models run, and how precisely."""

import torch

from pipeline.errors import InputError


def choose_devices(wanted: str) -> list[torch.device]:
    """Resolve "auto" and "cuda", and refuse a GPU that is not there."""
    count = torch.cuda.device_count()
    if wanted == "cpu" or (wanted == "auto" and not count):
        return [torch.device("cpu")]
    if wanted in ("auto", "cuda") and count:
        return [torch.device("cuda", index) for index in range(count)]
    device = torch.device(wanted)
    if (device.index or 0) >= count:
        raise InputError(f"device {wanted}: torch sees {count} CUDA devices here; use auto or cpu")
    return [device]


def choose_precision(wanted: str, device: torch.device) -> str:
    """Resolve "auto": bfloat16 where the hardware multiplies it, float32 elsewhere."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if able.get("amx_bf16") or able.get("avx512_bf16") else "fp32"
