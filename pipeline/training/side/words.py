"""The words of a text, without those that would give a label away."""

import os
import posixpath
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePath

from pipeline.images.paths import local_path, name_of, split_member
from pipeline.label_set import LabelSet, normal_word


def words_of_name(path: str) -> str:
    """Return the words in a file's name: no folder, extension or counter.

    A word that a folder of its path bears as well is left out: whoever sorts images into folders
    often names them after these.

    >>> words_of_name("/photos/dog/IMG_0042-red_envelope.v2.jpg")
    'img red envelope v'
    >>> words_of_name("/photos/tabby/tabby-on-sofa.jpg")
    'on sofa'
    """
    stem = os.fsencode(PurePath(name_of(path)).stem).decode(errors="replace")
    member, tar = split_member(path) or (local_path(path), "")
    above = _words_of_folders(posixpath.dirname(member), tar)
    return " ".join(word for word in _words(stem) if word not in above)


def words_of(label_set: LabelSet) -> list[str]:
    """Return the names and aliases of all classes."""
    return [word for entry in label_set.classes for word in (entry.name, *entry.aliases)]


def without(text: str, words: Sequence[str]) -> str:
    """Take whole words, their plurals included, out of a text, ignoring case.

    >>> without("Two dogs and a hot-dog on ice", ["dog", "hot dog"])
    'two and a on ice'
    """
    left, patterns = normal_word(text), _patterns(tuple(words))
    before = None
    while left != before:  # "hot hot dog dog": taking one out may bring together another
        before = left
        for pattern in patterns:
            left = " ".join(pattern.sub(" ", left).split())
    return left


def _words(text: str) -> list[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", text))
    return " ".join(re.findall(r"[^\W\d_]+", apart)).casefold().split()


@lru_cache(maxsize=1024)  # the files of a folder come one after the other
def _words_of_folders(folders: str, tar: str) -> frozenset[str]:
    return frozenset(_words(folders) + _words(tar))


@lru_cache(maxsize=4)
def _patterns(words: tuple[str, ...]) -> list[re.Pattern[str]]:
    """Return a pattern for each word and its plurals, the longest first."""
    forms = sorted((_form(normal_word(word)) for word in words), key=len, reverse=True)
    return [re.compile(rf"(?<!\w){form}(?!\w)") for form in forms]


def _form(word: str) -> str:
    plural = rf"|{re.escape(word[:-1])}ies" if word.endswith("y") else ""
    return rf"(?:{re.escape(word)}(?:s|es)?{plural})"
