"""Pixels in, captions out: open_clip's CoCa, which writes one word piece after another.

Yu et al. 2022, "CoCa: Contrastive Captioners are Image-Text Foundation Models". By default each
next piece is the likeliest one (greedy), so that the same batch gets the same words again. Beam
search, open_clip's own default, needs what transformers 5 has no more.

Shapes: B images of a batch, H x W the model's input size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import open_clip
import torch
from open_clip import coca_model

from pipeline.arrays import Pixels
from pipeline.captions import captions_table, way_of
from pipeline.clip.devices import choose_devices, choose_precision
from pipeline.clip.encoder import fitting_of, preprocessing_of, weights_digest
from pipeline.clip.loading import LoadedModel, load_model
from pipeline.clip.tower import Normalization, memory_told
from pipeline.errors import InputError
from pipeline.identity import digest

LONGEST, SHORTEST = 30, 5  # pieces of a caption, marks included: open_clip's own defaults
NUCLEUS = 0.9  # sampled: a piece is drawn from the likeliest that together have this probability
_KNOWN = "coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Written:
    """What a model wrote of one image."""

    caption: str  # empty: nothing of use
    note: str | None = None  # why it is empty


class Writer(Protocol):
    """What the stage needs of a model that writes captions; tests may pass one of their own."""

    name: str  # that loaded it
    weights: str  # their digest
    way: str  # how it writes, in words
    table: str  # where its captions go

    def write(self, pixels: Pixels, ids: Sequence[str]) -> list[Written]:
        """Write a caption for each of B images.

        Args:
            pixels: (B, H, W, 3) of fitted RGB.
            ids: B image ids.

        Raises:
            MemoryError: the batch is too large for the device.
        """


class Captioner:
    """An open_clip model with a text decoder, on one device."""

    def __init__(
        self,
        name: str,
        loaded: LoadedModel,
        *,
        device: torch.device,
        precision: str,
        sample: bool,
        seed: int,
    ) -> None:
        """Use `load_captioner`, which checks the model first."""
        self.name, self.weights = name, weights_digest(loaded.model)
        self.way = way_of(sample, seed)
        self.table = captions_table(self.weights, preprocessing_of(loaded.model), self.way)
        self.fit = fitting_of(loaded)
        self._tokenizer, self._seed = loaded.tokenizer, seed
        self._device, self._dtype = device, _DTYPES[precision]
        self._normalized = Normalization(loaded.transform, device)
        self._model = loaded.model.to(device=device, dtype=self._dtype)
        longest = min(LONGEST, loaded.model.context_length)
        self._how: dict[str, Any] = {
            "generation_type": "top_p" if sample else "top_k",
            "top_p": NUCLEUS,
            "top_k": 1,
            "seq_len": longest,
            "min_seq_len": min(SHORTEST, longest - 1),
            "sot_token_id": self._tokenizer.sot_token_id,
            "eos_token_id": self._tokenizer.eot_token_id,
        }

    @torch.inference_mode()
    def write(self, pixels: Pixels, ids: Sequence[str]) -> list[Written]:
        """Write a caption for each of B images, as `Writer.write` says.

        What is sampled depends on the seed and on which images the batch holds.

        Raises:
            InputError: the model's probabilities are not finite.
            MemoryError: the batch is too large for the device.
        """
        batch = self._normalized(torch.as_tensor(pixels).to(self._device)).to(self._dtype)
        with memory_told(), self._chance_of_its_own(ids):
            try:
                pieces = self._model.generate(batch, **self._how)
            except RuntimeError as error:
                if "probability tensor" not in str(error):  # `multinomial`, of inf and NaN
                    raise
                raise InputError(
                    f"model {self.name}: what it computes is not finite; its weights are damaged, "
                    "or this precision is too narrow for it: try --precision fp32"
                ) from error
        return [cleaned(row, self._tokenizer, self._model.pad_id) for row in pieces.tolist()]

    @contextmanager
    def _chance_of_its_own(self, ids: Sequence[str]) -> Iterator[None]:
        """Seed torch for one batch, and leave its random numbers to others as they were."""
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(digest([self._seed, list(ids)]), 16) >> 1)
            yield


def cleaned(pieces: Sequence[int], tokenizer: Any, padding: int) -> Written:
    """Turn what `generate` returns of one image into words.

    Args:
        pieces: the mark of the start, pieces of words, the mark of the end, padding. Padding is a
            piece like others to the tokenizer ("!"), so what stands behind the end must go first.
        tokenizer: open_clip's own.
        padding: the number that fills the rest.
    """
    words = list(pieces)[1:]
    end = next((at for at, p in enumerate(words) if p in (tokenizer.eot_token_id, padding)), None)
    left = [piece for piece in words[:end] if piece not in tokenizer.all_special_ids]
    text = " ".join(tokenizer.decode(left).replace("\ufffd", "").split())  # halves of a letter
    if any(letter.isalnum() for letter in text):
        return Written(text)
    return Written("", f"no word in what the model wrote: {text!r}" if text else "nothing written")


def load_captioner(
    model: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    sample: bool = False,
    seed: int = 0,
) -> Captioner:
    """Load a model that writes captions.

    Args:
        model: as in `loading`.
        device: auto, cpu, cuda or cuda:1; of several GPUs the first is used.
        precision: auto, fp32, bf16 or fp16.
        sample: draw each piece among the likeliest instead of taking the likeliest.
        seed: of these draws.

    Raises:
        InputError: the model cannot be loaded or writes no captions, or the device is not there.
    """
    chosen = choose_devices(device)[0]
    architecture = model.partition("/")[0]
    if ":" not in architecture:
        known = open_clip.get_model_config(architecture)
        if known is not None and "multimodal_cfg" not in known:  # told before it is fetched
            raise _no_captioner(model)
    loaded = load_model(model)
    if not isinstance(loaded.model, open_clip.CoCa):
        raise _no_captioner(model)
    if not isinstance(loaded.tokenizer, open_clip.SimpleTokenizer):
        raise InputError(
            f"model {model}: reads words by another tokenizer than CLIP's, which captions are not "
            f"written with here; choose another one, such as {_KNOWN}"
        )
    if not all(bool(torch.isfinite(weight).all()) for weight in loaded.model.parameters()):
        raise InputError(f"model {model}: not all of its weights are finite: fetch it again")
    _mend_generation()
    return Captioner(
        model,
        loaded,
        device=chosen,
        precision=choose_precision(precision, chosen),
        sample=sample,
        seed=seed,
    )


def _no_captioner(model: str) -> InputError:
    return InputError(f"model {model}: has no text decoder, so it writes no captions; try {_KNOWN}")


def _mend_generation() -> None:
    """Let `generate` draw piece by piece under transformers 5, as it could.

    open_clip 3.3 takes it that BeamSearchScorer cannot be imported (transformers 5 dropped it) for
    transformers not being there at all: github.com/mlfoundations/open_clip/issues/1129.
    """
    if not coca_model._has_transformers:
        coca_model.GENERATION_TYPES["top_k"] = coca_model.TopKLogitsWarper
        coca_model.GENERATION_TYPES["top_p"] = coca_model.TopPLogitsWarper
        coca_model._has_transformers = True
