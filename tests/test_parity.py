"""Labels against a direct loop over open_clip, written as the CLIP README does it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import open_clip
import polars as pl
import pytest
import torch
from PIL import ExifTags, Image
from torchvision.transforms import ToTensor

from flows.resources import decoders
from pipeline.arrays import Floats, Pixels
from pipeline.catalog import present_images
from pipeline.clip.encoder import Encoder, load_encoder
from pipeline.clip.loading import LoadedModel
from pipeline.clip.resizing import finisher
from pipeline.images.decoding import Picture, decode
from pipeline.images.fitting import Rough
from pipeline.images.workers import Decoders
from pipeline.label_set import load_label_set
from pipeline.labels.labelling import current_labels
from pipeline.opening import open_store
from tests.conftest import DATA, TINY, demo_config, run_plain, unpacked

LABELS = [  # CIFAR-10's names, and others
    "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck",
    "a person, an animal, a building, food, a vehicle, a landscape, a plant, a tool",
    "indoors, outdoors",
]
CLASSES = load_label_set(str(DATA / "labels.toml")).names


def clip_readme_loop(paths: list[str], classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return image features (N, D) and probabilities (N, C), one image at a time, in fp32."""
    model, _, preprocess = open_clip.create_model_and_transforms(TINY)
    tokenizer = open_clip.get_tokenizer(TINY)
    model.eval()
    features, probabilities = [], []
    with torch.no_grad():
        text = model.encode_text(tokenizer([f"a photo of a {name}." for name in classes]))
        text /= text.norm(dim=-1, keepdim=True)
        for path in paths:
            image = model.encode_image(preprocess(Image.open(path)).unsqueeze(0))
            image /= image.norm(dim=-1, keepdim=True)
            features.append(image[0].numpy())
            scores = (model.logit_scale.exp() * image @ text.T).softmax(dim=-1)
            probabilities.append(scores[0].numpy())
    return np.stack(features), np.stack(probabilities)


def fifty(store: Path) -> pl.DataFrame:
    """Every fifth image, without the one that CLIP's own loop does not turn upright."""
    images = present_images(open_store(str(store)))
    return images.filter(~pl.col("path").str.contains("sideways"))[::4][:50]


def stored_labels(store: Path, images: pl.DataFrame) -> pl.DataFrame:
    opened = open_store(str(store))
    return images.join(opened.read(current_labels(opened).table), on="image_id", how="left")


def test_stored_labels_and_scores_are_those_of_the_clip_readme(demo_store: Path) -> None:
    images = fifty(demo_store)
    assert len(images) == 50
    rows = stored_labels(demo_store, images)
    _, expected = clip_readme_loop(rows["path"].to_list(), CLASSES)
    assert rows["label_index"].to_list() == expected.argmax(axis=1).tolist()
    # Stored vectors are float16: that is where the last digits go.
    assert rows["score"].to_numpy() == pytest.approx(expected.max(axis=1), abs=1e-3)
    best = np.argsort(-expected, axis=1)[:, :5]
    assert rows["topk_labels"].to_list() == [[CLASSES[i] for i in row] for row in best]
    assert np.array(rows["topk_scores"].to_list()) == pytest.approx(
        np.take_along_axis(expected, best, axis=1), abs=1e-3
    )


def test_bfloat16_gives_the_same_labels_and_nearly_the_same_vectors(demo_store: Path) -> None:
    images = fifty(demo_store)
    expected, probabilities = clip_readme_loop(images["path"].to_list(), CLASSES)
    encoder = load_encoder(TINY, device="cpu", precision="bf16")
    pictures = [
        decode(Path(path).read_bytes(), path, encoder.fit, max_pixels=10**8)
        for path in images["path"]
    ]
    pixels = np.stack([p.pixels for p in pictures if isinstance(p, Picture)])
    vectors = encoder.encode_images(pixels)
    assert (vectors * expected).sum(axis=1).min() >= 0.999
    text = encoder.encode_texts([f"a photo of a {name}." for name in CLASSES])
    agreement = (vectors @ text.T).argmax(axis=1) == probabilities.argmax(axis=1)
    assert agreement.mean() >= 0.98


def test_real_photos_are_labelled_as_well_as_the_model_can(tmp_path: Path) -> None:
    photos = unpacked("clothing", tmp_path)
    classes = ["dress", "hat", "long sleeve shirt", "jacket", "pants"]
    classes += ["shirt", "shoes", "shorts", "skirt", "t-shirt"]
    store = tmp_path / "store"
    labels: dict[str, object] = {"label_set": ",".join(classes), "refine": "none"}
    config = demo_config(store, labels=labels).model_copy(update={"sources": (str(photos),)})
    run_plain(config)
    images = present_images(open_store(str(store)))
    rows = stored_labels(store, images)
    some = rows[::6]
    _, expected = clip_readme_loop(some["path"].to_list(), classes)
    assert (some["label_index"].to_numpy() == expected.argmax(axis=1)).mean() > 0.99
    folders = {"longsleeve": "long sleeve shirt", "outwear": "jacket"}
    truth = [folders.get(Path(p).parent.name, Path(p).parent.name) for p in rows["path"]]
    accuracy = np.mean([a == b for a, b in zip(truth, rows["label"], strict=True)])
    assert accuracy == pytest.approx(0.762, abs=0.01)  # what the model's own README reports


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = unpacked("photos", tmp_path_factory.mktemp("photos"))
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]


def enlarged(photo: bytes, times: int, orientation: int) -> bytes:
    """Make a photo of so many pixels that only a part of them is decoded."""
    image = Image.open(BytesIO(photo)).convert("RGB")
    size = image.width * times + 1, image.height * times - 3  # that no power of 2 divides
    exif, file = Image.Exif(), BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()


def pixels_of(pool: Decoders, files: Sequence[bytes]) -> Pixels:
    with pool, ThreadPoolExecutor(4) as threads:
        seen = list(threads.map(lambda data: pool.decode(data, "x.jpg"), files))
    pictures = [picture.pixels for picture in seen if isinstance(picture, Picture)]
    assert len(pictures) == len(files)
    return np.stack(pictures)


def as_configured(way: str, files: Sequence[bytes]) -> Pixels:
    encoder = {"model": TINY, "device": "cpu", "precision": "fp32", "decode": way}
    return pixels_of(decoders(demo_config(Path("none"), encoder=encoder), 2), files)


def top(encoder: Encoder, images: Floats, labels: str) -> np.ndarray:
    texts = encoder.encode_texts([f"a photo of {name}." for name in labels.split(", ")])
    best: np.ndarray = (images @ texts.T).argmax(axis=1)
    return best


def test_exact_pixels_are_those_of_open_clip_bit_for_bit(photos: list[bytes]) -> None:
    _, _, preprocess = open_clip.create_model_and_transforms(TINY)
    seen = as_configured("exact", photos)
    for photo, pixels in zip(photos, seen, strict=True):
        image = Image.open(BytesIO(photo))
        for step in preprocess.transforms:
            if isinstance(step, ToTensor):
                break
            image = step(image)
        assert pixels.tobytes() == np.asarray(image).tobytes()


def test_fast_pixels_of_real_photos_give_the_same_labels(
    tiny: Encoder, photos: list[bytes]
) -> None:
    large = [enlarged(photo, 4, 1 + at % 8) for at, photo in enumerate(photos[::5])]
    files = [*photos, *large]
    exact, fast = (as_configured(way, files) for way in ("exact", "fast"))
    assert (exact != fast).any()
    images, quick = tiny.encode_images(exact), tiny.encode_images(fast)
    cosines = (images * quick).sum(axis=1)
    assert cosines[: len(photos)].mean() >= 0.9999
    assert cosines[len(photos) :].mean() >= 0.999
    assert cosines.min() >= 0.995
    for labels in LABELS:
        same = top(tiny, images, labels) == top(tiny, quick, labels)
        assert same.mean() >= 0.995, labels


def test_fast_pixels_are_as_good_for_a_large_model(photos: list[bytes]) -> None:
    """Of random weights, to which different photos are still different."""
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32", pretrained=None)
    loaded = LoadedModel(
        "ViT-B-32",
        model.eval().requires_grad_(False),
        preprocess,
        open_clip.get_tokenizer("ViT-B-32"),
    )
    encoder = Encoder(loaded, devices=[torch.device("cpu")], precision="fp32")
    files = [*photos[:6], *(enlarged(photo, 5, 1 + at) for at, photo in enumerate(photos[6:12]))]
    fit, finish = Rough(encoder.fit), finisher(encoder.fit)
    whole = Decoders(encoder.fit, max_pixels=10**8, processes=2)
    parts = Decoders(fit, max_pixels=10**8, processes=2, finish=finish)
    exact, fast = (encoder.encode_images(pixels_of(pool, files)) for pool in (whole, parts))
    assert (exact * fast).sum(axis=1).min() >= 0.999
    others = (exact @ exact.T)[~np.eye(len(files), dtype=bool)]
    assert others.max() < 0.99
