"""An audit, step by step: draw and leave a sheet; take answers or a truth; tell what they say."""

import getpass
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from flows.progress import listener
from flows.resources import decoders_for
from pipeline.config import Config
from pipeline.cores import cores
from pipeline.errors import InputError
from pipeline.labels.answers import LABEL, NONE, Given, last_rows, read_answers, record_answers
from pipeline.labels.audit import LEAST_ANSWERS, Sample, bring_up, draw_sample
from pipeline.labels.findings import Findings, find
from pipeline.labels.labelling import current_labels, labels_by_method
from pipeline.labels.methods import Choice, choose, keep_choice
from pipeline.labels.refinement import FEWEST
from pipeline.labels.truth import read_truth
from pipeline.locking import writer_lock
from pipeline.opening import open_store
from pipeline.search.index import load_index
from pipeline.search.neighbours import load_neighbourhood, update_neighbours
from pipeline.store import Store

SHEET, PAGE = "audit.csv", "audit.html"


@dataclass(frozen=True)
class DrawSummary:
    """The sample that was drawn, and where its sheet lies."""

    round: int
    images: int
    again: bool  # drawn before, and not answered yet
    csv: str
    page: str


@dataclass(frozen=True)
class AuditSummary:
    """What was taken, and what all answers say together."""

    taken: int  # answers that were new
    by: str
    truth_images: int | None  # labelled images that the truth knows; None: a person answered
    truth_unmatched: int  # images left out, for their true label is none of the label set
    findings: Findings
    choice: Choice | None  # of the way to refine; None: too few images or answers to compare


def leave_sheet(config: Config, *, size: int, seed: int, out: Path, wait: bool) -> DrawSummary:
    """Draw a sample, and write what a person needs to answer it.

    Raises:
        InputError: no labels, nothing left to draw, or a sheet is there already.
        StoreBusyError: another writer holds the store.
    """
    from pipeline.reports.audit_sheet import PICTURE, sheet_csv, sheet_page

    sheet, page = out / SHEET, out / PAGE
    for file in (sheet, page):
        if file.exists():
            raise InputError(
                f"{file}: is there already, and may hold answers: take them with --answers, or "
                "name another folder with --out"
            )
    store = open_store(config.store)
    with writer_lock(store, wait=wait):
        listener.get().stage("draw")
        sample = draw_sample(store, size=size, seed=seed, now=datetime.now(UTC))
    listener.get().stage("pictures")
    classes = current_labels(store).label_set
    with decoders_for(config, PICTURE, cores()) as pool:
        shown = sheet_page(
            sample.images,
            classes.names,
            name=classes.name,
            number=sample.round,
            decode=pool.decode,
        )
    out.mkdir(parents=True, exist_ok=True)
    page.write_text(shown, encoding="utf-8")
    sheet.write_text(sheet_csv(sample.images), encoding="utf-8", newline="")
    return DrawSummary(sample.round, len(sample.images), sample.again, str(sheet), str(page))


def take_answers(config: Config, file: Path, *, by: str | None, wait: bool) -> AuditSummary:
    """Record the answers in a file, and calibrate by all there are.

    Raises:
        InputError: no labels, or a fault in the file.
        StoreBusyError: another writer holds the store.
    """
    store = open_store(config.store)
    who = by or getpass.getuser()
    with writer_lock(store, wait=wait):
        classes = current_labels(store).label_set
        given = read_answers(file, last_rows(store, classes), classes)
        if not given:
            raise InputError(f"{file}: no line has an answer yet")
        taken = record_answers(store, classes, given, by=who, now=datetime.now(UTC))
        choice = _choose(config, store)
        _calibrate(store)
        return AuditSummary(taken, who, None, 0, find(store), choice)


def take_truth(
    config: Config, truth: str, *, size: int | None, seed: int, by: str | None, wait: bool
) -> AuditSummary:
    """Have a truth answer for a random sample of the images it knows, or for all, and calibrate.

    Raises:
        InputError: no labels, or the truth knows no image that is not answered yet.
        StoreBusyError: another writer holds the store.
    """
    store = open_store(config.store)
    who = by or f"truth {truth}"
    with writer_lock(store, wait=wait):
        classes = current_labels(store).label_set
        known = read_truth(store, truth, classes)
        sample: Sample = draw_sample(
            store,
            size=size or len(known.labels),
            seed=seed,
            now=datetime.now(UTC),
            among=set(known.labels),
        )
        ids = sample.images["image_id"].to_list()
        given = [Given(image_id, LABEL, known.labels[image_id]) for image_id in ids]
        taken = record_answers(store, classes, given, by=who, now=datetime.now(UTC))
        choice = _choose(config, store)
        _calibrate(store)
        unmatched = known.unmatched
        return AuditSummary(taken, who, len(known.labels), unmatched, find(store), choice)


def tell(config: Config) -> AuditSummary:
    """Say what the answers there are tell of the labels in force; nothing is written."""
    return AuditSummary(0, "", None, 0, find(open_store(config.store)), None)


def _calibrate(store: Store) -> None:
    listener.get().stage("calibrate")
    bring_up(store, on_progress=lambda images: listener.get().advance(images, 0))


def _choose(config: Config, store: Store) -> Choice | None:
    """Have the answers choose between the ways to refine, and keep what they chose."""
    from flows.resources import encoder
    from pipeline.clip.prompts import cached_label_vectors

    run, identity = current_labels(store), store.identity()
    index = load_index(store, exact=True)
    given = last_rows(store, run.label_set).filter(pl.col("answer").is_in([LABEL, NONE]))
    given = given.filter(pl.col("image_id").is_in(index.ids))
    if identity is None or len(index) < FEWEST or len(given) < LEAST_ANSWERS:
        return None
    listener.get().stage("compare")
    update_neighbours(store, index)
    vectors = cached_label_vectors(store, run.label_set, lambda: encoder(config))
    near = load_neighbourhood(store, index)
    said = labels_by_method(run, vectors, identity, near, given["image_id"].to_list())
    place = {name: at for at, name in enumerate(run.label_set.names)}
    true = np.array([place.get(name, -1) for name in given["label_given"]])
    choice = choose({method: labels == true for method, labels in said.items()})
    keep_choice(store, run.label_set, choice)
    return choice
