"""The file of a part: Parquet that can tell whether it is whole, under a name that tells its place.

Parquet checks its pages (CRC-32), but not its footer. So the footer's own metadata hold two
SHA-256: of all that stands before the footer, and of the footer with that field zeroed. Readers
check the footer and the pages they touch; `check_whole` checks every byte.

A part is named by time, `<run>-<shard>`. One merged of several is named `<first>~<last>~<sum>`,
where the sum of the hashes of the names stays the same however parts are merged.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

_CHECK = "pseudolabel.check"
_NO_CHECK = b"0" * 128
_TAIL = 8  # the footer's length and the magic bytes end a Parquet file
_MERGED = re.compile(r"^(.+)~(.+)~([0-9a-f]{16})$")


class DamagedPartError(ValueError):
    """A part's bytes are not those that were written."""


# -- content -----------------------------------------------------------------------------------


def encode(rows: pa.Table, about: dict[str, str]) -> memoryview:
    """Return the bytes of a part.

    Args:
        rows: its content.
        about: kept in its metadata.
    """
    vectors = [f.name for f in rows.schema if pa.types.is_fixed_size_list(f.type)]
    plain = [name for name in rows.column_names if name not in vectors]
    buffer = BytesIO()
    with pq.ParquetWriter(
        buffer,
        rows.schema,
        # Unit vectors do not compress, and their minimum and maximum tell nobody anything.
        compression={name: "none" if name in vectors else "zstd" for name in rows.column_names},
        use_dictionary=plain,
        write_statistics=plain,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({**about, _CHECK: _NO_CHECK.decode()})
    data = buffer.getbuffer()
    start = _footer_start(data)
    place = start + bytes(data[start:]).index(_NO_CHECK)
    data[place : place + len(_NO_CHECK)] = _checks(data, start)
    return data


def check_whole(data: bytes) -> None:
    """Check every byte of a part.

    Raises:
        DamagedPartError: one is not as it was written.
    """
    start = _footer_start(data)
    written, footer = _without_check(data[start:])
    if written != _checks(data[:start] + footer, start):
        raise DamagedPartError("its bytes do not match their checksum")


def open_part(file: pa.NativeFile, buffer: int = 0) -> pq.ParquetFile:
    """Open a part whose footer is as it was written; pages are checked when they are read.

    Args:
        file: the part's.
        buffer: bytes read at a time of each column; 0: all of it.

    Raises:
        DamagedPartError: the footer is not as it was written.
    """
    size = file.size()
    file.seek(max(0, size - 65536))
    tail = file.read()
    if size > len(tail) and (need := _footer_bytes(tail)) > len(tail):
        file.seek(max(0, size - need))
        tail = file.read()
    written, footer = _without_check(tail[_footer_start(tail) :])
    if written[64:] != _sha256(footer):
        raise DamagedPartError("its footer does not match its checksum")
    file.seek(0)
    return pq.ParquetFile(file, page_checksum_verification=True, buffer_size=buffer)


def about(part: pq.ParquetFile) -> dict[str, str]:
    """Return what a part's metadata say of it."""
    held: dict[bytes, bytes] = part.metadata.metadata or {}
    return {key.decode(): value.decode() for key, value in held.items()}


def _footer_bytes(data: bytes | memoryview) -> int:
    if len(data) < _TAIL or bytes(data[-4:]) != b"PAR1":
        raise DamagedPartError("it does not end as a Parquet file does: cut short?")
    return int.from_bytes(data[-_TAIL:-4], "little") + _TAIL


def _footer_start(data: bytes | memoryview) -> int:
    start = len(data) - _footer_bytes(data)
    if start < 0:
        raise DamagedPartError("its footer is longer than the file")
    return start


def _without_check(footer: bytes) -> tuple[bytes, bytes]:
    """Return the checksums in a footer, and the footer with zeros in their place."""
    name = footer.find(_CHECK.encode())
    found = re.search(rb"[0-9a-f]{128}", footer[name:]) if name >= 0 else None
    if found is None:
        raise DamagedPartError("it holds no checksum")
    at = name + found.start()
    return found.group(), footer[:at] + _NO_CHECK + footer[at + len(_NO_CHECK) :]


def _checks(data: bytes | memoryview, start: int) -> bytes:
    return _sha256(data[:start]) + _sha256(data[start:])


def _sha256(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


# -- names -------------------------------------------------------------------------------------


def span(part: str) -> tuple[str, str]:
    """Return the names of the first and the last part that went into a part.

    >>> span("a~c~00000000000000ff"), span("b")
    (('a', 'c'), ('b', 'b'))
    """
    merged = _MERGED.match(part)
    return (merged[1], merged[2]) if merged else (part, part)


def merged_name(parts: Sequence[str]) -> str:
    """Name the part that these are merged into, oldest first."""
    return f"{span(parts[0])[0]}~{span(parts[-1])[1]}~{name_sum(parts):016x}"


def name_sum(parts: Iterable[str]) -> int:
    """Return a number that tells which parts these were made of, however they were merged."""
    return sum(_number(part) for part in parts) % 2**64


def in_force(parts: Iterable[str]) -> list[str]:
    """Return parts in order of time, without those that went into another one.

    >>> in_force(["c", "a", "a~b~0000000000000000", "b"])
    ['a~b~0000000000000000', 'c']
    """
    kept: list[str] = []
    # Of two with the same first part the one that reaches further comes first.
    far_first = sorted(parts, key=lambda part: span(part)[1], reverse=True)
    for part in sorted(far_first, key=lambda part: span(part)[0]):
        if not kept or span(part)[1] > span(kept[-1])[1]:
            kept.append(part)
    return kept


def uncovered(parts: Sequence[str], by: Sequence[str]) -> list[str]:
    """Return those of `parts` that hold something which went into none of the parts `by`.

    Parts only ever merge, and `parts` are merged before what is made of them.

    >>> uncovered(["a", "b"], ["a"])
    ['b']
    """
    same = set(by)
    return [part for part in parts if part not in same and not origins(part, by)]


def origins(part: str, others: Sequence[str]) -> list[str]:
    """Return those of `others` that make up a merged part; none unless together they are all of it.

    >>> origins(merged_name(["a", "b"]), ["a", "b", "c"])
    ['a', 'b']
    """
    first, last = span(part)
    if first == last:  # never merged; and there may be thousands of these
        return []
    inside = [other for other in others if first <= span(other)[0] and span(other)[1] <= last]
    return inside if name_sum(inside) == name_sum([part]) else []


def _number(part: str) -> int:
    merged = _MERGED.match(part)
    if merged:
        return int(merged[3], 16)
    return int.from_bytes(hashlib.sha256(part.encode()).digest()[:8], "big")


# -- fingerprints ------------------------------------------------------------------------------


def marked(made_of: str, mark: str) -> str:
    """Return a fingerprint with a mark of what was done to the rows afterwards; "": nothing.

    >>> marked("1a2b", "c3"), mark_of("1a2b+c3"), marked("1a2b+c3", "")
    ('1a2b+c3', 'c3', '1a2b')
    """
    origin = made_of.partition("+")[0]
    return f"{origin}+{mark}" if mark else origin


def mark_of(fingerprint: str) -> str:
    """Return the mark in a fingerprint; empty when there is none."""
    return fingerprint.partition("+")[2]
