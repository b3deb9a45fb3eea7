"""The records: one Parquet schema per table, one comment per column.

A table is a folder of immutable parts. `image_id` ties the tables together; row order never does.
"""

import pyarrow as pa

SELECTION = "selections/default"  # the name of the one selection that there is
ABSTAIN = -1  # the label index of an image that is not labelled; its label is null

FILES = pa.schema(
    [
        ("path", pa.string()),  # where it was seen: a path, URL or tar member (images/paths.py)
        ("source", pa.string()),  # the source it was found under, absolute; of a member: its tar
        (
            "image_id",
            pa.string(),
        ),  # first 32 hex digits of the bytes' SHA-256; null: not read
        ("bytes", pa.int64()),  # size of the file
        ("mtime", pa.timestamp("ns", "UTC")),  # last change of the file; of a member: of its tar
        # ok, unreadable, ignored (not an image, nor named as one), gone,
        # shard (a tar that was looked into), lost (its vector was; it is read again)
        ("status", pa.string()),
        ("reason", pa.string()),  # why not ok; null when ok
        ("run_id", pa.string()),  # the run that saw it
        ("seen_at", pa.timestamp("us", "UTC")),
    ]
)

SIDE_INFO = pa.schema(
    [
        ("path", pa.string()),  # of the image, as in `files`; the last row of a path counts
        ("image_id", pa.string()),
        ("text", pa.string()),  # of the key.txt beside it in its tar; null: there is none
        ("json", pa.string()),  # of the key.json
        ("note", pa.string()),  # what was cut or left out of them; null: nothing
        ("run_id", pa.string()),
    ]
)

LABELS = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.string()),  # the likeliest class; null: abstained
        ("label_index", pa.int32()),  # its place in the label set; ABSTAIN (-1) where label is null
        ("score", pa.float32()),  # the model's probability of the likeliest class, 0 to 1
        ("confidence", pa.float32()),  # probability that it is right; the score until calibrated
        ("calibrated", pa.bool_()),  # whether an audit has calibrated `confidence`
        ("margin", pa.float32()),  # score minus the runner-up's, 0 to 1
        ("entropy", pa.float32()),  # of the scores, in nats; 0 (sure) to ln(classes)
        ("topk_labels", pa.list_(pa.string())),  # likeliest first, abstained or not
        ("topk_scores", pa.list_(pa.float32())),
        ("labels", pa.list_(pa.string())),  # all that apply, multi-label only; null otherwise
        ("unknown_score", pa.float32()),  # high: no class fits; how, says `labels.unknown`
        ("naive_label", pa.string()),  # the likeliest class before refinement, abstained or not
        ("naive_score", pa.float32()),
        ("flipped", pa.bool_()),  # whether refinement changed the likeliest class
        ("reason", pa.string()),  # why it abstained; null when labelled
    ]
)

NEIGHBOURS = pa.schema(
    [
        ("image_id", pa.string()),
        ("neighbours", pa.list_(pa.string())),  # ids of the nearest other images, nearest first
        ("cosines", pa.list_(pa.float32())),
    ]
)

SELECTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("weight", pa.float32()),  # of the sample in training; 0 when left out
        (
            "split",
            pa.string(),
        ),  # train, valid or test, of every image, kept or not
        # what stays on one side together: the oldest image of its near-duplicates, or its folder
        ("split_group", pa.string()),
        ("duplicate_group", pa.string()),  # image id of the group's best member; null: no near twin
        ("kept", pa.bool_()),
        ("reason", pa.string()),  # why it was left out; null when kept
    ]
)

AUDITS = pa.schema(  # the last row of an image counts
    [
        ("image_id", pa.string()),
        ("path", pa.string()),  # where it was seen when it was drawn
        ("label_shown", pa.string()),  # the likeliest class when it was drawn
        ("score", pa.float32()),  # of the label shown
        ("stratum", pa.int32()),  # band of the score, 0: the highest
        ("weight", pa.float64()),  # images that it stood for when it was drawn
        ("round", pa.int32()),  # the draw that chose it, from 1 on
        ("classes", pa.string()),  # digest of the class names that were to choose from
        # label, none of these, cannot tell; null: drawn, and not answered yet
        ("answer", pa.string()),
        ("label_given", pa.string()),  # the true class; null unless the answer is a label
        ("by", pa.string()),  # who answered, or the truth it was taken from
        ("at", pa.timestamp("us", "UTC")),  # when it was drawn, or answered
    ]
)


CAPTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("caption", pa.string()),  # empty: the model wrote nothing of use
        ("note", pa.string()),  # why it is empty; null when it is not
        ("model", pa.string()),  # the name that loaded the model
        ("weights", pa.string()),  # digest of its weights
        ("run_id", pa.string()),
        ("made_at", pa.timestamp("us", "UTC")),
    ]
)


def embeddings(dimension: int) -> pa.Schema:
    """Return the schema of `embeddings` for vectors of `dimension` components."""
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("width", pa.int32()),  # pixels, after the EXIF orientation was applied
            ("height", pa.int32()),
            ("format", pa.string()),  # as Pillow names it: JPEG, PNG, WEBP ...
            ("embedding", pa.list_(pa.float16(), dimension)),  # unit length
        ]
    )


def schema_of(table: str, dimension: int = 1) -> pa.Schema:
    """Return the schema of a table by its name, such as "files" or "labels/demo/1a2b3c"."""
    kind = table.split("/", 1)[0]
    fixed = {
        "files": FILES,
        "side_info": SIDE_INFO,
        "labels": LABELS,
        "neighbours": NEIGHBOURS,
        "selections": SELECTIONS,
        "audits": AUDITS,
        "captions": CAPTIONS,
    }
    return embeddings(dimension) if kind == "embeddings" else fixed[kind]
