"""Export: one flat joined table, or the layouts that other tools read."""

import io
import json
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePath
from urllib.parse import quote

import polars as pl

from pipeline.captions import captions_of, current_captions
from pipeline.catalog import current_files
from pipeline.errors import InputError
from pipeline.images.paths import is_local, local_path, name_of
from pipeline.images.reading import read_bytes
from pipeline.labels.labelling import current_labels
from pipeline.search.agreement import label_agreement
from pipeline.store import Store
from pipeline.tables import LABELS
from pipeline.training.selection import TABLE as SELECTION

FORMATS = ("parquet", "csv", "imagefolder", "webdataset", "label-studio")
COLUMNS = [
    "path",
    "image_id",
    "label",
    "score",
    "confidence",
    "calibrated",
    "margin",
    "entropy",
    "topk_labels",
    "topk_scores",
    "selected",
    "split",
    "reason",
    "agreement",  # share of the nearest images with the same label; null: not known
]
_SHARD_IMAGES = 1000  # per tar


@dataclass(frozen=True)
class ExportSummary:
    """What was written where."""

    format: str
    out: str
    rows: int


def export(store: Store, out: Path, form: str, *, selected_only: bool = False) -> ExportSummary:
    """Write the labels of a store for other tools.

    parquet, csv: one row per file that is there, unreadable ones with their reason.
    imagefolder: a copy of each labelled image in a folder of its label.
    webdataset: tar shards with the image, its class number (.cls) and the labels (.json).
    label-studio: a task list with the labels as predictions, for local file storage.

    Args:
        store: it must hold labels.
        out: a file for parquet, csv and label-studio; a folder for the others.
        form: one of FORMATS.
        selected_only: only images of the selection.

    Raises:
        InputError: an unknown format, no labels, or a folder that holds something already.
    """
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(out)):
        raise InputError(f"{out}: is a url; export writes to this machine: name a file or folder")
    if form not in FORMATS:
        raise InputError(f"format {form!r}: choose one of {', '.join(FORMATS)}")
    table = flat_table(store)
    if selected_only:
        table = table.filter("selected")
    if form in ("imagefolder", "webdataset"):
        table = table.filter(pl.col("label").is_not_null())
        _write_folder(store, table, out, form)
    else:
        if form == "label-studio":
            table = table.filter(pl.col("label").is_not_null())
        _write_file(table, out, form)
    return ExportSummary(form, str(out), len(table))


def flat_table(store: Store) -> pl.DataFrame:
    """Join files, labels and selection: one row per path that is there, sorted by path.

    A store with captions has them in one more column, null where an image has none.
    """
    files = current_files(store, ["image_id", "status", "reason"])
    files = files.filter(pl.col("status").is_in(["ok", "unreadable"]))
    run = current_labels(store)
    told = [field.name for field in LABELS if field.name in COLUMNS]
    labels = store.read(run.table, told).unique("image_id").rename({"reason": "label_reason"})
    selection = store.read(SELECTION, ["image_id", "kept", "split", "reason"])
    selection = selection.rename({"kept": "selected", "reason": "select_reason"})
    agreement = label_agreement(store)
    if agreement is None:
        agreement = pl.DataFrame(schema={"image_id": pl.String, "agreement": pl.Float64})
    joined = files
    for told_of in (labels, selection, agreement.select("image_id", "agreement")):
        joined = joined.join(told_of, on="image_id", how="left")
    table = (
        joined.with_columns(
            pl.col("selected").fill_null(False),
            # A reader may come between the commit of a file and that of its label.
            reason=pl.when(pl.col("topk_labels").is_null() & (pl.col("status") == "ok"))
            .then(pl.lit("not labelled yet"))
            .otherwise(pl.coalesce("reason", "label_reason", "select_reason")),
        )
        .select(COLUMNS)
        .sort("path")
    )
    if current_captions(store) is None:
        return table
    captions = captions_of(store)
    said = pl.DataFrame(
        {"image_id": list(captions), "caption": list(captions.values())},
        {"image_id": pl.String, "caption": pl.String},
    )
    return table.join(said, on="image_id", how="left", maintain_order="left")


def _write_file(table: pl.DataFrame, out: Path, form: str) -> None:
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name a file for {form}")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".tmp-{out.name}")
    try:
        if form == "parquet":
            table.write_parquet(temporary)
        elif form == "csv":
            _for_csv(table).write_csv(temporary)
        else:
            temporary.write_text(json.dumps(_tasks(table), indent=1, ensure_ascii=False), "utf-8")
        temporary.replace(out)
    except pl.exceptions.PolarsError as error:
        raise OSError(f"{out}: cannot be written: {str(error).splitlines()[0]}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_folder(store: Store, table: pl.DataFrame, out: Path, form: str) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a new folder for {form}")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: holds files already; name a new folder")
    there = [not _is_gone(path) for path in table["path"]]
    table = table.with_columns(pl.Series("there", there, pl.Boolean))
    # An image that lies somewhere else too is taken from there.
    gone = table.filter(~pl.col("there").any().over("image_id"))["path"]
    if len(gone):
        raise InputError(
            f"{gone[0]}: went away since it was last seen, with {len(gone) - 1} others; run again "
            "with its source, then export"
        )
    table = table.filter("there")
    if form == "imagefolder":
        _copy_images(table, out)
    else:
        _write_shards(table, out, current_labels(store).label_set.names)


def _for_csv(table: pl.DataFrame) -> pl.DataFrame:
    """A CSV field cannot hold a list: its items are put behind one another, with | between."""
    scores = pl.col("topk_scores").list.eval(pl.element().round(4).cast(pl.String))
    return table.with_columns(pl.col("topk_labels").list.join("|"), scores.list.join("|"))


def _tasks(table: pl.DataFrame) -> list[dict[str, object]]:
    """Tasks in Label Studio's import format, labels as predictions of one choice."""
    return [
        {
            "data": {"image": _place(row["path"])},
            "predictions": [
                {
                    "model_version": "pseudolabel",
                    "score": row["confidence"],
                    "result": [
                        {
                            "from_name": "label",
                            "to_name": "image",
                            "type": "choices",
                            "value": {"choices": [row["label"]]},
                        }
                    ],
                }
            ],
        }
        for row in table.iter_rows(named=True)
    ]


def _place(path: str) -> str:
    """Return where Label Studio finds an image; an object lies in a storage it was told of."""
    if not is_local(path):
        return path
    return f"/data/local-files/?d={quote(os.fsencode(local_path(path)).lstrip(b'/'))}"


def _copy_images(table: pl.DataFrame, out: Path) -> None:
    for path, image_id, label in table.select("path", "image_id", "label").iter_rows():
        folder = out / _folder_name(label)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / name_of(path)
        if target.exists():  # the same name from two folders
            target = target.with_stem(f"{target.stem}-{image_id[:8]}")
        target.write_bytes(_content(path))


def _write_shards(table: pl.DataFrame, out: Path, classes: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    images = table.unique("image_id", keep="first", maintain_order=True)
    for shard, rows in enumerate(images.iter_slices(_SHARD_IMAGES)):
        with tarfile.open(out / f"shard-{shard:05d}.tar", "w") as tar:
            for row in rows.iter_rows(named=True):
                key, suffix = row["image_id"], PurePath(name_of(row["path"])).suffix.lower()
                told = ("path", "label", "score", "confidence", "caption")
                about = {name: row[name] for name in told if name in row}
                _add(tar, f"{key}{suffix or '.jpg'}", _content(row["path"]))
                _add(tar, f"{key}.cls", str(classes.index(row["label"])).encode())
                _add(tar, f"{key}.json", json.dumps(about, ensure_ascii=False).encode())


def _is_gone(path: str) -> bool:
    return is_local(path) and not Path(local_path(path)).is_file()


def _content(path: str) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error}; what was written is not whole"
        ) from error


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _folder_name(label: str) -> str:
    """Return a label as one folder's name, whatever is in it; two labels never share one."""
    name = re.sub(r"[%/\\\0]", lambda found: f"%{ord(found.group()):02X}", label)
    return name.replace(".", "%2E") if name in (".", "..") else name
