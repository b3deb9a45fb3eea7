"""The classes a user wants: from names or a TOML file to prompts.

A class is asked for by every template filled with its name and each of its aliases.
Shapes: C classes, R reject prompts, D embedding dimensions.
"""

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.arrays import Floats
from pipeline.errors import InputError
from pipeline.validation import explain, read_toml

DEFAULT_TEMPLATE = "a photo of a {}."
_ARTICLE = re.compile(r"^(a|an|the)\s+", re.IGNORECASE)
_ARTICLE_BEFORE_SLOT = re.compile(r"\b(a|an|the) \{\}", re.IGNORECASE)


class ClassSpec(BaseModel):
    """One class: the name that becomes the label, and other words for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    aliases: tuple[str, ...] = ()

    @field_validator("name", "aliases")
    @classmethod
    def _no_empty_words(cls, words: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for word in [words] if isinstance(words, str) else words:
            if not normal_word(word):
                raise ValueError("a label must not be empty")
        return words


class LabelSet(BaseModel):
    """Classes, templates and reject prompts, checked when made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]*$", max_length=64)  # a folder's
    templates: tuple[str, ...] = Field((DEFAULT_TEMPLATE,), min_length=1)
    reject: tuple[str, ...] = ()  # whole prompts for "none of these"
    multi_label: bool = False  # any number of classes may apply to an image
    classes: tuple[ClassSpec, ...]

    @model_validator(mode="after")
    def _usable(self) -> "LabelSet":
        if len(self.classes) < 2 - self.multi_label:
            have = f"only {self.classes[0].name!r}" if self.classes else "none"
            raise ValueError(f"need at least 2 labels to choose between, got {have}")
        owner: dict[str, str] = {}
        for entry in self.classes:
            for word in (entry.name, *entry.aliases):
                key = normal_word(word)
                if key in owner:
                    raise ValueError(f"{word!r} stands twice ({owner[key]!r} and {entry.name!r})")
                owner[key] = entry.name
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"template {template!r} must hold one {{}} for the label")
        return self

    @property
    def names(self) -> list[str]:
        """The labels, in the order of their index."""
        return [entry.name for entry in self.classes]

    @property
    def against(self) -> tuple[str, ...]:
        """What classes are held against beside one another: the reject prompts.

        Classes that do not compete are held against a photo of nothing in particular.
        """
        return self.reject or (("a photo.",) if self.multi_label else ())

    def prompts(self) -> list[list[str]]:
        """Return the prompts of each class, template by template."""
        return [
            [fill(template, word) for template in self.templates for word in (c.name, *c.aliases)]
            for c in self.classes
        ]

    def fingerprint(self) -> str:
        """Return 12 hex digits that change whenever a prompt or a label does."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def index_of(self) -> dict[str, int]:
        """Map every name and alias, in its normal form, to its class index."""
        words = [(c.name, *c.aliases) for c in self.classes]
        return {normal_word(word): i for i, group in enumerate(words) for word in group}


@dataclass(frozen=True)
class LabelVectors:
    """The text side of zero-shot classification."""

    classes: Floats  # (C, D), rows of unit length
    rejects: Floats  # (R, D), rows of unit length; R may be 0


def normal_word(word: str) -> str:
    """Fold case, `_`, `-`, blanks and Unicode forms: "T-Shirt" and "t_shirt" are one word."""
    folded = unicodedata.normalize("NFKC", word).casefold()
    return " ".join(re.sub(r"[_\-]+", " ", folded).split())


def fill(template: str, label: str) -> str:
    """Put a label into a template; a label's own article replaces the template's.

    >>> fill("a photo of a {}.", "dog"), fill("a photo of a {}.", "a red envelope")
    ('a photo of a dog.', 'a photo of a red envelope.')
    """
    if _ARTICLE.match(label):
        template = _ARTICLE_BEFORE_SLOT.sub("{}", template)
    return template.replace("{}", label)


def load_label_set(given: str, templates: tuple[str, ...] = ()) -> LabelSet:
    """Read a label set from a TOML file, or from names with commas between them.

    Args:
        given: a path that ends in ".toml", or "dog,cat,car".
        templates: used instead of the label set's own when not empty.

    Raises:
        InputError: too few labels, an empty or repeated one, a template without {}, a bad file.
    """
    replaced = {"templates": templates} if templates else {}
    if given.endswith(".toml"):
        if not Path(given).is_file():
            raise InputError(f'label set {given}: no such file; or name the labels: "dog,cat,car"')
        where, fields = given, {**read_toml(Path(given)), **replaced}
        stem = re.sub(r"[^A-Za-z0-9 _-]+", "-", Path(given).stem).strip("-_ ")
        fields.setdefault("name", stem[:64] or "labels")
    else:
        where = f"labels {given!r}"
        names = [name.strip() for name in given.split(",")]
        fields = {"name": "inline", "classes": [{"name": name} for name in names], **replaced}
    try:
        return LabelSet.model_validate(fields)
    except ValidationError as error:
        raise InputError(explain(error, where)) from error
