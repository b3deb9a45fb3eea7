"""Pixels and texts in, unit vectors out, on whatever device there is.

Shapes: B images of a batch, H x W the model's input size, N texts, D embedding dimensions.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import Normalize, ToTensor

from pipeline.arrays import Floats, Pixels, unit_rows
from pipeline.clip.loading import LoadedModel, load_model
from pipeline.errors import InputError
from pipeline.identity import EncoderIdentity, digest
from pipeline.images.fitting import Fitting

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Encoder:
    """An open_clip model. Its image tower runs in `precision`, its text tower always in float32:
    a label's vector is used a million times, and computed once.
    """

    def __init__(self, loaded: LoadedModel, *, device: torch.device, precision: str) -> None:
        """Use `load_encoder`, which chooses device and precision."""
        self.identity = _identify(loaded)
        self.device, self.precision = device, precision
        self._dtype = _DTYPES[precision]
        self.fit = fitting_of(loaded)
        normalize = next(s for s in loaded.transform.transforms if isinstance(s, Normalize))
        self._mean = torch.tensor(normalize.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(normalize.std, device=device).view(1, 3, 1, 1)
        self._model = loaded.model.to(device)
        self._model.visual.to(dtype=self._dtype, memory_format=torch.channels_last)
        self._tokenizer = loaded.tokenizer

    @torch.inference_mode()
    def encode_images(self, pixels: Pixels) -> Floats:
        """Turn (B, H, W, 3) of `fit`ted RGB into (B, D), rows of unit length."""
        batch = torch.from_numpy(pixels).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        scaled = (batch.float() / 255 - self._mean) / self._std  # as ToTensor and Normalize
        features = self._model.encode_image(
            scaled.to(self._dtype, memory_format=torch.channels_last)
        )
        return unit_rows(features.float().cpu().numpy())

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Floats:
        """Turn N texts into (N, D), rows of unit length; what exceeds the context is cut off."""
        batches = [
            self._model.encode_text(
                self._tokenizer(list(texts[at : at + batch_size])).to(self.device)
            )
            for at in range(0, len(texts), batch_size)
        ]
        if not batches:
            return np.empty((0, self.identity.dimension), np.float32)
        return unit_rows(torch.cat(batches).float().cpu().numpy())


def load_encoder(model: str, *, device: str = "auto", precision: str = "auto") -> Encoder:
    """Load a model by name and choose where and how it runs.

    Args:
        model: as in `loading`.
        device: auto (a GPU where there is one), cpu, cuda or cuda:1.
        precision: auto, fp32, bf16 or fp16.

    Raises:
        InputError: the model cannot be loaded, or the device is not there.
    """
    chosen = choose_device(device)
    loaded = load_model(model)
    return Encoder(loaded, device=chosen, precision=choose_precision(precision, chosen))


def choose_device(wanted: str) -> torch.device:
    """Resolve "auto", and refuse a GPU that is not there."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {wanted}: torch sees {torch.cuda.device_count()} CUDA devices here; "
            "use auto or cpu"
        )
    return device


def choose_precision(wanted: str, device: torch.device) -> str:
    """Resolve "auto": bfloat16 where the hardware multiplies it, float32 elsewhere."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if able.get("amx_bf16") or able.get("avx512_bf16") else "fp32"


def fitting_of(loaded: LoadedModel) -> Fitting:
    """Return what a model's transform does before the tensor, as an object that needs no torch.

    Raises:
        InputError: the transform does otherwise than its config says, or than we can do.
    """
    cfg: dict[str, Any] = vars(loaded.model.visual).get("preprocess_cfg", {})
    size = cfg.get("size", 224)
    height, width = (size, size) if isinstance(size, int) else (size * 2)[:2]
    resize: Any = cfg.get("resize_mode") or "shortest"
    # For a shortest side of an input that is not square, open_clip is deaf to the interpolation.
    heard = cfg.get("interpolation") == "bilinear" and (resize != "shortest" or height == width)
    fitting = Fitting(
        (height, width), resize, "bilinear" if heard else "bicubic", cfg.get("fill_color", 0)
    )
    steps = loaded.transform.transforms
    first_on_tensors = next(i for i, step in enumerate(steps) if isinstance(step, ToTensor))
    for shape in ((61, 97, 3), (300, 50, 3), (height, width, 3)):
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        expected = image = Image.fromarray(noise)
        for step in steps[:first_on_tensors]:
            expected = step(expected)
        if fitting(image).tobytes() != expected.tobytes():
            names = ", ".join(map(str, steps[:first_on_tensors]))
            raise InputError(
                f"model {loaded.architecture}: its preprocessing ({names}) is of a kind "
                "that cannot be reproduced; choose another model"
            )
    return fitting


def _identify(loaded: LoadedModel) -> EncoderIdentity:
    model = loaded.model
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    with torch.inference_mode():
        dimension = model.encode_text(loaded.tokenizer(["a"])).shape[1]
    bias = getattr(model, "logit_bias", None)
    preprocessing = vars(model.visual).get("preprocess_cfg", {})
    return EncoderIdentity(
        architecture=loaded.architecture.rstrip("/").split("/")[-1],
        weights=weights.hexdigest()[:32],
        preprocessing=digest(preprocessing),
        dimension=dimension,
        logit_scale=_stable(model.logit_scale.exp()),
        logit_bias=None if bias is None else _stable(bias),
    )


def _stable(value: torch.Tensor) -> float:
    """Round to 6 digits: the last bits of exp() differ between machines; identities must not."""
    return float(f"{float(value):.6g}")
