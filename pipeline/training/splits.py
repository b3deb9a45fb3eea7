"""Splits: on which side of training each image stands, and for how long.

A side is a hash of the name of a group whose images stay together, never row order. A group is a
crowd of near-duplicates or, when asked, a folder.

A crowd bears the name of its oldest image: of the one whose file was last changed first. What
later drops bring is newer, so it takes the name it finds. Named after its smallest image id, a
crowd of n would change its name with one new member of n + 1; after its surest image, with each
new question or calibration; after the first image seen, with each run that was killed halfway.
Only a drop that joins two crowds into one, or files older than those here, can move an image.
"""

import hashlib
from collections.abc import Collection
from typing import Literal

import polars as pl

from pipeline.images.paths import folder_of
from pipeline.store import Store

SplitBy = Literal["near-duplicates", "folder"]
TEST_SHARE = 0.2  # of the groups that a truth tells of, where it tells of more than half


def split_of(name: str, valid_share: float) -> str:
    """Return train or valid by a hash of a group's name.

    The name is hashed once more, for an image id may itself have been used to choose files.
    """
    return "valid" if _fraction("split", name) < valid_share else "train"


def half_of(name: str) -> int:
    """Return 0 or 1 by a third hash of a group's name, which knows nothing of its side."""
    return int(_fraction("half", name) < 0.5)


def split(images: pl.DataFrame, *, known: Collection[str] = (), valid_share: float) -> pl.DataFrame:
    """Add the column split: train, valid or test.

    Images with a truth are for testing, and all of their group and crowd with them. Where more than
    half of all images have a truth, a fifth of the groups is, by another hash of their names: so
    that something is left to train on.

    Args:
        images: image_id; split_group, the name of what stays together; crowd, which near-duplicates
            share, null where there are none.
        known: ids of the images that have a truth.
        valid_share: share of the groups that are not for testing to be held out, 0 to 1.
    """
    true = images.filter(pl.col("image_id").is_in(list(known)))
    held = set(true["split_group"])
    if 2 * len(true) > len(images):
        places = {name: _fraction("test", name) for name in held}
        limit = max(TEST_SHARE, min(places.values()))  # one group at least
        held = {name for name, place in places.items() if place <= limit}
    sides = {
        name: "test" if name in held else split_of(name, valid_share)
        for name in images["split_group"].unique()
    }
    named = images.with_columns(
        split=pl.col("split_group").replace_strict(sides, return_dtype=pl.String)
    )
    # A folder may hold a near-duplicate of another folder's image that is for testing.
    twin = (pl.col("split") == "test").any().over("crowd") & pl.col("crowd").is_not_null()
    return named.with_columns(split=pl.when(twin).then(pl.lit("test")).otherwise("split"))


def by_folder(images: pl.DataFrame) -> pl.DataFrame:
    """Add the column split_group: the folder that an image's `path` lies in."""
    folders = [folder_of(path) for path in images["path"]]
    return images.with_columns(split_group=pl.Series(folders, dtype=pl.String))


def by_crowd(images: pl.DataFrame, crowds: pl.DataFrame, ages: pl.DataFrame) -> pl.DataFrame:
    """Add the column split_group: the oldest image of the crowd, present or gone.

    Args:
        images: image_id.
        crowds: image_id and crowd, of all images ever embedded.
        ages: image_id and mtime, as `oldest` gives them; equally old ones go by their id.
    """
    ordered = crowds.join(ages, on="image_id", how="left").sort(
        "mtime", "image_id", nulls_last=True
    )
    names = ordered.select("image_id", split_group=pl.col("image_id").first().over("crowd"))
    own = pl.coalesce("split_group", "image_id")  # what the index lacks is alone
    return images.join(names, on="image_id", how="left", maintain_order="left").with_columns(
        split_group=own
    )


def oldest(store: Store) -> pl.DataFrame:
    """Return image_id and mtime: when the oldest file of each image ever seen was last changed."""
    seen = store.read("files", ["image_id", "mtime"]).drop_nulls("image_id")
    return seen.group_by("image_id").agg(pl.col("mtime").min())


def _fraction(salt: str, name: str) -> float:
    """Return a number from 0 to 1, evenly spread, that a name always has."""
    text = f"{salt}:{name}".encode(errors="surrogatepass")
    return int(hashlib.sha256(text).hexdigest()[:8], 16) / 16**8
