"""Captions of one batch against open_clip called directly, and against its decoder step by step."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from pipeline.arrays import Pixels
from pipeline.clip.captioner import Captioner, Written, cleaned, load_captioner
from pipeline.errors import InputError
from tests.coca import write_coca
from tests.conftest import TINY

TOKENIZER = open_clip.SimpleTokenizer()
START, END, PAD = TOKENIZER.sot_token_id, TOKENIZER.eot_token_id, 0


@pytest.fixture(scope="module")
def coca(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_coca(tmp_path_factory.mktemp("coca") / "model")


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(1)
    sizes = [(64, 48), (32, 32), (50, 80), (200, 33)]
    return [
        Image.fromarray(rng.integers(0, 256, (*sizes[i % 4][::-1], 3), np.uint8))
        for i in range(count)
    ]


def fitted(captioner: Captioner, images: list[Image.Image]) -> Pixels:
    return np.stack([np.asarray(captioner.fit(image)) for image in images])


def ids(count: int) -> list[str]:
    return [f"{number:032x}" for number in range(count)]


def loaded(name: str, **more: bool | int) -> Captioner:
    return load_captioner(name, device="cpu", precision="fp32", **more)  # type: ignore[arg-type]


def test_a_batch_gets_the_captions_that_open_clip_writes(coca: str) -> None:
    captioner, images = loaded(coca), pictures(10)
    ours = captioner.write(fitted(captioner, images), ids(10))
    model, _, transform = open_clip.create_model_and_transforms(coca)
    batch = torch.stack([transform(image) for image in images])
    rows = model.eval().generate(batch, generation_type="top_k", top_k=1, seq_len=12)
    theirs = [
        open_clip.decode(row).split("<end_of_text>")[0].replace("<start_of_text>", "").strip()
        for row in rows
    ]
    assert [written.caption for written in ours] == theirs
    assert len(set(theirs)) > 6  # else the model would not look at the pictures
    assert len({len(caption.split()) for caption in theirs}) > 1  # some end early
    assert all(written.note is None for written in ours)


def test_each_piece_is_the_likeliest_after_those_before_it(coca: str) -> None:
    captioner, images = loaded(coca), pictures(5)
    ours = captioner.write(fitted(captioner, images), ids(5))
    model, _, transform = open_clip.create_model_and_transforms(coca)
    model.eval()
    for image, written in zip(images, ours, strict=True):
        pieces = [START]
        while len(pieces) < 11 and pieces[-1] != END:  # the 12th is always the end
            with torch.no_grad():
                words = torch.tensor([pieces])
                seen = model(transform(image)[None], words, output_labels=False)
            scores = seen["logits"][0, -1]
            if len(pieces) < 5:  # and the end is none of the first five
                scores[END] = -torch.inf
            pieces.append(int(scores.argmax()))
        assert written.caption == TOKENIZER.decode([p for p in pieces[1:] if p != END]).strip()


def test_marks_and_padding_are_no_words() -> None:
    dog, cat = TOKENIZER.encode("dog cat")
    bang = TOKENIZER.encode("!")[0]
    assert TOKENIZER.decode([PAD]) == "!"  # the trap: padding can be read
    for pieces, expected in (
        ([START, dog, cat, END], Written("dog cat")),
        ([START, dog, END, PAD, PAD], Written("dog")),
        ([START, dog, END, cat, END], Written("dog")),
        ([START, dog, PAD, cat], Written("dog")),
        ([START, START, dog, START, cat], Written("dog cat")),
        ([START, END, PAD], Written("", "nothing written")),
        ([START, START, START], Written("", "nothing written")),
        ([START, bang, bang, END], Written("", "no word in what the model wrote: '! !'")),
    ):
        assert cleaned(pieces, TOKENIZER, PAD) == expected
    half = next(number for number, text in TOKENIZER.decoder.items() if text == "Ã")  # of two bytes
    assert cleaned([START, half, dog, END], TOKENIZER, PAD) == Written("dog")


def test_a_model_that_only_pads_writes_nothing(tmp_path: Path) -> None:
    captioner = loaded(write_coca(tmp_path / "pads", always=PAD))
    written = captioner.write(fitted(captioner, pictures(2)), ids(2))
    assert written == [Written("", "nothing written")] * 2


def test_sampling_is_repeated_by_its_seed_and_leaves_random_numbers_alone(coca: str) -> None:
    def write(captioner: Captioner) -> list[str]:
        return [w.caption for w in captioner.write(fitted(captioner, pictures(8)), ids(8))]

    greedy, first = loaded(coca), loaded(coca, sample=True, seed=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    once = write(first)
    assert torch.rand(3).equal(expected)
    assert once == write(loaded(coca, sample=True, seed=1))
    assert once != write(loaded(coca, sample=True, seed=2))
    assert once != write(greedy)
    assert write(greedy) == write(loaded(coca, seed=9))  # there is nothing to draw
    assert (greedy.way, first.way) == ("greedy", "sampled, seed 1")
    assert greedy.table != first.table


def test_the_table_is_of_the_weights_not_of_the_name(coca: str, tmp_path: Path) -> None:
    same, other = write_coca(tmp_path / "same"), write_coca(tmp_path / "other", seed=1)
    assert loaded(same).table == loaded(coca).table
    assert loaded(other).table != loaded(coca).table


def test_a_narrow_precision_writes_too(coca: str) -> None:
    captioner = load_captioner(coca, device="cpu", precision="bf16")
    wide = loaded(coca)
    ours = captioner.write(fitted(captioner, pictures(8)), ids(8))
    theirs = wide.write(fitted(wide, pictures(8)), ids(8))
    same = sum(
        a.caption.split()[0] == b.caption.split()[0] for a, b in zip(ours, theirs, strict=True)
    )
    assert same >= 6  # the first word of a caption hangs on no rounding before it


def test_what_cannot_write_captions_is_refused(tmp_path: Path) -> None:
    spoilt = write_coca(tmp_path / "spoilt", spoilt=True)
    for name, says in (
        (TINY, "has no text decoder"),
        ("ViT-B-32/laion2b_s34b_b79k", "has no text decoder"),  # and nothing was fetched
        ("coca_ViT-L-14/no-such-tag", "mscoco_finetuned_laion2b_s13b_b90k"),
        (spoilt, "not all of its weights are finite"),
        ("local-dir:/nowhere", "no such folder"),
    ):
        with pytest.raises(InputError, match=says):
            loaded(name)


def test_what_overflows_on_the_way_is_told(coca: str) -> None:
    captioner = loaded(coca)
    captioner._model.text_decoder.text_projection.fill_(float("inf"))
    with pytest.raises(InputError, match="what it computes is not finite"):
        captioner.write(fitted(captioner, pictures(1)), ids(1))
