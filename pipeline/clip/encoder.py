"""Pixels and texts in, unit vectors out, on whatever device there is.

Shapes: B images of a batch, H x W the model's input size, N texts, D embedding dimensions.
"""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import ToTensor

from pipeline.arrays import Floats, Pixels, unit_rows
from pipeline.clip.devices import choose_devices, choose_precision
from pipeline.clip.loading import LoadedModel, load_model
from pipeline.clip.protocol import Lanes
from pipeline.clip.tokens import cut, length, unknown
from pipeline.clip.tower import ImageTower
from pipeline.cores import cores
from pipeline.errors import InputError
from pipeline.identity import EncoderIdentity, digest
from pipeline.images.fitting import Fitting

_CPU_LANES = 8  # of more cores each lane has several: a lane's batch takes memory
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Encoder:
    """An open_clip model. Its image tower runs in `precision`, its text tower always in float32:
    a label's vector is used a million times, and computed once.

    Every method may be called from many threads. With several GPUs each holds a copy of the model,
    and batches go to whichever is free.
    """

    def __init__(
        self, loaded: LoadedModel, *, devices: Sequence[torch.device], precision: str
    ) -> None:
        """Use `load_encoder`, which chooses devices and precision."""
        self.identity = _identify(loaded)
        self.devices, self.precision = tuple(devices), precision
        self.fit = fitting_of(loaded)
        self._tokenizer = loaded.tokenizer
        copies = [copy.deepcopy(loaded.model) for _ in devices[1:]]
        self._towers = [
            ImageTower(model, loaded.transform, device, _DTYPES[precision])
            for model, device in zip([loaded.model, *copies], devices, strict=True)
        ]
        self._model, self._lanes = loaded.model, _lanes_of(self.devices)
        # The first free one is the one that was free for longest: GPUs take turns.
        self._free: SimpleQueue[ImageTower] = SimpleQueue()
        for tower in self._towers * (self._lanes // len(self._towers)):
            self._free.put(tower)

    @property
    def device(self) -> torch.device:
        """Where texts are encoded, and images, too."""
        return self.devices[0]

    @contextmanager
    def lanes(self) -> Iterator[Lanes]:
        """Share the cores among threads that call `encode_images`; on GPUs two threads each."""
        before = torch.get_num_threads()
        threads = max(1, before // self._lanes) if self.device.type == "cpu" else before
        with ThreadPoolExecutor(
            self._lanes, "model", initializer=torch.set_num_threads, initargs=(threads,)
        ) as pool:
            try:
                yield Lanes(pool, self._lanes)
            finally:
                pool.shutdown(cancel_futures=True)
                torch.set_num_threads(before)  # what threads began meanwhile had taken over

    def encode_images(self, pixels: Pixels | torch.Tensor) -> Floats:
        """Turn (B, H, W, 3) of `fit`ted RGB, on any device, into (B, D), rows of unit length.

        Raises:
            MemoryError: the batch is too large for the device.
        """
        tower = self._free.get()
        try:
            return unit_rows(tower(pixels))
        finally:
            self._free.put(tower)

    def compile(self) -> None:
        """Translate the image towers with `torch.compile`, and see that they work.

        Raises:
            InputError: they cannot be compiled here.
        """
        blank = np.zeros((2, *self.fit.size, 3), np.uint8)
        try:
            for tower in self._towers:
                tower.compile()
                tower(blank)
        except Exception as error:  # torch raises what its compilers raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"encoder.compile: torch.compile cannot translate this model here ({reason}); "
                "a C++ compiler is needed on a CPU. Run without it"
            ) from error

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

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Tell which of N texts are longer than what the model reads; False where unknown."""
        return cut(self._tokenizer, texts)

    def length(self, text: str) -> tuple[int, int]:
        """Return how many tokens a text has and how many are read, start and end mark included."""
        return length(self._tokenizer, text)

    def unknown(self, words: Sequence[str]) -> list[bool]:
        """Tell of which words the tokenizer has no piece; False where it cannot be told."""
        return unknown(self._tokenizer, words)


def load_encoder(
    model: str, *, device: str = "auto", precision: str = "auto", compiled: bool = False
) -> Encoder:
    """Load a model by name and choose where and how it runs.

    Args:
        model: as in `loading`.
        device: auto (all GPUs, where there are any), cpu, cuda (all GPUs) or cuda:1.
        precision: auto, fp32, bf16 or fp16.
        compiled: have `torch.compile` translate the image tower, which takes a while.

    Raises:
        InputError: the model cannot be loaded, or the device is not there.
    """
    chosen = choose_devices(device)
    loaded = load_model(model)
    encoder = Encoder(loaded, devices=chosen, precision=choose_precision(precision, chosen[0]))
    if compiled:
        encoder.compile()
    return encoder


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


def _lanes_of(devices: Sequence[torch.device]) -> int:
    """Two for each GPU, so that one copies while the other computes; one for each core, to 8."""
    if devices[0].type == "cuda":
        return 2 * len(devices)
    return min(cores(), _CPU_LANES)


def weights_digest(model: torch.nn.Module) -> str:
    """Return 32 hex digits of the SHA-256 of every parameter of a model that is on the CPU."""
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return weights.hexdigest()[:32]


def preprocessing_of(model: Any) -> str:
    """Return a digest of how a model wants its pictures."""
    return digest(vars(model.visual).get("preprocess_cfg", {}))


def _identify(loaded: LoadedModel) -> EncoderIdentity:
    model = loaded.model
    with torch.inference_mode():
        dimension = model.encode_text(loaded.tokenizer(["a"])).shape[1]
    bias = getattr(model, "logit_bias", None)
    return EncoderIdentity(
        architecture=loaded.architecture.rstrip("/").split("/")[-1],
        weights=weights_digest(model),
        preprocessing=preprocessing_of(model),
        dimension=dimension,
        logit_scale=_stable(model.logit_scale.exp()),
        logit_bias=None if bias is None else _stable(bias),
    )


def _stable(value: torch.Tensor) -> float:
    """Round to 6 digits: the last bits of exp() differ between machines; identities must not."""
    return float(f"{float(value):.6g}")
