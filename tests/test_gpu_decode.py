"""`encoder.decode = "gpu"`: the same code, run on the CPU, beside the ways known to be right.

No GPU was at hand: what nvJPEG itself does is not tested here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import torch
import torchvision.io
from PIL import Image, ImageDraw

from pipeline.arrays import Floats, Pixels
from pipeline.catalog import current_files
from pipeline.clip.batches import Batches, BatchSize
from pipeline.clip.device_decoding import DeviceDecoder, require_gpu
from pipeline.clip.embed import embed_shards
from pipeline.clip.encoder import Encoder, load_encoder
from pipeline.clip.protocol import Encoded, Lanes
from pipeline.clip.resizing import finisher
from pipeline.clock import Clock
from pipeline.errors import InputError
from pipeline.images.decoding import Picture, Refusal, decode
from pipeline.images.fitting import Fitting, Rough
from pipeline.images.scan import find_changes, record_changes
from pipeline.images.undecoded import Undecoded, left_undecoded
from pipeline.images.workers import Decoders
from pipeline.opening import create_store, open_store
from pipeline.runs import new_run_id
from pipeline.store import Store
from pipeline.vectors import iterate_vectors
from tests.conftest import demo_config, run_plain, unpacked
from tests.test_cli import Command, command  # noqa: F401 - a fixture
from tests.test_encoders import random_checkpoint

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
LIMIT = 1_000_000  # max_pixels
CASES = range(1, 9)  # EXIF's orientations


def drawn(seed: int, size: tuple[int, int] = (320, 200)) -> Image.Image:
    """Return a picture that differs from all its turns and reflections."""
    chance = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(chance.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = (int(chance.integers(0, side)) for side in size)
        box = (x, y, x + int(chance.integers(10, 120)), y + int(chance.integers(10, 80)))
        pen.ellipse(box, tuple(chance.integers(0, 256, 3).tolist()))
    pen.rectangle((0, 0, size[0] // 3, size[1] // 4), (255, 0, 0))
    return image


def jpeg(image: Image.Image, orientation: int = 1, **more: Any) -> bytes:
    exif, buffer = Image.Exif(), BytesIO()
    exif[0x0112] = orientation
    image.save(buffer, more.pop("format", "JPEG"), exif=exif, quality=92, **more)
    return buffer.getvalue()


def without_table(data: bytes) -> bytes:
    """Have the frame name a quantisation table that is not there: the header stays readable."""
    at = data.index(b"\xff\xc0") + 12
    return data[:at] + b"\x03" + data[at + 1 :]


def odd_files() -> dict[str, bytes]:
    """Return files of every kind that must not be decoded otherwise than before."""
    png = BytesIO()
    drawn(1).save(png, "PNG")
    whole = jpeg(drawn(2))
    plain = {f"plain-{n}.jpg": jpeg(drawn(100 + n, (200 + 9 * n, 150))) for n in range(6)}
    turned = {f"turned-{n}.jpg": jpeg(drawn(50 + n), n) for n in CASES}
    middle = len(whole) // 2
    return {
        **plain,
        **turned,
        "gray.jpg": jpeg(drawn(3).convert("L")),
        "gray-turned.jpg": jpeg(drawn(4).convert("L"), 6),
        "progressive.jpg": jpeg(drawn(5), progressive=True),
        "full-chroma.jpg": jpeg(drawn(6), subsampling=0),
        "rgb.jpg": jpeg(drawn(7), keep_rgb=True),
        "mpo.jpg": jpeg(drawn(8), 8, format="MPO", save_all=True, append_images=[drawn(9)]),
        "cmyk.jpg": jpeg(drawn(10).convert("CMYK")),
        "band.jpg": jpeg(drawn(11, (2000, 20))),
        "tiny.jpg": jpeg(drawn(12, (3, 2))),
        "picture.png": png.getvalue(),
        "png-inside.jpg": png.getvalue(),
        "padded.jpg": whole + bytes(500),
        "cut.jpg": whole[:-40],
        "cut-and-padded.jpg": whole[:middle] + bytes(5000),
        "cut-and-ended.jpg": whole[:middle] + b"\xff\xd9",
        "scratched.jpg": whole[:middle] + b"\x55" * 60 + whole[middle + 60 :],
        "header-only.jpg": whole[:200] + b"\xff\xd9",
        "no-table.jpg": without_table(jpeg(drawn(13))),
        "zz-no-table-again.jpg": without_table(jpeg(drawn(13))),
        "no-table-turned.jpg": without_table(jpeg(drawn(14), 6)),
        "large.jpg": jpeg(drawn(15, (1001, 1000))),
        "empty.jpg": b"",
        "garbage.jpg": b"\xff\xd8\xff" + b"garbage" * 100 + b"\xff\xd9",
        "notes": b"no image",
    }


@dataclass
class Usual:
    """The decoder processes, and which files they were asked for."""

    decoders: Decoders
    asked: list[str] = field(default_factory=list)

    def decode(self, data: bytes, name: str) -> Picture | Refusal:
        self.asked.append(Path(name).name)
        return self.decoders.decode(data, name)


@contextmanager
def usual_for(encoder: Encoder) -> Iterator[Usual]:
    rough, finish = Rough(encoder.fit), finisher(encoder.fit)
    with Decoders(rough, max_pixels=LIMIT, processes=2, finish=finish) as decoders:
        yield Usual(decoders)


def taken(
    root: Path, source: Path, encoder: Encoder, *, gpu: bool, shard_rows: int = 1000
) -> tuple[Store, Usual]:
    """Embed a folder in batches of 8; return the store and what was decoded by processes."""
    now, store = datetime.now(UTC), create_store(str(root))
    changes = find_changes(store, (str(source),), settle_seconds=0, now=now)
    run_id = new_run_id(store, now)
    scan = record_changes(store, changes, run_id=run_id, now=now, shard_rows=shard_rows)
    told: list[tuple[int, int]] = []
    with usual_for(encoder) as usual:
        device = DeviceDecoder(encoder, usual.decode, max_pixels=LIMIT) if gpu else None
        summary = embed_shards(
            store,
            run_id,
            range(scan.shards),
            encoder,
            decode=device.decode if device else usual.decode,
            encode=device.encode if device else None,
            now=now,
            batch_size=8,
            threads=3,
            on_progress=lambda done, failed: told.append((done, failed)),
        )
    files = current_files(store)
    assert summary.unreadable == (files["status"] == "unreadable").sum()
    assert summary.embedded == len(store.read("embeddings"))
    broken = files.filter(pl.col("status") == "unreadable")["image_id"].n_unique()
    assert broken <= sum(failed for _, failed in told) <= summary.unreadable
    assert (
        sum(done for done, _ in told)
        == summary.files
        == summary.embedded + (summary.known + summary.unreadable + summary.ignored)
    )
    return store, usual


def written(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def what_is_said(store: Store) -> pl.DataFrame:
    return current_files(store).select("path", "image_id", "status", "reason").sort("path")


def what_is_shown(store: Store) -> pl.DataFrame:
    columns = ["image_id", "width", "height", "format"]
    return store.read("embeddings").select(columns).sort("image_id")


def vectors_of(store: Store) -> dict[str, Floats]:
    return {
        image_id: vector.astype(np.float32)
        for _, ids, part in iterate_vectors(store)
        for image_id, vector in zip(ids, part, strict=True)
    }


@pytest.mark.parametrize("shard_rows", [1000, 5])
def test_every_file_ends_as_it_does_without_a_gpu(
    tiny: Encoder, tmp_path: Path, shard_rows: int
) -> None:
    source = written(tmp_path / "in", odd_files())
    fast, _ = taken(tmp_path / "fast", source, tiny, gpu=False, shard_rows=shard_rows)
    gpu, usual = taken(tmp_path / "gpu", source, tiny, gpu=True, shard_rows=shard_rows)
    assert what_is_said(gpu).rows() == what_is_said(fast).rows()
    assert what_is_shown(gpu).rows() == what_is_shown(fast).rows()
    expected, got = vectors_of(fast), vectors_of(gpu)
    assert got.keys() == expected.keys()
    names = {r["image_id"]: Path(r["path"]).name for r in current_files(gpu).to_dicts()}
    for image_id, vector in expected.items():
        assert float(vector @ got[image_id]) > 0.995, names[image_id]
    assert {"ok", "unreadable", "ignored"} == set(current_files(gpu)["status"])
    left = {"gray.jpg", "progressive.jpg", "mpo.jpg", "padded.jpg", "tiny.jpg", "full-chroma.jpg"}
    left |= {f"turned-{n}.jpg" for n in CASES} | {f"plain-{n}.jpg" for n in range(6)}
    assert not left & set(usual.asked)
    rare = {"cmyk.jpg", "rgb.jpg", "band.jpg", "large.jpg", "cut.jpg", "cut-and-padded.jpg"}
    assert rare <= set(usual.asked)


def test_what_a_gpu_may_get_wrong_and_not_tell_is_not_left_to_it() -> None:
    files = odd_files()
    rgb = files["rgb.jpg"]
    frame, adobe = rgb.index(b"\xff\xc0") + 10, rgb.index(b"Adobe") - 4
    renumbered = bytearray(rgb)  # stored as RGB: by Adobe's word alone, and by the names alone
    renumbered[frame : frame + 9 : 3] = b"\x01\x02\x03"
    files |= {"adobe.jpg": bytes(renumbered), "names.jpg": rgb[:adobe] + rgb[adobe + 16 :]}
    for name in ("cut.jpg", "cut-and-padded.jpg", "rgb.jpg", "adobe.jpg", "names.jpg", "cmyk.jpg"):
        assert left_undecoded(files[name], name, max_pixels=LIMIT) is None, name
        with Image.open(BytesIO(files[name])) as image:
            assert image.size == (320, 200), name  # no other thing is wrong with its header


def test_sizes_are_of_the_original_and_upright(tiny: Encoder, tmp_path: Path) -> None:
    source = written(tmp_path / "in", odd_files())
    store, _ = taken(tmp_path / "store", source, tiny, gpu=True)
    rows = current_files(store).join(store.read("embeddings"), on="image_id")
    shown = {Path(r["path"]).name: (r["width"], r["height"], r["format"]) for r in rows.to_dicts()}
    assert shown["turned-1.jpg"] == (320, 200, "JPEG")
    assert shown["turned-4.jpg"] == (320, 200, "JPEG")
    assert shown["turned-5.jpg"] == shown["turned-8.jpg"] == (200, 320, "JPEG")
    assert shown["mpo.jpg"] == (200, 320, "MPO")


def test_what_proves_broken_in_its_batch_and_its_copies_are_unreadable(
    tiny: Encoder, tmp_path: Path
) -> None:
    files = {f"{n:02}.jpg": jpeg(drawn(n)) for n in range(20)}
    broken = without_table(jpeg(drawn(99)))
    assert left_undecoded(broken, "broken.jpg", max_pixels=LIMIT) is not None
    files |= {"00.jpg": broken, "03.jpg": broken, "11.jpg": broken, "19.jpg": broken}
    source = written(tmp_path / "in", files)
    store, usual = taken(tmp_path / "store", source, tiny, gpu=True, shard_rows=4)
    rows = {Path(r["path"]).name: r for r in current_files(store).to_dicts()}
    refused = {name for name, row in rows.items() if row["status"] == "unreadable"}
    assert refused == {"00.jpg", "03.jpg", "11.jpg", "19.jpg"}
    assert {rows[name]["reason"] for name in refused} == {
        "OSError: broken data stream when reading image file"
    }
    assert rows["00.jpg"]["image_id"] not in store.read("embeddings")["image_id"].to_list()
    assert set(usual.asked) <= refused
    for name, row in rows.items():  # the vectors beside it are still their own
        if name not in refused:
            alone = decode(files[name], name, tiny.fit, max_pixels=LIMIT)
            assert isinstance(alone, Picture)
            vector = tiny.encode_images(alone.pixels[None])[0]
            assert float(vector @ vectors_of(store)[row["image_id"]]) > 0.999, name


def test_a_shard_of_nothing_but_broken_files_has_no_vectors(tiny: Encoder, tmp_path: Path) -> None:
    files = {f"{n}.jpg": without_table(jpeg(drawn(n))) for n in range(3)}
    store, _ = taken(tmp_path / "store", written(tmp_path / "in", files), tiny, gpu=True)
    assert current_files(store)["status"].to_list() == ["unreadable"] * 3
    assert store.parts("embeddings") == []


@dataclass
class Kept:
    """Stands for an encoder, and keeps the pixels it was given."""

    fit: Fitting
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - never changes
    pixels: Pixels = field(default_factory=lambda: np.empty(0, np.uint8))

    @property
    def identity(self) -> Any:
        return type("Identity", (), {"dimension": 2})

    def encode_images(self, pixels: torch.Tensor) -> Floats:
        self.pixels = pixels.numpy().copy()
        return np.eye(2, dtype=np.float32)[[0] * len(pixels)]


@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("orientation", CASES)
def test_each_orientation_is_turned_upright(orientation: int, resize: Any) -> None:
    kept, data = Kept(Fitting((64, 64), resize)), jpeg(drawn(1), orientation)
    device = DeviceDecoder(cast(Encoder, kept), lambda *_: pytest.fail("asked"), max_pixels=LIMIT)
    picture = device.decode(data, "a.jpg")
    assert isinstance(picture, Undecoded) and picture.orientation == orientation
    device.encode([picture])
    exact = decode(data, "a.jpg", kept.fit, max_pixels=LIMIT)
    assert isinstance(exact, Picture)
    assert (picture.width, picture.height) == (exact.width, exact.height)
    upright = exact.pixels.astype(int)
    assert np.abs(kept.pixels[0] - upright).mean() < 1
    others = [np.rot90(upright, turns) for turns in range(4)]
    others = [*others[1:], *(other[:, ::-1] for other in others)]
    assert min(np.abs(kept.pixels[0] - other).mean() for other in others) > 10


def test_a_refused_batch_is_tried_one_by_one(
    tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_jpeg, sizes = torchvision.io.decode_jpeg, list[int]()

    def one_only(files: list[torch.Tensor], **more: Any) -> Any:
        sizes.append(len(files))
        if len(files) > 1:
            raise RuntimeError("nvjpeg has a bad day")
        return decode_jpeg(files, **more)

    files = {f"{n}.jpg": jpeg(drawn(n)) for n in range(4)}
    files["2.jpg"] = without_table(files["2.jpg"])
    with usual_for(tiny) as usual:
        device = DeviceDecoder(tiny, usual.decode, max_pixels=LIMIT)
        monkeypatch.setattr("torchvision.io.decode_jpeg", one_only)
        batch = [device.decode(data, name) for name, data in files.items()]
        encoded = device.encode(cast(list[Picture | Undecoded], batch))
    assert sizes == [4, 1, 1, 1, 1]
    assert usual.asked == ["2.jpg"]
    assert [refusal is None for refusal in encoded.refused] == [True, True, False, True]
    assert np.linalg.norm(encoded.vectors, axis=1).round(3).tolist() == [1, 1, 0, 1]


def test_no_more_is_decoded_at_a_time_than_there_is_room_for(
    tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_jpeg, sizes = torchvision.io.decode_jpeg, list[int]()
    device = DeviceDecoder(tiny, lambda *_: pytest.fail("asked"), max_pixels=LIMIT)

    def counted(files: list[torch.Tensor], **more: Any) -> Any:
        sizes.append(len(files))
        return decode_jpeg(files, **more)

    monkeypatch.setattr("torchvision.io.decode_jpeg", counted)
    monkeypatch.setattr("pipeline.clip.device_decoding._AT_A_TIME", 3 * 320 * 200)
    batch = [device.decode(jpeg(drawn(n)), f"{n}.jpg") for n in range(7)]
    device.encode(cast(list[Picture | Undecoded], batch))
    assert sizes == [3, 3, 1]


def test_a_picture_of_another_size_than_its_header_says_is_not_believed(
    tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with usual_for(tiny) as usual:
        device = DeviceDecoder(tiny, usual.decode, max_pixels=LIMIT)
        other = torch.zeros((3, 10, 10), dtype=torch.uint8)
        monkeypatch.setattr("torchvision.io.decode_jpeg", lambda files, **_: [other] * len(files))
        device.encode([cast(Undecoded, device.decode(jpeg(drawn(1)), "1.jpg"))])
    assert usual.asked == ["1.jpg"]


def test_memory_that_runs_out_halves_a_batch_and_mixes_nothing_up(tiny: Encoder) -> None:
    refusal = Refusal("unreadable", "broken")

    def encode(pictures: Any) -> Encoded:
        if len(pictures) > 2:
            raise MemoryError
        rows = np.array([[picture.width] for picture in pictures], np.float32)
        return Encoded(rows, [refusal if p.width == 3 else None for p in pictures])

    with tiny.lanes() as lanes:
        size = BatchSize(7)
        batches = Batches(encode, Lanes(lanes.pool, 1), size, Clock())
        pictures = [Undecoded(b"", "", width, 1, "JPEG", 1) for width in range(7)]
        done = [*(b for p in pictures for b in batches.add(p)), *batches.finish()]
    assert [row for batch in done for row in batch.vectors[:, 0]] == [*range(7)]
    assert [r for batch in done for r in batch.refused] == [None] * 3 + [refusal] + [None] * 3
    assert size.size == 1


def against_exact(encoder: Encoder, files: dict[str, bytes]) -> tuple[Floats, Floats, int]:
    """Return vectors decoded on the device, those of the exact way, and how many it decoded."""
    with usual_for(encoder) as usual:
        device = DeviceDecoder(encoder, usual.decode, max_pixels=LIMIT)
        pairs = [(device.decode(data, name), data, name) for name, data in files.items()]
        pictures = [picture for picture, _, _ in pairs if not isinstance(picture, Refusal)]
        rows = [device.encode(pictures[at : at + 32]) for at in range(0, len(pictures), 32)]
    assert not any(refusal for batch in rows for refusal in batch.refused)
    got = np.concatenate([batch.vectors for batch in rows])
    exact = [
        decode(data, name, encoder.fit, max_pixels=LIMIT)
        for picture, data, name in pairs
        if not isinstance(picture, Refusal)
    ]
    pixels = [picture.pixels for picture in exact if isinstance(picture, Picture)]
    expected = [
        encoder.encode_images(np.stack(pixels[at : at + 32])) for at in range(0, len(pixels), 32)
    ]
    return got, np.concatenate(expected), len(pairs) - len(usual.asked)


@pytest.mark.parametrize("photos", ["clothing", "imagenette"])
def test_real_photos_agree_with_the_exact_way(tiny: Encoder, tmp_path: Path, photos: str) -> None:
    found = sorted(
        path
        for path in unpacked(photos, tmp_path).rglob("*")
        if path.suffix.lower() in (".jpg", ".jpeg")
    )[:400]
    got, expected, on_device = against_exact(tiny, {str(p): p.read_bytes() for p in found})
    assert on_device > 0.9 * len(found)
    assert (got * expected).sum(axis=1).mean() >= 0.999
    names = ("dress", "hat", "shirt", "jacket", "pants", "shoes", "shorts", "dog", "tree", "car")
    text = tiny.encode_texts([f"a photo of a {name}." for name in names])
    assert ((got @ text.T).argmax(1) == (expected @ text.T).argmax(1)).mean() >= 0.995


def test_drawn_pictures_agree_with_the_exact_way_in_a_vit_b_32(tmp_path: Path) -> None:
    path = random_checkpoint("ViT-B-32", tmp_path)
    encoder = load_encoder(f"ViT-B-32/{path}", device="cpu", precision="fp32")
    sizes = [(320, 200), (640, 480), (224, 224), (100, 90), (500, 900)]
    files = {
        f"{n}.jpg": jpeg(drawn(n, sizes[n % 5]), n % 8 + 1, progressive=n % 3 == 0)
        for n in range(40)
    }
    got, expected, on_device = against_exact(encoder, files)
    assert on_device == 40
    assert (got * expected).sum(axis=1).mean() >= 0.999


def test_a_run_with_it_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path / "in", {n: d for n, d in odd_files().items() if "large" not in n})
    monkeypatch.setattr("pipeline.clip.device_decoding.require_gpu", lambda _: None)
    said = {}
    for way in ("fast", "gpu"):
        config = demo_config(tmp_path / way)
        encoder = config.encoder.model_copy(update={"decode": way})
        config = config.model_copy(update={"encoder": encoder, "sources": (str(source),)})
        run_plain(config)
        store = open_store(str(tmp_path / way))
        said[way] = [what_is_said(store).rows(), what_is_shown(store).rows()]
    assert said["gpu"] == said["fast"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_is_refused_with_the_cure(
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="no CUDA device"):
        require_gpu("auto")
    written(tmp_path / "in", {"a.jpg": jpeg(drawn(1))})
    asked = ["--labels", "dog,cat", "--store", "out", "--plain", "--set", "encoder.decode=gpu"]
    asked += ["--set", "scan.settle_seconds=0"]
    run = command("run", "in", *asked)
    assert run.code == 2, run.err
    assert 'encoder.decode = "gpu"' in run.err and "fast" in run.err


def test_a_torchvision_that_cannot_is_told_at_once(
    tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*_: object, **__: object) -> None:
        raise RuntimeError("not compiled with nvJPEG support")

    monkeypatch.setattr("torchvision.io.decode_jpeg", unable)
    with pytest.raises(InputError, match=r"not compiled with nvJPEG support\); use encoder.decode"):
        DeviceDecoder(tiny, lambda *_: pytest.fail("asked"), max_pixels=LIMIT)
