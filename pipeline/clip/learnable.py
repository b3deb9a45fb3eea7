"""Prompts with learnable words, "X X X X {name}.", through the frozen text tower of a model.

After CoOp: Zhou et al. 2022, "Learning to Prompt for Vision-Language Models", arXiv 2109.01134,
with one context for all classes and the class name at the end. Everything is in float32.
Shapes: C classes, M context tokens, L tokens of a prompt, W the tower's width, D embedding
dimensions.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import nn
from torch.nn import functional

from pipeline.clip.loading import LoadedModel
from pipeline.clip.tokens import cut
from pipeline.errors import InputError
from pipeline.label_set import without_article

START = "a photo of a"  # what the context says before it has learnt anything
_FILLER = "x"  # its place in the prompts; any word of one token would do
_TOLERANCE = 1e-4  # of unit vectors: another kernel for shorter prompts moves the last bits


class LearnablePrompts(nn.Module):
    """One text vector a class, differentiable in the context and in nothing else.

    `context` (M, W) is the only parameter; the tower is kept beside it, neither trained nor saved.
    """

    def __init__(
        self, loaded: LoadedModel, names: Sequence[str], *, tokens: int = 4, device: str = "cpu"
    ) -> None:
        """Put M = `tokens` learnable tokens before each name; they start as "a photo of a".

        Fewer are its last words; of more, the first are fillers.

        Args:
            loaded: a model of open_clip with a text tower of open_clip's own.
            names: of the C classes; their articles are left away, for the context has one.
            tokens: at least 1.
            device: where the tower is to run; anywhere but on the CPU it is a copy.

        Raises:
            InputError: the text tower is of another kind, or it cannot read a prompt to its end.
        """
        super().__init__()
        prompts = [f"{' '.join([_FILLER] * tokens)} {without_article(name)}." for name in names]
        self._tower = _tower_of(loaded)
        _check_length(loaded, names, prompts, tokens)
        ids, self._first = _tokenized(loaded, prompts, tokens)
        _check_same(self._tower, loaded, ids[:2])
        ids = self._tower.without_padding(ids)
        start = _start(loaded, self._first, int(ids[0, self._first]), tokens)
        self.context = nn.Parameter(self._tower.embedding(start).detach().clone())
        self._embedded = self._tower.embedding(ids).detach().to(device)  # (C, L, W)
        self._ids = ids.to(device)
        self.to(device)
        if torch.device(device).type != "cpu":
            self._tower = self._tower.copied_to(device)

    def forward(self) -> torch.Tensor:
        """Return (C, D), rows of unit length, on the tower's device."""
        before, after = self._first, self._first + len(self.context)
        context = self.context.to(self._ids.device).expand(len(self._ids), -1, -1)
        rows = [self._embedded[:, :before], context, self._embedded[:, after:]]
        return functional.normalize(self._tower(torch.cat(rows, dim=1), self._ids), dim=1)


@dataclass(frozen=True)
class _Tower:
    """The steps of open_clip's text towers after the embedding of tokens; no nn.Module.

    As a module it would be trained, saved and counted with what holds it.
    """

    embedding: nn.Embedding
    positions: torch.Tensor  # (at least L, W)
    transformer: Any
    mask: torch.Tensor | None  # additive; None: every token sees all
    ln_final: nn.Module
    projection: nn.Linear | torch.Tensor | None
    pool: str
    eos: int | None

    def __call__(self, embedded: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return (C, D), not normalised, of token embeddings (C, L, W) and token ids (C, L)."""
        length = ids.shape[1]
        mask = None if self.mask is None else self.mask[:length, :length]
        hidden = self.transformer(embedded + self.positions[:length], attn_mask=mask)
        pooled = text_global_pool(self.ln_final(hidden), ids, self.pool, eos_token_id=self.eos)
        if self.projection is None:
            return cast(torch.Tensor, pooled)
        if isinstance(self.projection, nn.Linear):
            return cast(torch.Tensor, self.projection(pooled))
        return cast(torch.Tensor, pooled @ self.projection)

    def without_padding(self, ids: torch.Tensor) -> torch.Tensor:
        """Cut off what no pooled token sees: it is most of a prompt, and of the work."""
        if self.mask is None or self.pool != "argmax":
            return ids
        return ids[:, : int(ids.argmax(dim=1).max()) + 1]

    def copied_to(self, device: str) -> "_Tower":
        """Return a copy on a device; moving the tower itself would move the caller's model."""
        parts = copy.deepcopy(vars(self))
        for name, part in parts.items():
            if isinstance(part, nn.Module | torch.Tensor):
                parts[name] = part.to(device)
        return _Tower(**parts)


def _tower_of(loaded: LoadedModel) -> _Tower:
    inner = getattr(loaded.model, "text", loaded.model)
    if not isinstance(inner, CLIP | TextTransformer):
        raise InputError(
            f"model {loaded.architecture}: no prompt can be learnt through its text tower, a "
            f"{type(inner).__name__}: only open_clip's own will do; choose another head or model"
        )
    built_in = isinstance(inner, CLIP)
    return _Tower(
        embedding=inner.token_embedding,
        positions=inner.positional_embedding.detach(),
        transformer=inner.transformer,
        mask=inner.attn_mask,
        ln_final=inner.ln_final,
        projection=inner.text_projection,
        pool=inner.text_pool_type if built_in else inner.pool_type,
        eos=inner.text_eos_id if built_in else inner.eos_id,
    )


def _check_length(
    loaded: LoadedModel, names: Sequence[str], prompts: Sequence[str], tokens: int
) -> None:
    for name, too_long in zip(names, cut(loaded.tokenizer, prompts), strict=True):
        if too_long:
            raise InputError(
                f"class {name!r}: after {tokens} context tokens the model {loaded.architecture} "
                "does not read the name to its end; use fewer of them, or a shorter name"
            )


def _tokenized(
    loaded: LoadedModel, prompts: Sequence[str], tokens: int
) -> tuple[torch.Tensor, int]:
    """Return the ids (C, L) of prompts and where in them the context begins."""
    one, other = loaded.tokenizer([_FILLER, "photo"])
    first = int((one != other).nonzero()[0])  # before it stands what begins every text
    ids: torch.Tensor = loaded.tokenizer(list(prompts))
    if not bool((ids[:, first : first + tokens] == one[first]).all()):
        raise InputError(
            f"model {loaded.architecture}: its tokenizer has no single token for {_FILLER!r}, so "
            "that no prompt can be learnt for it; choose another head or model"
        )
    return ids, first


def _start(loaded: LoadedModel, first: int, filler: int, tokens: int) -> torch.Tensor:
    """Return the ids (M,) of the words that the context starts as."""
    alone, followed = loaded.tokenizer([START, f"{START} {_FILLER}"])
    end = int((alone != followed).nonzero()[0])
    words = alone[first:end]
    return torch.cat([words.new_full((tokens,), filler), words])[-tokens:]


def _check_same(tower: _Tower, loaded: LoadedModel, ids: torch.Tensor) -> None:
    """Raise InputError unless the steps here give what the model gives.

    Towers with a class token of their own (CoCa's) or a mask for the padding take other ones.
    """
    with torch.no_grad():
        expected = functional.normalize(loaded.model.encode_text(ids), dim=1)
        got = functional.normalize(tower(tower.embedding(ids), ids), dim=1)
    # Not `any(... > ...)`, which lets NaN through.
    if got.shape != expected.shape or not bool(((got - expected).abs() <= _TOLERANCE).all()):
        raise InputError(
            f"model {loaded.architecture}: its text tower goes its own ways, through which no "
            "prompt can be learnt; choose another head or model"
        )
