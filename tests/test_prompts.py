"""Named template sets, the vectors made of prompts, and what a tokenizer cuts or cannot read."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pipeline.clip.encoder import Encoder
from pipeline.clip.prompts import (
    Cut,
    cached_label_vectors,
    cut_prompts,
    embed_labels,
    held_label_vectors,
    prompts_of,
    unknown_words,
    unreadable,
)
from pipeline.clip.templates import expanded, template_set
from pipeline.clip.tokens import cut, length, unknown
from pipeline.label_set import LabelSet, load_label_set
from pipeline.opening import create_store
from tests.conftest import ROOT
from tests.helpers import IDENTITY, FakeEncoder

PUBLISHED = """
a photo of a {}.|a blurry photo of a {}.|a black and white photo of a {}.
a low contrast photo of a {}.|a high contrast photo of a {}.|a bad photo of a {}.
a good photo of a {}.|a photo of a small {}.|a photo of a big {}.
a photo of the {}.|a blurry photo of the {}.|a black and white photo of the {}.
a low contrast photo of the {}.|a high contrast photo of the {}.|a bad photo of the {}.
a good photo of the {}.|a photo of the small {}.|a photo of the big {}.
"""  # openai/CLIP, data/prompts.md, of CIFAR-10 and of CIFAR-100


def made(*classes: dict[str, Any], **more: Any) -> LabelSet:
    return LabelSet.model_validate({"name": "tests", "classes": classes, **more})


def test_the_cifar_set_is_the_published_one() -> None:
    assert list(template_set("cifar")) == PUBLISHED.strip().replace("\n", "|").split("|")


def test_the_imagenet_set_fills_as_open_clip_does() -> None:
    published = open_clip.zero_shot_metadata.OPENAI_IMAGENET_TEMPLATES
    assert len(published) == 80
    ours = prompts_of(load_label_set("tench,cat", ("imagenet",)))
    assert ours[0] == [template("tench") for template in published]


def test_sets_and_templates_mix_and_none_comes_twice() -> None:
    mixed = made({"name": "owl"}, {"name": "elk"}, templates=["an eye of {}", "cifar", "one"])
    assert prompts_of(mixed)[0][:2] == ["an eye of owl", "a photo of a owl."]
    assert len(prompts_of(mixed)[0]) == 19
    assert list(expanded(["one", "one", "a photo of a {}."])) == ["a photo of a {}."]


def test_an_article_of_the_label_stays_out_of_a_sets_prompts_where_it_cannot_stand() -> None:
    owl, _ = prompts_of(load_label_set("an owl,elk", ("cifar",)))
    assert owl[0] == "a photo of an owl."
    assert owl[7] == "a photo of a small owl."
    own, _ = prompts_of(load_label_set("an owl,elk", ("an eye with {}",)))
    assert own == ["an eye with an owl"]


def test_a_class_is_the_direction_of_the_mean_of_its_prompts() -> None:
    encoder = FakeEncoder({"p": 0, "q": 1, "the cat": 2, "none": 3})
    classes = made(
        {"name": "dog", "prompts": ["p", "q", "q"]},
        {"name": "cat"},
        templates=["the {}"],
        reject=["none"],
    )
    vectors = embed_labels(classes, encoder)
    expected = np.array([[1, 2, 0, 0], [0, 0, np.sqrt(5), 0]]) / np.sqrt(5)
    assert vectors.classes == pytest.approx(expected, abs=1e-6)
    assert vectors.rejects.tolist() == [[0, 0, 0, 1]]


LONG = ("one two three four five", "one two three four")  # the fake encoder reads four words


def test_prompts_that_are_cut_are_warned_of_by_class(caplog: pytest.LogCaptureFixture) -> None:
    encoder = FakeEncoder(dict.fromkeys([*LONG, "the cat", "six " * 6], 0))
    classes = made(
        {"name": "dog", "prompts": LONG},
        {"name": "cat"},
        templates=["the {}"],
        reject=["six " * 6],
    )
    told = [
        Cut("dog", 1, 2, LONG[0], LONG[1]),
        Cut(None, 1, 1, "six " * 6, "six six six six"),
    ]
    assert cut_prompts(classes, encoder) == told
    with caplog.at_level(logging.WARNING):
        embed_labels(classes, encoder, warn=False)
        assert not caplog.messages
        embed_labels(classes, encoder)
    assert caplog.messages == [str(entry) for entry in told]
    assert "class 'dog': 1 of 2 prompts" in caplog.messages[0]


def test_of_many_classes_that_are_cut_some_are_told(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{number} b c d e" for number in range(8)]
    with caplog.at_level(logging.WARNING):
        embed_labels(
            made(*({"name": name} for name in names), templates=["{}"]),
            FakeEncoder(dict.fromkeys(names, 0)),
        )
    assert len(caplog.messages) == 6
    assert caplog.messages[-1].startswith("and 3 classes more")


def test_the_model_reads_24_tokens_two_of_them_its_own(tiny: Encoder) -> None:
    texts = ["dog " * 22, "dog " * 23, "", "dog " * 100]
    assert tiny.cut(texts) == [False, True, False, True]
    assert tiny.cut([]) == []
    # What is told to be cut makes no difference, and what is not does.
    both = tiny.encode_texts(["dog " * 22 + "cat", "dog " * 22 + "car", "dog " * 21 + "cat"])
    assert both[0] == pytest.approx(both[1], abs=1e-6)
    assert both[0] != pytest.approx(both[2], abs=1e-3)


def test_words_that_are_spelled_in_bytes_are_unknown(tiny: Encoder) -> None:
    classes = made({"name": "dog", "aliases": ["a 猫"]}, {"name": "café crème"})
    assert unknown_words(classes, tiny.unknown) == {"dog": ["猫"]}


def hugging_face(folder: Path, **more: Any) -> Any:
    """Return open_clip's wrapper of a tokenizer of a few words; it reads 6 tokens."""
    words = ["<pad>", "</s>", "<unk>", "a", "photo", "of", "dog"]
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    asked = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", **more}
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, **asked
    ).save_pretrained(folder)
    return open_clip.tokenizer.HFTokenizer(str(folder), context_length=6)


def test_other_tokenizers_are_understood_as_well(tmp_path: Path) -> None:
    tokenizer = hugging_face(tmp_path)
    assert cut(tokenizer, ["a photo of a dog", "a photo of a a dog"]) == [False, True]
    assert unknown(tokenizer, ["dog", "zebra"]) == [False, True]


def test_what_cannot_be_told_is_not_told(tmp_path: Path) -> None:
    left = hugging_face(tmp_path / "left", padding_side="left")
    assert cut(left, ["dog", "dog " * 9]) == [False, False]
    unmarked = hugging_face(tmp_path / "unmarked", unk_token=None)
    assert unknown(unmarked, ["zebra"]) == [False]
    assert unknown(object(), ["zebra"]) == [False]


def test_vectors_are_kept_by_what_they_were_made_of(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    store.claim(IDENTITY)
    encoder = FakeEncoder({"the dog": 0, "the cat": 1, "a tee": 2, "no": 3})
    classes = [{"name": "dog"}, {"name": "cat"}]
    first = made(*classes, templates=["the {}"])
    assert held_label_vectors(store, first) is None
    cached_label_vectors(store, first, lambda: encoder)
    same = first.model_copy(update={"name": "other"})
    held = held_label_vectors(store, same)
    assert held is not None
    assert held.classes.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    others = [
        made(classes[0], {"name": "cat", "prompts": ["a tee"]}, templates=["the {}"]),
        made(*classes, templates=["the {}"], reject=["no"]),
        made(*classes, templates=["the  {}"]),
    ]
    assert [held_label_vectors(store, other) for other in others] == [None] * 3


def test_named_sets_load_no_torch_until_they_are_embedded(tmp_path: Path) -> None:
    code = """
import sys, json
from pipeline.label_set import load_label_set
from pipeline.labels.question import Question
from pipeline.clip.prompts import held_label_vectors
from pipeline.opening import create_store
from tests.helpers import IDENTITY
asked = load_label_set("dog,cat", ("imagenet",))
store = create_store(sys.argv[1])
store.claim(IDENTITY)
assert held_label_vectors(store, asked) is None
table = Question(label_set=asked, top_k=5, abstain_below=0).table_for(IDENTITY)
print(json.dumps([asked.templates, "torch" in sys.modules, "open_clip" in sys.modules]))
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == [["imagenet"], False, False]


def test_the_length_of_a_text_is_told_however_long_it_is(tmp_path: Path) -> None:
    clip = open_clip.get_tokenizer("ViT-B-32")
    # A token for each word, a mark of the start and one of the end; "!" is token 0, as is padding.
    assert [length(clip, text) for text in ("", "a dog", "a dog " * 60, "a dog!")] == [
        (2, 77),
        (4, 77),
        (122, 77),
        (5, 77),
    ]
    other = hugging_face(tmp_path)
    assert length(other, "red dog") == (3, 6)
    assert length(other, "red " * 40) == (41, 6)


def test_a_text_that_is_not_read_whole_is_told_with_its_length() -> None:
    encoder = FakeEncoder()
    told = unreadable(["one two", "one two three four five", " "], encoder)
    assert set(told) == {"one two three four five", " "}
    assert "has 5 tokens, marks of start and end included, and the model reads 4" in str(told)
