"""Real architectures by name, with random weights: loaded, run and refused as they should be.

Every result is compared with open_clip called directly.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pipeline.arrays import Floats
from pipeline.clip.devices import choose_devices, choose_precision
from pipeline.clip.encoder import Encoder, load_encoder
from pipeline.errors import InputError
from pipeline.labels.scoring import score
from tests.conftest import TINY

TEXTS = ["a photo of a dog.", "a photo of a cat.", "the dog of a cat"]


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(64, 48), (300, 200), (224, 224), (50, 400)]
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)) for w, h in sizes[:count]]


def direct(name: str, weights: str | None) -> tuple[Floats, Floats, Floats]:
    """Return image vectors, text vectors and logits as open_clip gives them."""
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=weights)
    model.eval()
    with torch.no_grad():
        batch = torch.stack([preprocess(image) for image in pictures(4)])
        images = model.encode_image(batch, normalize=True)
        texts = model.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True)
        logits = model.logit_scale.exp() * images @ texts.T
        if model.logit_bias is not None:
            logits += model.logit_bias
    return images.numpy(), texts.numpy(), logits.numpy()


def ours(encoder: Encoder) -> tuple[Floats, Floats]:
    pixels = np.stack([np.array(encoder.fit(image)) for image in pictures(4)])
    assert pixels.dtype == np.uint8
    return encoder.encode_images(pixels), encoder.encode_texts(TEXTS)


def random_checkpoint(architecture: str, folder: Path) -> Path:
    torch.manual_seed(0)
    model = open_clip.create_model(architecture, pretrained=None)
    path = folder / f"{architecture}.pt"
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize("architecture", ["RN50", "ViT-B-32"])
def test_an_architecture_with_a_checkpoint_gives_what_open_clip_gives(
    architecture: str, tmp_path: Path
) -> None:
    path = random_checkpoint(architecture, tmp_path)
    encoder = load_encoder(f"{architecture}/{path}", device="cpu", precision="fp32")
    images, texts, _ = direct(architecture, str(path))
    our_images, our_texts = ours(encoder)
    assert our_images == pytest.approx(images, abs=1e-5)
    assert our_texts == pytest.approx(texts, abs=1e-5)
    assert encoder.identity.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)
    assert encoder.identity.logit_bias is None


def test_siglip_is_a_sigmoid_model_with_its_bias(tmp_path: Path) -> None:
    write_siglip(tmp_path)
    name = f"local-dir:{tmp_path}"
    encoder = load_encoder(name, device="cpu", precision="fp32")
    images, texts, logits = direct(name, None)
    our_images, our_texts = ours(encoder)
    assert our_images == pytest.approx(images, abs=1e-5)
    assert our_texts == pytest.approx(texts, abs=1e-5)
    identity = encoder.identity
    assert identity.logit_bias == pytest.approx(-3)
    scores = score(our_images, our_texts, scale=identity.logit_scale, bias=identity.logit_bias)
    assert scores.classes == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)


def write_siglip(folder: Path) -> None:
    """Write a SigLIP of fewer layers in `local-dir:` form, its tokenizer included."""
    config = open_clip.get_model_config("ViT-B-16-SigLIP")
    config["text_cfg"]["layers"] = 2
    config["init_logit_bias"] = -3
    open_clip.factory._MODEL_CONFIGS["siglip-test"] = config
    torch.manual_seed(0)
    model = open_clip.create_model("siglip-test", pretrained=None)
    del open_clip.factory._MODEL_CONFIGS["siglip-test"]
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    content = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    words = ["<pad>", "</s>", "<unk>", "a", "photo", "of", "dog", "cat", "the"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def test_the_identity_is_of_the_weights_and_not_of_their_place(
    tiny: Encoder, tmp_path: Path
) -> None:
    source = Path(TINY.removeprefix("local-dir:"))
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    copy = load_encoder(f"local-dir:{tmp_path}", device="cpu", precision="fp32")
    assert copy.identity == tiny.identity
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["interpolation"] = "bilinear"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert load_encoder(f"local-dir:{tmp_path}").identity != tiny.identity


def test_precision_is_what_was_asked_for(tiny: Encoder) -> None:
    assert choose_precision("fp32", torch.device("cpu")) == "fp32"
    assert choose_precision("auto", torch.device("cpu")) in ("fp32", "bf16")
    assert choose_devices("cpu") == [torch.device("cpu")]
    assert tiny.precision == "fp32"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ViT-B-33/openai", "no architecture 'ViT-B-33'; did you mean ViT-B-32"),
        ("ViT-B-32", "name its weights too: ViT-B-32/openai"),
        ("ViT-B-32/nothing", "'nothing' is neither a file nor one of the weights of ViT-B-32"),
        ("local-dir:/no/such/folder", "no such folder"),
        ("local-dir:.", r"holds no open_clip_config\.json"),
        ("ViT-B-32/LICENSE", "ViT-B-32/LICENSE: cannot be loaded"),
    ],
)
def test_a_model_that_cannot_be_had_is_named_with_the_cure(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_encoder(name, device="cpu")


def test_weights_out_of_reach_are_told_with_a_local_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host. A long story follows.")

    monkeypatch.setattr("open_clip.factory.download_pretrained", no_network)
    with pytest.raises(InputError) as caught:
        load_encoder("ViT-B-32/laion2b_s34b_b79k", device="cpu")
    message = str(caught.value)
    assert message.startswith("model ViT-B-32/laion2b_s34b_b79k: its weights or tokenizer cannot")
    assert "local-dir:folder" in message
    assert "long story" not in message


def test_a_folder_without_weights_is_refused_not_run_at_random(tmp_path: Path) -> None:
    source = Path(TINY.removeprefix("local-dir:"))
    config = (source / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(config)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_encoder(f"local-dir:{tmp_path}", device="cpu")


def test_a_quickgelu_mismatch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # OpenAI's weights were trained with QuickGELU; only an unquick tag can differ from its config.
    tag = {"url": "", "quick_gelu": True}
    monkeypatch.setattr("open_clip.factory.get_pretrained_cfg", lambda *_: tag)
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: "")
    with pytest.raises(InputError, match=r"QuickGELU mismatch.*ViT-B-32-quickgelu/metaclip_400m"):
        load_encoder("ViT-B-32/metaclip_400m", device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(InputError, match="device cuda: torch sees 0 CUDA devices"):
        choose_devices("cuda")


PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FILL_64_MB = f"""
from pathlib import Path
from flows.resources import encoder
from pipeline.config import make_config
encoder(make_config({{"encoder": {{"model": "{TINY}", "device": "cpu"}}}}))
import torch
held = torch.ones(16 * 2**20)
print(Path("/proc/self/smaps_rollup").read_text())
"""


@pytest.mark.parametrize(("setting", "huge"), [(None, True), ("0", False)])
def test_activations_lie_in_huge_pages_where_the_kernel_gives_them_when_asked(
    setting: str | None, huge: bool
) -> None:
    """By the kernel's own count; what the user has set stays."""
    if not (PAGES.exists() and "[madvise]" in PAGES.read_text()):
        pytest.skip("this kernel gives huge pages to all, or to nobody")
    environment = {name: value for name, value in os.environ.items() if "THP_MEM" not in name}
    if setting is not None:
        environment["THP_MEM_ALLOC_ENABLE"] = setting
    told = subprocess.run(
        [sys.executable, "-c", FILL_64_MB], env=environment, capture_output=True, text=True
    )
    counted = re.search(r"AnonHugePages: +(\d+) kB", told.stdout)
    assert counted, told.stderr
    assert (int(counted[1]) >= 32 * 1024) == huge
