"""JPEGs decoded where the model runs, batch by batch: files in, vectors out.

On a GPU nvJPEG decodes, through torchvision; on a CPU the same code runs on libjpeg, and there
alone it was tested. What the device refuses is decoded the usual way.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import torch
import torchvision.io
from PIL import Image

from pipeline.arrays import Floats
from pipeline.clip.devices import choose_devices
from pipeline.clip.encoder import Encoder
from pipeline.clip.protocol import Encoded
from pipeline.clip.resizing import fit_pixels
from pipeline.clip.tower import memory_told
from pipeline.errors import InputError
from pipeline.images.decoding import Decode, Picture, Refusal
from pipeline.images.undecoded import Undecoded, left_undecoded

# Pixels that are decoded at a time, and of one picture at most: 200 MB, and 800 MB to resize it.
_AT_A_TIME = 1 << 26
# EXIF's orientations, as turns of (h, w, 3).
_TURNS: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    1: lambda stored: stored,
    2: lambda stored: stored.flip(1),
    3: lambda stored: stored.flip(0, 1),
    4: lambda stored: stored.flip(0),
    5: lambda stored: stored.transpose(0, 1),
    6: lambda stored: stored.transpose(0, 1).flip(1),
    7: lambda stored: stored.transpose(0, 1).flip(0, 1),
    8: lambda stored: stored.transpose(0, 1).flip(0),
}


def require_gpu(device: str) -> None:
    """See that a model would run on a GPU.

    Raises:
        InputError: it would not.
    """
    if choose_devices(device)[0].type != "cuda":
        raise InputError(
            f'encoder.decode = "gpu": there is no CUDA device for encoder.device = "{device}"; '
            'use encoder.decode = "fast"'
        )


class DeviceDecoder:
    """Gives `embed_shards` its `decode` and `encode`; both may be called from many threads.

    With several GPUs the first one decodes for all: torchvision keeps one decoder, and making
    another for each change of the device would leak.
    """

    def __init__(self, encoder: Encoder, usual: Decode, *, max_pixels: int) -> None:
        """Try it out on a picture.

        Args:
            encoder: the model.
            usual: decodes for it what the device does not.
            max_pixels: larger pictures are left to `usual`.

        Raises:
            InputError: JPEGs cannot be decoded on the model's device.
        """
        self._encoder, self._usual, self._device = encoder, usual, encoder.device
        self._max_pixels = min(max_pixels, _AT_A_TIME)
        buffer = BytesIO()
        Image.new("L", (32, 24)).save(buffer, "JPEG")
        try:
            with _stream_on(self._device):
                self._fitted([Undecoded(buffer.getvalue(), "trial", 32, 24, "JPEG", 1)])
        except (RuntimeError, AttributeError) as error:  # not built in; gone from torchvision
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f'encoder.decode = "gpu": torchvision decodes no JPEG on {self._device} here '
                f'({reason}); use encoder.decode = "fast"'
            ) from error

    def decode(self, data: bytes, name: str) -> Picture | Undecoded | Refusal:
        """Leave an ordinary JPEG as it is, for `encode`; decode all else the usual way."""
        left = left_undecoded(data, name, max_pixels=self._max_pixels)
        return left or self._usual(data, name)

    def encode(self, pictures: Sequence[Picture | Undecoded]) -> Encoded:
        """Decode what is not, and embed.

        Raises:
            MemoryError: the batch is too large for the device.
        """
        fitted: list[torch.Tensor | None] = [None] * len(pictures)
        refused: list[Refusal | None] = [None] * len(pictures)
        with memory_told(), _stream_on(self._device):
            for rows in _groups(pictures):
                jpegs = [p for p in (pictures[row] for row in rows) if isinstance(p, Undecoded)]
                for row, pixels in zip(rows, self._tried(jpegs), strict=True):
                    fitted[row] = pixels
            for row, picture in enumerate(pictures):
                if fitted[row] is None:
                    outcome = self._made(picture)
                    if isinstance(outcome, Refusal):
                        refused[row] = outcome
                    else:
                        fitted[row] = torch.from_numpy(outcome.pixels).to(self._device)
            batch = [pixels for pixels in fitted if pixels is not None]
            stacked = torch.stack(batch) if batch else None
        vectors: Floats = np.zeros((len(pictures), self._encoder.identity.dimension), np.float32)
        if stacked is not None:
            kept = [row for row, refusal in enumerate(refused) if refusal is None]
            vectors[kept] = self._encoder.encode_images(stacked)
        return Encoded(vectors, refused)

    def _made(self, picture: Picture | Undecoded) -> Picture | Refusal:
        if isinstance(picture, Picture):
            return picture
        return self._usual(picture.data, picture.name)

    def _tried(self, jpegs: Sequence[Undecoded]) -> list[torch.Tensor | None]:
        """Return each as (H, W, 3); None where the device will not have it, even alone."""
        try:
            return [*self._fitted(jpegs)]
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        except RuntimeError:  # torchvision has no class of its own for it
            pass
        return [None] if len(jpegs) == 1 else [self._tried([jpeg])[0] for jpeg in jpegs]

    def _fitted(self, jpegs: Sequence[Undecoded]) -> list[torch.Tensor]:
        """Decode and fit (H, W, 3) each.

        Raises:
            RuntimeError: one of them, or all together, are too much for the device.
        """
        files = [torch.frombuffer(bytearray(jpeg.data), dtype=torch.uint8) for jpeg in jpegs]
        if self._device.type == "cuda":
            # torchvision decodes on a stream of its own, into memory that ours may still read.
            torch.cuda.current_stream().synchronize()
        stored = torchvision.io.decode_jpeg(
            files, mode=torchvision.io.ImageReadMode.RGB, device=self._device
        )
        return [self._fit(pixels, jpeg) for pixels, jpeg in zip(stored, jpegs, strict=True)]

    def _fit(self, stored: torch.Tensor, jpeg: Undecoded) -> torch.Tensor:
        upright = _TURNS[jpeg.orientation](stored.permute(1, 2, 0))
        if upright.shape != (jpeg.height, jpeg.width, 3):
            raise RuntimeError(f"decoded to {tuple(upright.shape)}, not as its header says")
        return fit_pixels(upright, (jpeg.height, jpeg.width), self._encoder.fit)


def _groups(pictures: Sequence[Picture | Undecoded]) -> Iterator[list[int]]:
    """Yield the rows of what is undecoded, so many at a time as the device has room for."""
    rows: list[int] = []
    pixels = 0
    for row, picture in enumerate(pictures):
        if isinstance(picture, Picture):
            continue
        size = picture.width * picture.height
        if rows and pixels + size > _AT_A_TIME:
            yield rows
            rows, pixels = [], 0
        rows.append(row)
        pixels += size
    if rows:
        yield rows


@contextmanager
def _stream_on(device: torch.device) -> Iterator[None]:
    """Do what is done on a GPU beside what other threads do there, and wait until it is done."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        yield
        torch.cuda.current_stream().synchronize()
