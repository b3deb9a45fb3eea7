"""The image tower of a model on one device: fitted pixels in, features out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn
from torch.fx.experimental.optimization import fuse
from torchvision.transforms import Normalize

from pipeline.arrays import Floats, Pixels


class Normalization:
    """What open_clip's ToTensor and Normalize do, bit for bit, on the model's device."""

    def __init__(self, transform: Any, device: torch.device) -> None:
        """Take mean and standard deviation from a model's own preprocessing."""
        normalize = next(step for step in transform.transforms if isinstance(step, Normalize))
        self._mean = torch.tensor(normalize.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(normalize.std, device=device).view(1, 3, 1, 1)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Turn (B, H, W, 3) of uint8 into (B, 3, H, W) of float32."""
        return batch.permute(0, 3, 1, 2).float().div_(255).sub_(self._mean).div_(self._std)


class ImageTower:
    """Runs a model's image side; may be called by several threads at once."""

    def __init__(
        self, model: Any, transform: Any, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Move a model to its device and its image side to `dtype`.

        Args:
            model: of open_clip.
            transform: its own preprocessing, of which the normalisation is taken.
            device: where it is to run.
            dtype: of weights and activations.
        """
        self._normalized = Normalization(transform, device)
        self._model, self._device, self._dtype = model.to(device), device, dtype
        if dtype != torch.float32:  # where bits do not count, and before weights are rounded
            fold_norms(self._model.visual)
        self._model.visual.to(dtype=dtype, memory_format=torch.channels_last)
        spare_last_block(self._model.visual)

    def compile(self) -> None:
        """Have torch translate it at its next call."""
        self._model.visual = torch.compile(self._model.visual)

    @torch.inference_mode()
    def __call__(self, pixels: Pixels | torch.Tensor) -> Floats:
        """Turn (B, H, W, 3) of uint8, on any device, into features (B, D).

        Raises:
            MemoryError: the device has no room for so many.
        """
        held = torch.as_tensor(pixels)
        with memory_told():
            if self._device.type != "cuda":
                return self._features(held)
            # A stream of one's own: another thread's batch is computed while this one is copied.
            with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
                near = held if held.is_cuda else held.pin_memory()
                return self._features(near.to(self._device, non_blocking=True))

    def _features(self, batch: torch.Tensor) -> Floats:
        scaled = self._normalized(batch)
        features = self._model.encode_image(
            scaled.to(self._dtype, memory_format=torch.channels_last)
        )
        rows: Floats = features.float().cpu().numpy()
        return rows


def fold_norms(module: nn.Module) -> None:
    """Have the convolutions of a model, in eval mode, do the work of the batch norms behind them.

    Both are linear, so the answer is the same but for rounding; RN50 is a sixth faster in bfloat16
    on a CPU. What cannot be traced is left as it is, and its parts are tried.
    """
    for name, child in list(module.named_children()):
        if not any(isinstance(each, nn.BatchNorm2d) for each in child.modules()):
            continue
        try:
            folded = fuse(child)
        except Exception:  # tracing raises what the model's own code raises over a stand-in
            fold_norms(child)
        else:
            setattr(module, name, folded)


def spare_last_block(visual: Any) -> bool:
    """Have a ViT that reads its answer off the class token compute nothing else in its last block.

    Of the other tokens nobody looks at what comes out, so the answer is the same; of ViT-B-32's
    work one part in 15 is spared.

    Returns:
        Whether this is such a model.
    """
    if not isinstance(visual, VisionTransformer):
        return False
    last = visual.transformer.resblocks[-1]
    if not (
        visual.pool_type == "tok"
        and visual.attn_pool is None
        and not visual.output_tokens
        and isinstance(last, ResidualAttentionBlock)
        and last.attn.batch_first
    ):
        return False
    # Queries of the class token alone, keys and values of all; then an MLP of it alone. What the
    # block adds to the others is the class token's: it is wrong for them, and dropped with them.
    last.attn.register_forward_pre_hook(lambda _, given: (given[0][:, :1], *given[1:]))
    last.ln_2.register_forward_pre_hook(lambda _, given: (given[0][:, :1],))
    return True


@contextmanager
def memory_told() -> Iterator[None]:
    """Raise MemoryError where torch raises what it has for it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise MemoryError(str(error)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # torch has no class of its own for it
            raise
        raise MemoryError(str(error)) from error


def device_name(device: torch.device) -> str:
    """Return what a device calls itself, such as "NVIDIA H200"; a CPU is "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
