"""The classes a user wants, from names or a TOML file, checked when made.

A class is asked for by its own prompts where it has any, and else by every template filled with
its name and each of its aliases (`clip/prompts.py`). Own prompts stand instead of the templates,
not beside them: whoever writes "a crane, a wading bird" wants to be rid of "a photo of a crane.",
and descriptions such as those of CuPL (Pratt et al. 2023) are meant to be used alone.
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
# They stay names here and in fingerprints: the last one lies in open_clip, which loads torch.
TEMPLATE_SETS = ("one", "cifar", "imagenet")
_ARTICLE = re.compile(r"^(a|an|the)\s+", re.IGNORECASE)
_ARTICLE_BEFORE_SLOT = re.compile(r"\b(a|an|the) \{\}", re.IGNORECASE)


class ClassSpec(BaseModel):
    """One class: the name that becomes the label, other words for it, and how to ask for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    aliases: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()  # whole ones, used as they are, instead of the templates
    count: float | None = Field(None, gt=0, allow_inf_nan=False)  # images expected; of all, or none

    @field_validator("name", "aliases")
    @classmethod
    def _no_empty_words(cls, words: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for word in [words] if isinstance(words, str) else words:
            if not normal_word(word):
                raise ValueError("a label must not be empty")
        return words

    @field_validator("prompts")
    @classmethod
    def _whole_prompts(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        return _whole(prompts)


class LabelSet(BaseModel):
    """Classes, templates and reject prompts, checked when made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]*$", max_length=64)  # a folder's
    # Each is a template or the name of a set of them; a single one need not be a list.
    templates: tuple[str, ...] = Field((DEFAULT_TEMPLATE,), min_length=1)
    reject: tuple[str, ...] = ()  # whole prompts for "none of these"
    multi_label: bool = False  # each class is a question of its own: none, one or many are right
    classes: tuple[ClassSpec, ...]

    @field_validator("templates", mode="before")
    @classmethod
    def _one_or_many(cls, given: object) -> object:
        return (given,) if isinstance(given, str) else given

    @field_validator("templates")
    @classmethod
    def _to_be_filled(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1 and template not in TEMPLATE_SETS:
                raise ValueError(
                    f"template {template!r} must hold one {{}} for the label, or be the name of a "
                    f"set: {', '.join(TEMPLATE_SETS)}"
                )
        return templates

    @field_validator("reject")
    @classmethod
    def _whole_rejects(cls, reject: tuple[str, ...]) -> tuple[str, ...]:
        return _whole(reject)

    @model_validator(mode="after")
    def _usable(self) -> "LabelSet":
        if len(self.classes) < (1 if self.multi_label else 2):
            have = f"only {self.classes[0].name!r}" if self.classes else "none"
            need = "at least 1 label" if self.multi_label else "at least 2 labels to choose between"
            raise ValueError(f"need {need}, got {have}")
        counted = sum(entry.count is not None for entry in self.classes)
        if counted and (self.multi_label or counted < len(self.classes)):
            rival = "multi_label classes have none, for they do not compete: "
            rule = rival if self.multi_label else "every class has one, or none has: "
            raise ValueError(f"count: {rule}{counted} of {len(self.classes)} have")
        owner: dict[str, str] = {}
        for entry in self.classes:
            for word in (entry.name, *entry.aliases):
                key = normal_word(word)
                if key in owner:
                    raise ValueError(f"{word!r} stands twice ({owner[key]!r} and {entry.name!r})")
                owner[key] = entry.name
        return self

    @property
    def names(self) -> list[str]:
        """The labels, in the order of their index."""
        return [entry.name for entry in self.classes]

    @property
    def shares(self) -> list[float] | None:
        """What part of the images each class is expected to be; None where nobody said."""
        counts = [entry.count for entry in self.classes if entry.count is not None]
        return [count / sum(counts) for count in counts] or None

    @property
    def against(self) -> tuple[str, ...]:
        """What classes are held against beside one another: the reject prompts.

        Classes that do not compete are held against a photo of nothing in particular.
        """
        return self.reject or (("a photo.",) if self.multi_label else ())

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


def without_article(label: str) -> str:
    """Take a label's own article away.

    >>> without_article("a red envelope"), without_article("another")
    ('red envelope', 'another')
    """
    return _ARTICLE.sub("", label)


def fill(template: str, label: str, *, bare: bool = False) -> str:
    """Put a label into a template; a label's own article replaces the template's.

    Args:
        template: with one {}.
        label: what goes there.
        bare: where the template has no article right before the {}, leave the label's own away.

    >>> fill("a photo of a {}.", "dog"), fill("a photo of a {}.", "a red envelope")
    ('a photo of a dog.', 'a photo of a red envelope.')
    >>> fill("an eye with {}", "a lens"), fill("a photo of my {}.", "a lens", bare=True)
    ('an eye with a lens', 'a photo of my lens.')
    """
    if _ARTICLE.match(label):
        if _ARTICLE_BEFORE_SLOT.search(template):
            template = _ARTICLE_BEFORE_SLOT.sub("{}", template)
        elif bare:
            label = without_article(label)
    return template.replace("{}", label)


def load_label_set(given: str, templates: tuple[str, ...] = ()) -> LabelSet:
    """Read a label set from a TOML file, or from names with commas between them.

    Args:
        given: a path that ends in ".toml", or "dog,cat,car".
        templates: used instead of the label set's own when not empty; templates or names of sets.
            Classes with prompts of their own keep these.

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


def _whole(prompts: tuple[str, ...]) -> tuple[str, ...]:
    """Raise ValueError unless all are prompts that can be used as they are."""
    for prompt in prompts:
        if not prompt.strip():
            raise ValueError("a prompt must not be empty")
        if "{}" in prompt:
            raise ValueError(
                f"prompt {prompt!r} would be used as it is; what holds {{}} belongs in templates"
            )
    return prompts
