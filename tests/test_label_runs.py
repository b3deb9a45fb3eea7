"""Label runs side by side: what is kept of each, which one is meant, what changed between two."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.compaction import compact
from pipeline.errors import DamagedFileError, InputError
from pipeline.identity import EncoderIdentity
from pipeline.label_set import LabelSet
from pipeline.labels.label_runs import LabelRunState, find_run, label_runs, use_run
from pipeline.labels.labelling import current_labels, current_table
from pipeline.labels.provenance import provenance
from pipeline.reports.label_diff import ClassCount, Flow, label_diff
from pipeline.reports.verify import verify
from pipeline.store import Store
from tests.helpers import (
    IDENTITY,
    NOON,
    axis,
    embedding_rows,
    label_set,
    label_store,
    make_store,
    write_observations,
)
from tests.test_cli import Command, command  # noqa: F401 - a fixture

FIRST = label_set("cat", "dog", "T-Shirt")
OTHER = label_set("t_shirt", "dog", "emu")  # their axes: the first one's cat is a t_shirt now


def drop(store: Store, name: str, *axes: int) -> None:
    """Add a part of images along these axes, seen under /in."""
    part, ids = f"{name}-00000", [f"{name}-{at}" for at in range(len(axes))]
    store.write_part("embeddings", part, embedding_rows(ids, [axis(a) for a in axes]))
    write_observations(store, part, [(Path(f"/in/{i}"), i, "ok", None) for i in ids])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Five images in two drops, labelled twice: one as cat, two as dog, two as T-Shirt first."""
    made = make_store(tmp_path / "store", {})
    drop(made, "20240201T000000000000", 0, 1)
    drop(made, "20240202T000000000000", 1, 2, 2)
    label_store(made, FIRST)
    label_store(made, OTHER)
    return made


def states(store: Store) -> tuple[LabelRunState, LabelRunState]:
    current, previous = label_runs(store)
    return current, previous


# -- what is kept ------------------------------------------------------------------------------


def test_a_run_keeps_what_it_was_asked_by_which_model_and_when(store: Store) -> None:
    before = datetime.now(UTC)
    label_store(store, FIRST, abstain_below=0.5)
    table = str(current_table(store))
    told = provenance(store, table)
    assert told is not None
    assert told.label_set == FIRST
    assert told.asked == {
        "table": table,
        "label_set": FIRST.model_dump(mode="json"),
        "top_k": 2,
        "abstain_below": 0.5,
        "refine": "none",
        "unknown": "cosine",
        "unknown_above": 2.0,
        "source": "texts",
        "learnt_until": None,
    }
    assert EncoderIdentity(**told.encoder) == IDENTITY
    assert (told.method, told.rows, told.last_drop) == ("none", 5, "20240202T000000000000")
    assert told.made_at == told.changed_at == told.turned_to_at
    assert before <= datetime.fromisoformat(told.made_at) <= datetime.now(UTC)


def test_a_new_drop_changes_its_rows_and_not_when_it_was_made(store: Store) -> None:
    table = str(current_table(store))
    first = provenance(store, table)
    label_store(store, OTHER)  # nothing new
    assert provenance(store, table) == first
    drop(store, "20240203T000000000000", 0)
    label_store(store, OTHER)
    told = provenance(store, table)
    assert first is not None
    assert told is not None
    assert (told.rows, told.last_drop) == (6, "20240203T000000000000")
    assert (told.made_at, told.turned_to_at) == (first.made_at, first.turned_to_at)
    assert told.changed_at > first.changed_at


def test_runs_are_listed_with_their_rows_counted_by_hand(store: Store) -> None:
    label_store(store, label_set("cat", "dog"), abstain_below=0.9)  # along axis 2: neither
    newest, current, oldest = label_runs(store)
    assert [r.label_set for r in (newest, current, oldest)] == ["tests"] * 3
    assert [(r.current, r.previous) for r in (newest, current, oldest)] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    assert (newest.rows, newest.abstained, newest.unlabelled) == (5, 2, 0)
    scores = store.read(newest.table)["score"]
    assert newest.mean_score == pytest.approx(sum(scores) / 5)
    assert scores.to_list()[3:] == pytest.approx([0.5, 0.5])
    assert newest.calibrated is False
    assert oldest.provenance is not None
    assert oldest.provenance.label_set == FIRST


def test_older_runs_stay_as_they_are_through_new_drops_compaction_and_verification(
    store: Store,
) -> None:
    _, old = states(store)
    rows = store.read(old.table)
    drop(store, "20240203T000000000000", 0)
    label_store(store, OTHER)
    compact(store, part_rows=100)
    assert verify(store, now=NOON).faults == []
    current, kept = states(store)
    assert store.read(old.table).equals(rows)
    assert (kept.table, kept.rows, kept.unlabelled) == (old.table, 5, 1)
    assert kept.provenance == old.provenance
    assert (current.rows, current.unlabelled) == (6, 0)
    label_store(store, FIRST)  # and it can be caught up
    assert [(r.rows, r.unlabelled) for r in states(store)] == [(6, 0), (6, 0)]


def test_compacted_runs_keep_their_rows(store: Store) -> None:
    before = [store.read(run.table) for run in states(store)]
    compact(store, part_rows=100)
    runs = states(store)
    assert [len(store.parts(run.table)) for run in runs] == [1, 1]
    assert [store.read(run.table).equals(rows) for run, rows in zip(runs, before, strict=True)]
    table = str(current_table(store))
    told = provenance(store, table)
    label_store(store, OTHER)
    assert provenance(store, table) == told  # merging is no change


def test_damage_is_named_set_aside_and_made_again_for_the_run_in_force(store: Store) -> None:
    name = f"{current_table(store)}/run.json"
    data = bytearray(store.get(name) or b"")
    data[len(data) // 2] ^= 1
    store.put(name, bytes(data))
    with pytest.raises(DamagedFileError, match=name):
        label_runs(store)
    [fault] = verify(store, now=NOON).faults
    assert fault.file == name
    assert states(store)[0].provenance is None
    label_store(store, OTHER)
    told = states(store)[0].provenance
    assert told is not None
    assert told.label_set == OTHER


def test_the_question_of_a_run_without_provenance_is_kept_when_another_takes_over(
    store: Store,
) -> None:
    table = str(current_table(store))
    store.delete(f"{table}/run.json")  # as in a store of an older version
    label_store(store, FIRST, abstain_below=0.5)
    told = provenance(store, table)
    assert told is not None
    assert told.label_set == OTHER
    assert find_run(store, "previous") == table


# -- which is meant ----------------------------------------------------------------------------


def test_a_run_is_found_by_the_beginning_of_its_name(store: Store) -> None:
    current, previous = states(store)
    assert find_run(store, "current") == current.table
    assert find_run(store, "previous") == previous.table
    for run in (current, previous):
        assert find_run(store, run.run) == find_run(store, run.run[:6].upper()) == run.table


@pytest.mark.parametrize("given", ["xyz", "", "labels"])
def test_a_run_that_is_not_there_is_answered_with_those_that_are(store: Store, given: str) -> None:
    with pytest.raises(InputError, match=rf"label run '{given}': no label run .* \(tests\), "):
        find_run(store, given)


def test_a_beginning_that_fits_two_is_refused(store: Store) -> None:
    for number in range(20):  # 17 digests of 16 first digits
        label_store(store, FIRST, abstain_below=number / 100)
    names = [run.run for run in label_runs(store)]
    twice = next(n[0] for n in names if sum(o.startswith(n[0]) for o in names) > 1)
    with pytest.raises(InputError, match=rf"label run '{twice}': \d+ label runs of"):
        find_run(store, twice)


def test_the_first_run_has_none_before_it(tmp_path: Path) -> None:
    made = make_store(tmp_path / "s", {})
    with pytest.raises(InputError, match="holds no labels yet"):
        find_run(made, "current")
    assert label_runs(made) == []
    drop(made, "20240201T000000000000", 0)
    label_store(made, FIRST)
    with pytest.raises(InputError, match="no label run is the previous one: "):
        find_run(made, "previous")


# -- going back --------------------------------------------------------------------------------


def test_going_back_puts_a_run_in_force_as_it_was(store: Store) -> None:
    current, previous = states(store)
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert use_run(store, "previous", now=later) == previous.table
    assert current_labels(store).label_set == FIRST
    assert [run.table for run in states(store)] == [previous.table, current.table]
    assert find_run(store, "previous") == current.table
    told = provenance(store, previous.table)
    label_store(store, FIRST)  # which finds nothing to do
    assert provenance(store, previous.table) == told


def test_previous_is_the_last_one_in_force_whichever_was_made_last(store: Store) -> None:
    """Of three runs the first two take turns; the third, made last, is previous only once."""
    other, first = (run.table for run in states(store))
    label_store(store, FIRST, abstain_below=0.5)
    third = str(current_table(store))
    now = datetime.now(UTC)
    use_run(store, first.rpartition("/")[2], now=now + timedelta(seconds=1))
    assert find_run(store, "previous") == third
    use_run(store, other.rpartition("/")[2], now=now + timedelta(seconds=2))
    assert find_run(store, "previous") == first
    assert [run.table for run in label_runs(store)] == [other, first, third]


def test_a_relabelling_with_old_labels_turns_to_them_anew(store: Store) -> None:
    other, first = (run.table for run in states(store))
    label_store(store, FIRST, abstain_below=0.5)
    label_store(store, FIRST)  # made first of all, and in force now
    label_store(store, OTHER)
    assert current_table(store) == other
    assert find_run(store, "previous") == first


def test_a_run_that_does_not_cover_all_images_is_not_gone_back_to(store: Store) -> None:
    drop(store, "20240203T000000000000", 0, 1)
    label_store(store, OTHER)
    with pytest.raises(InputError, match=r"has no label of 2 images that came later"):
        use_run(store, "previous", now=NOON)
    assert current_labels(store).label_set == OTHER


def test_a_run_whose_question_is_lost_is_not_gone_back_to(store: Store) -> None:
    _, previous = states(store)
    store.delete(f"{previous.table}/run.json")
    with pytest.raises(InputError, match="nobody knows any more what it was asked"):
        use_run(store, previous.run, now=NOON)


# -- what changed ------------------------------------------------------------------------------


def labelled(store: Store, classes: LabelSet, rows: list[tuple[str, str | None, float]]) -> str:
    """Label the store, then put other answers in the run's place: image id, label and score."""
    label_store(store, classes)
    table = str(current_table(store))
    for part in store.parts(table):
        held = store.read_part(table, part).to_pylist()
        told = {i: (label, score) for i, label, score in rows}
        kept = [r for r in held if r["image_id"] in told]
        for row in kept:
            row["label"], row["score"] = told[row["image_id"]]
        schema = store.read_part(table, part).schema
        store.write_part(table, part, type(store.read_part(table, part)).from_pylist(kept, schema))
    return table


@pytest.fixture
def eight(tmp_path: Path) -> Store:
    """Eight images in two parts; the last one's file is gone."""
    made = make_store(tmp_path / "store", {})
    drop(made, "20240201T000000000000", *[0] * 5)
    drop(made, "20240202T000000000000", *[0] * 3)
    gone = Path("/in/20240202T000000000000-2")
    write_observations(made, "20240203T000000000000-scan", [(gone, None, "gone", None)])
    return made


A, B = "20240201T000000000000", "20240202T000000000000"


def test_a_diff_counted_by_hand(eight: Store) -> None:
    before = labelled(
        eight,
        label_set("cat", "dog", "T-Shirt"),
        [
            (f"{A}-0", "cat", 0.9),
            (f"{A}-1", "cat", 0.8),
            (f"{A}-2", "T-Shirt", 0.7),
            (f"{A}-3", None, 0.2),
            (f"{A}-4", None, 0.1),
            (f"{B}-0", "dog", 0.6),
            (f"{B}-2", "cat", 0.5),  # gone
        ],
    )
    after = labelled(
        eight,
        label_set("t_shirt", "dog", "emu"),
        [
            (f"{A}-0", "dog", 0.5),
            (f"{A}-1", "dog", 0.7),
            (f"{A}-2", "t_shirt", 0.9),  # the same class
            (f"{A}-3", "emu", 0.6),
            (f"{A}-4", None, 0.3),
            (f"{B}-0", None, 0.2),
            (f"{B}-1", "emu", 0.9),
            (f"{B}-2", "dog", 0.9),  # gone
        ],
    )
    diff = label_diff(eight, before, after)
    assert (diff.images, diff.same, diff.changed) == (6, 1, 2)
    assert (diff.newly_abstained, diff.newly_labelled, diff.abstained_in_both) == (1, 1, 1)
    assert (diff.only_before, diff.only_after) == (0, 1)
    assert diff.mean_score_before == pytest.approx((0.9 + 0.8 + 0.7 + 0.2 + 0.1 + 0.6) / 6)
    assert diff.mean_score_after == pytest.approx((0.5 + 0.7 + 0.9 + 0.6 + 0.3 + 0.2) / 6)
    assert diff.flows == [Flow("cat", "dog", 2), Flow(None, "emu", 1), Flow("dog", None, 1)]
    assert diff.classes == [
        ClassCount("t_shirt", 1, 1),
        ClassCount("dog", 1, 2),
        ClassCount("emu", 0, 1),
        ClassCount("cat", 2, 0),
    ]
    assert (diff.classes_only_before, diff.classes_only_after) == (["cat"], ["emu"])
    told = [(c.path, c.before, c.after, round(c.score_after, 2)) for c in diff.examples]
    assert told == [
        (f"/in/{A}-1", "cat", "dog", 0.7),
        (f"/in/{A}-3", None, "emu", 0.6),
        (f"/in/{A}-0", "cat", "dog", 0.5),
        (f"/in/{B}-0", "dog", None, 0.2),  # what went comes last
    ]
    assert label_diff(eight, before, after, examples=1).examples == diff.examples[:1]
    back = label_diff(eight, after, before)
    assert (back.changed, back.newly_abstained, back.newly_labelled) == (2, 1, 1)
    assert (back.only_before, back.classes_only_before) == (1, ["emu"])


def test_a_run_beside_itself_has_no_changes(eight: Store) -> None:
    table = labelled(eight, FIRST, [(f"{A}-0", "cat", 0.9), (f"{A}-1", None, 0.1)])
    diff = label_diff(eight, table, table)
    assert (diff.images, diff.same, diff.abstained_in_both) == (2, 1, 1)
    assert (diff.flows, diff.examples, diff.only_before) == ([], [], 0)


def test_an_image_with_two_rows_counts_once(eight: Store) -> None:
    before = labelled(eight, FIRST, [(f"{A}-0", "cat", 0.9), (f"{A}-1", "dog", 0.9)])
    [part] = [p for p in eight.parts(before) if eight.rows(before, p)]
    eight.write_part(before, f"{part}-again", eight.read_part(before, part))
    diff = label_diff(eight, before, before)
    assert (diff.images, diff.same, diff.only_before) == (2, 2, 0)


def test_runs_without_a_common_image_or_provenance_are_compared_all_the_same(eight: Store) -> None:
    before = labelled(eight, FIRST, [(f"{A}-0", "dog", 0.9)])
    after = labelled(eight, OTHER, [(f"{A}-1", None, 0.9)])
    eight.delete(f"{before}/run.json")
    eight.delete(f"{after}/run.json")
    diff = label_diff(eight, before, after)
    assert (diff.images, diff.only_before, diff.only_after) == (0, 1, 1)
    assert (diff.mean_score_before, diff.classes_only_before) == (None, ["dog"])


# -- what a person sees ------------------------------------------------------------------------


def test_the_commands_tell_it(command: Command, store: Store) -> None:  # noqa: F811
    where = ("--store", store.location)
    current, previous = states(store)
    listed = command("labels", "list", *where).out
    assert f"{current.run} *" in listed
    assert f"{previous.run} -" in listed
    told: list[dict[str, Any]] = command.json("labels", "list", *where)
    assert [run["run"] for run in told] == [current.run, previous.run]
    assert told[0]["provenance"]["asked"]["label_set"]["classes"][2]["name"] == "emu"
    said = command("labels", "diff", *where).out
    # cat is t_shirt now, and both T-Shirts are emus
    assert "3 of 5 images changed (60.0 %): 3 to another class" in said
    assert "classes only before: cat\n" in said
    by_name = command.json("labels", "diff", previous.run[:8], "current", "--examples", "1", *where)
    assert by_name["flows"][0] == {"before": "T-Shirt", "after": "emu", "images": 2}
    assert len(by_name["examples"]) == 1
    assert json.loads(command("labels", "use", previous.run, "--json", *where).out) == {
        "table": previous.table
    }
    assert current_table(store) == previous.table


def test_a_mistake_is_one_line_and_code_2(command: Command, store: Store) -> None:  # noqa: F811
    for arguments in (("diff", "nonsense"), ("use", "nonsense"), ("diff", "current", "")):
        result = command("labels", *arguments, "--store", store.location)
        assert (result.code, "Traceback" in result.err) == (2, False)
        assert result.err.startswith("error: label run ")
