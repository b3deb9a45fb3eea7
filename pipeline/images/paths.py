"""Paths as text, the way Parquet keeps them, and the way back to the file they mean.

/photos/a.jpg                    a local file
file:///photos/caf%E9.jpg        a local file whose name is not UTF-8, as its URI
s3://bucket/key.jpg              an object; the key as it is, nothing is percent-encoded
tar://a/b.jpg::/shards/0.tar     a member of a tar: fsspec opens this as it stands
tar-uri://caf%E9.jpg::/0.tar     a member whose name cannot be written so, percent-encoded
"""

import os
import posixpath
import re
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from pipeline.homes import without_tilde

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_MEMBER, _QUOTED, _BETWEEN = "tar://", "tar-uri://", "::"


def is_url(text: str) -> bool:
    """Tell whether a path lies in object storage, or anywhere else that has a URL."""
    return bool(_SCHEME.match(text)) and not text.startswith(("file://", _MEMBER, _QUOTED))


def is_local(text: str) -> bool:
    """Tell whether a path is a file of its own on this machine, and no member of a tar."""
    return not is_url(text) and split_member(text) is None


def whole_path(given: str) -> str:
    """Return the absolute path of what a user wrote, links in it kept as they are.

    Only where it goes up (..) are links followed, for `link/..` is where the link leads.
    """
    path = without_tilde(given)
    return str(path.resolve() if ".." in path.parts else path.absolute())


def path_text(path: str) -> str:
    """Return a local path as text that Parquet can hold and `local_path` can undo."""
    try:
        path.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 arrive as lone surrogates
        return Path(path).as_uri()
    return path


def local_path(text: str) -> str:
    """Undo `path_text`."""
    if text.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(text.removeprefix("file://")))
    return text


def member_text(member: str, tar: str) -> str:
    """Return the text of a tar's member that `split_member` can undo.

    Args:
        member: its name; bytes that are not UTF-8 as lone surrogates.
        tar: the tar's own path as text.

    >>> member_text("a/b.jpg", "s3://bucket/0.tar")
    'tar://a/b.jpg::s3://bucket/0.tar'
    """
    raw = member.encode("utf-8", "surrogateescape")
    try:
        raw.decode()
        plain = _BETWEEN not in member and not member.endswith(":")
    except UnicodeDecodeError:
        plain = False
    start = f"{_MEMBER}{member}" if plain else f"{_QUOTED}{quote(raw)}"
    return f"{start}{_BETWEEN}{tar}"


def split_member(text: str) -> tuple[str, str] | None:
    """Return a member's name and its tar's text; None where the path is no tar member's."""
    if not text.startswith((_MEMBER, _QUOTED)):
        return None
    name, _, tar = text.partition("://")[2].partition(_BETWEEN)
    if text.startswith(_QUOTED):
        name = unquote_to_bytes(name).decode("utf-8", "surrogateescape")
    return name, tar


def name_of(text: str) -> str:
    """Return the own name of a file of any kind, without its folders.

    >>> name_of("tar://a/b.jpg::/shards/0.tar"), name_of("s3://bucket/photos/c.jpg")
    ('b.jpg', 'c.jpg')
    """
    member = split_member(text)
    return posixpath.basename(member[0] if member else local_path(text))


def folder_of(text: str) -> str:
    """Return the folder that a file of any kind lies in; a member's is one of its tar.

    >>> folder_of("tar://a/b.jpg::/shards/0.tar"), folder_of("s3://bucket/photos/c.jpg")
    ('tar://a::/shards/0.tar', 's3://bucket/photos')
    """
    if text.startswith((_MEMBER, _QUOTED)):
        member, between, tar = text.partition(_BETWEEN)
        kind, _, name = member.partition("://")
        return f"{kind}://{posixpath.dirname(name)}{between}{tar}"
    return posixpath.dirname(text)
