"""What a model's tokenizer makes of texts: how long they are, which words it does not know."""

from collections.abc import Sequence
from typing import Any

_BATCH = 4096  # texts at a time: a few MB of token ids


def cut(tokenizer: Any, texts: Sequence[str]) -> list[bool]:
    """Tell which of N texts have more tokens than the model reads.

    They are tokenized for twice the context: what is cut has tokens in its second half.

    Args:
        tokenizer: open_clip's; texts -> (N, context) token ids, padded at the end. Of one that pads
            otherwise nothing can be told, and every answer is False.
        texts: any number of them.
    """
    context = tokenizer([""]).shape[1]
    beyond = tokenizer([""], context_length=2 * context)[0, context:]
    padding = beyond[0]
    if bool((beyond != padding).any()):
        return [False] * len(texts)
    told: list[bool] = []
    for at in range(0, len(texts), _BATCH):
        ids = tokenizer(list(texts[at : at + _BATCH]), context_length=2 * context)
        told += (ids[:, context:] != padding).any(dim=1).tolist()
    return told


def length(tokenizer: Any, text: str) -> tuple[int, int]:
    """Return how many tokens a text has and how many a model reads, start and end mark included.

    Of a tokenizer that does not pad at the end the first is what it makes of a long context.
    """
    width = context = int(tokenizer([""]).shape[1])
    while True:
        width *= 2
        padding = tokenizer([""], context_length=width)[0, -1]
        ids = tokenizer([text], context_length=width)[0]
        # Until padding is left; no text has more tokens than bytes and marks.
        if bool(ids[-1] == padding) or width > 2 * (len(text.encode()) + 2):
            return int((ids != padding).nonzero().max()) + 1, context


def unknown(tokenizer: Any, words: Sequence[str]) -> list[bool]:
    """Tell of which words a tokenizer has no piece, not even a letter.

    A tokenizer of the Hugging Face kind puts its mark for the unknown in their place. CLIP's own
    spells them in bytes: then there are more tokens than letters. Of others nothing can be told.
    """
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None:
        mark = getattr(inner, "unk_token_id", None)  # None: nothing is unknown to it
        return [mark in inner(word, add_special_tokens=False).input_ids for word in words]
    if hasattr(tokenizer, "encode"):
        return [len(tokenizer.encode(word)) > len(word) for word in words]
    return [False] * len(words)
