"""Label sets from names and TOML files, the prompts they become, and each bad one named."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.clip.prompts import prompts_of
from pipeline.errors import InputError
from pipeline.label_set import DEFAULT_TEMPLATE, LabelSet, fill, load_label_set, normal_word
from tests.helpers import label_set

ANIMALS = """
name = "animals"
templates = ["a photo of a {}.", "the {} outdoors"]
reject = ["a blank page"]
[[classes]]
name = "dog"
aliases = ["puppy", "a hound"]
[[classes]]
name = "T-Shirt"
"""


def written(folder: Path, text: str, name: str = "animals.toml") -> str:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_a_file_gives_every_prompt_of_every_class_in_order(tmp_path: Path) -> None:
    animals = load_label_set(written(tmp_path, ANIMALS))
    assert animals.name == "animals"
    assert animals.names == ["dog", "T-Shirt"]
    assert animals.reject == ("a blank page",)
    assert prompts_of(animals) == [
        [
            "a photo of a dog.",
            "a photo of a puppy.",
            "a photo of a hound.",  # its own article took the place of the template's
            "the dog outdoors",
            "the puppy outdoors",
            "a hound outdoors",
        ],
        ["a photo of a T-Shirt.", "the T-Shirt outdoors"],
    ]


def test_names_with_commas_are_a_label_set_with_the_usual_template() -> None:
    inline = load_label_set(" dog , red envelope,猫")
    assert inline.names == ["dog", "red envelope", "猫"]
    assert inline.templates == (DEFAULT_TEMPLATE,)
    assert prompts_of(inline)[2] == ["a photo of a 猫."]


def test_templates_given_replace_those_of_the_file(tmp_path: Path) -> None:
    animals = load_label_set(written(tmp_path, ANIMALS), ("an eye with {}",))
    assert prompts_of(animals)[1] == ["an eye with T-Shirt"]
    assert prompts_of(load_label_set("x,y", ("{}!",))) == [["x!"], ["y!"]]


def test_a_class_with_prompts_of_its_own_is_asked_for_by_these_alone(tmp_path: Path) -> None:
    own = ANIMALS.replace('"T-Shirt"', '"T-Shirt"\nprompts = ["a shirt, shaped as a T", "a tee"]')
    for templates in ((), ("an eye with {}",)):
        animals = load_label_set(written(tmp_path, own), templates)
        assert prompts_of(animals)[1] == ["a shirt, shaped as a T", "a tee"]
    assert prompts_of(animals)[0][0] == "an eye with dog"


def test_a_single_template_need_not_be_a_list(tmp_path: Path) -> None:
    file = written(tmp_path, 'templates = "the {}"\n' + TWO)
    assert prompts_of(load_label_set(file)) == [["the dog"], ["the cat"]]


def test_one_class_is_enough_where_labels_are_no_rivals(tmp_path: Path) -> None:
    alone = '[[classes]]\nname = "dog"\n'
    assert load_label_set(written(tmp_path, "multi_label = true\n" + alone)).multi_label
    assert not load_label_set("dog,cat").multi_label
    with pytest.raises(InputError, match="at least 2 labels"):
        load_label_set(written(tmp_path, alone))
    with pytest.raises(InputError, match="at least 1 label, got none"):
        load_label_set(written(tmp_path, "multi_label = true\nclasses = []"))


def test_a_file_without_a_name_is_named_after_itself(tmp_path: Path) -> None:
    file = written(tmp_path, ANIMALS.replace('name = "animals"', "", 1), "My pets_2.toml")
    assert load_label_set(file).name == "My pets_2"


@pytest.mark.parametrize(
    ("template", "label", "prompt"),
    [
        ("a photo of a {}.", "dog", "a photo of a dog."),
        ("a photo of a {}.", "An owl", "a photo of An owl."),
        ("A {}", "the sea", "the sea"),
        ("a photo of an {}.", "a  cat", "a photo of a  cat."),
        ("a photo of a {}.", "anteater", "a photo of a anteater."),  # "an" is no word of its own
        ("a photo of a {}.", "a", "a photo of a a."),
        ("{}, a drawing", "a cat", "a cat, a drawing"),
        ("panda {}", "a cat", "panda a cat"),  # the a of "panda" is no article
        ("a {}", "{}", "a {}"),
    ],
)
def test_a_labels_own_article_replaces_the_templates(
    template: str, label: str, prompt: str
) -> None:
    assert fill(template, label) == prompt


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("T-Shirt", "t_shirt"),
        ("  hot   dog ", "Hot-Dog"),
        ("STRASSE", "straße"),
        ("__a--b", "A b"),
        ("café", "cafe\N{COMBINING ACUTE ACCENT}"),  # as macOS writes file names
    ],
)
def test_case_dashes_blanks_and_unicode_form_do_not_make_another_word(one: str, other: str) -> None:
    assert normal_word(one) == normal_word(other)


def test_index_of_finds_a_class_by_name_and_alias(tmp_path: Path) -> None:
    animals = load_label_set(written(tmp_path, ANIMALS))
    assert animals.index_of() == {"dog": 0, "puppy": 0, "a hound": 0, "t shirt": 1}


def test_the_fingerprint_changes_with_every_part_of_a_label_set(tmp_path: Path) -> None:
    edits = [("dog", "cat"), ("puppy", "pup"), ("outdoors", "at home"), ("blank", "black")]
    edits += [
        ('"T-Shirt"', '"T-Shirt"\nprompts = ["a tee"]'),
        ("reject", "multi_label=true\nreject"),
    ]
    edits += [('"a photo of a {}."', '"cifar"')]
    texts = [ANIMALS, *(ANIMALS.replace(old, new) for old, new in edits)]
    prints = [load_label_set(written(tmp_path, text)).fingerprint() for text in texts]
    assert len(set(prints)) == len(texts)
    assert load_label_set(written(tmp_path, ANIMALS)).fingerprint() == prints[0]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("dog", "at least 2 labels to choose between, got only 'dog'"),
        ("", "a label must not be empty"),
        ("dog,,cat", r"classes\.1\.name = '': a label must not be empty"),
        ("dog,cat,", r"classes\.2\.name = '': a label must not be empty"),
        ("dog,cat,DOG", "'DOG' stands twice"),
        ("hot dog,hot-dog", "'hot-dog' stands twice"),
        ("dog,-", "'-'"),  # nothing but what does not matter
    ],
)
def test_bad_names_are_told(names: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as told:
        load_label_set(names)
    assert repr(names) in str(told.value)


TWO = '[[classes]]\nname = "dog"\n[[classes]]\nname = "cat"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = \n", "not valid TOML: Invalid value .at line 1"),
        ('name = "x"', "classes is missing"),
        ("classes = []", "at least 2 labels to choose between, got none"),
        ('classes = ["dog", "cat"]', r"classes\.0 = 'dog'"),
        ('[[classes]]\nname = "dog"\n[[classes]]\naliases = ["a"]', r"classes\.1\.name is missing"),
        (TWO + 'colour = "red"', r"classes\.1\.colour: there is no such key"),
        ('colour = "red"\n' + TWO, ": colour: there is no such key"),
        (TWO + 'aliases = ["Dog"]', "'Dog' stands twice .'dog' and 'cat'."),
        (TWO + 'aliases = [" "]', r"classes\.1\.aliases = .*a label must not be empty"),
        ('name = "../up"\n' + TWO, r"name = '\.\./up'"),
        ("name = 3\n" + TWO, "name = 3: "),
        ("templates = []\n" + TWO, r"templates = \[\]"),
        ('templates = ["a photo"]\n' + TWO, "template 'a photo' must hold one {}"),
        ('templates = ["{} {}"]\n' + TWO, "template '{} {}' must hold one {}"),
        ('templates = "imagenette"\n' + TWO, "'imagenette' .* a set: one, cifar, imagenet"),
        ("reject = 'one'\n" + TWO, "reject = 'one'"),
        ("reject = [' ']\n" + TWO, "a prompt must not be empty"),
        (TWO + "prompts = ['']", r"classes\.1\.prompts = .*a prompt must not be empty"),
        (TWO + "prompts = ['a {}']", "'a {}' would be used as it is; .* belongs in templates"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, text: str, says: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(InputError, match=says) as told:
        load_label_set(file)
    assert file in str(told.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml: no such file"):
        load_label_set(str(tmp_path / "nowhere.toml"))
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(InputError, match=r"latin\.toml: not valid TOML"):
        load_label_set(str(tmp_path / "latin.toml"))


def test_a_label_set_cannot_change_once_made() -> None:
    animals = load_label_set("dog,cat")
    with pytest.raises(ValueError, match="frozen"):
        animals.name = "other"  # type: ignore[misc]
    assert LabelSet.model_validate(animals.model_dump()) == animals


def test_counts_are_shares_of_all_or_nobody() -> None:
    counted = {"name": "x", "classes": [{"name": "a", "count": 30}, {"name": "b", "count": 10}]}
    assert LabelSet.model_validate(counted).shares == [0.75, 0.25]
    assert label_set("a", "b").shares is None
    some = {"name": "x", "classes": [{"name": "a", "count": 30}, {"name": "b"}]}
    with pytest.raises(ValidationError, match="every class has one, or none has: 1 of 2 have"):
        LabelSet.model_validate(some)
    with pytest.raises(ValidationError, match="multi_label classes have none"):
        LabelSet.model_validate({**counted, "multi_label": True})
    for number in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValidationError, match="count"):
            LabelSet.model_validate({"name": "x", "classes": [{"name": "a", "count": number}]})
