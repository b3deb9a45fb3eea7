"""A CoCa of one layer a tower, with random weights: it writes nonsense of a few words."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from pipeline.clip.captioner import _mend_generation

WORDS = "dog cat red blue green tree house on under beside two large small old photo of a the"
CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 32,
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "attn_pooler_queries": 8,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {
        "context_length": 12,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
        "attn_pooler_heads": 2,
    },
}


def write_coca(
    folder: Path, seed: int = 0, *, always: int | None = None, spoilt: bool = False
) -> str:
    """Write a model into a folder and return the name that loads it.

    Args:
        folder: is made.
        seed: of its weights.
        always: the only piece that it ever writes.
        spoilt: give it a weight that is not a number.
    """
    _mend_generation()  # for those who call open_clip themselves, to compare
    chance = torch.Generator().manual_seed(seed)
    model = open_clip.CoCa(**{k: v for k, v in CONFIG.items() if k != "custom_text"})
    tokenizer = open_clip.SimpleTokenizer()
    weights = {
        name: torch.ones(held.shape)
        if "ln_" in name and name.endswith("weight")
        else _gain(name) * torch.randn(held.shape, generator=chance)
        for name, held in model.state_dict().items()
    }
    # Only these pieces, and the end, are ever likelier than nothing.
    pieces = [*tokenizer.encode(WORDS), tokenizer.eot_token_id] if always is None else [always]
    projection = torch.zeros_like(weights["text_decoder.text_projection"])
    projection[:, pieces] = weights["text_decoder.text_projection"][:, pieces]
    end = torch.Generator().manual_seed(seed + 1)  # it comes early now and then, by these numbers
    projection[:, tokenizer.eot_token_id] = torch.randn(len(projection), generator=end)
    if always is not None:  # whatever it sees, the last layer puts out this
        projection.zero_()
        weights["text_decoder.ln_final.weight"].zero_()
        weights["text_decoder.ln_final.bias"].fill_(1)
        projection[:, always] = 1
    weights["text_decoder.text_projection"] = projection
    if spoilt:
        weights["text_decoder.ln_final.weight"][3] = float("nan")
    folder.mkdir(parents=True)
    about = {"model_cfg": CONFIG, "preprocess_cfg": {"resize_mode": "shortest"}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def _gain(name: str) -> float:
    """Have captions depend on what is seen, and on where a word stands."""
    if "token_embedding" in name:
        return 0.3
    return 1.5 if "cross_attn" in name and "out_proj.weight" in name else 0.3
