"""What a config names, loaded: its model once per process, its label set, its decoders."""

import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Config
from pipeline.cores import cores
from pipeline.errors import InputError
from pipeline.label_set import LabelSet, LabelVectors, load_label_set
from pipeline.labels.methods import chosen_method
from pipeline.labels.question import Question
from pipeline.store import Store

if TYPE_CHECKING:  # these load torch, which a run that finds nothing new has no time for
    from pipeline.clip.captioner import Captioner
    from pipeline.clip.device_decoding import DeviceDecoder
    from pipeline.clip.encoder import Encoder
    from pipeline.clip.loading import LoadedModel
    from pipeline.images.decoding import Decode, Fit
    from pipeline.images.fitting import Fitting
    from pipeline.images.workers import Decoders, Finish
    from pipeline.training.heads.base import TextClassifier

_captioners: dict[tuple[str, str, str, bool, int], "Captioner"] = {}
_encoders: dict[tuple[str, str, str, bool], "Encoder"] = {}
_load_seconds: dict[tuple[str, str, str, bool], float] = {}
_loading = threading.Lock()  # two threads must not load one model twice


def encoder(config: Config) -> "Encoder":
    """Return the config's model, loaded once per process."""
    began = time.perf_counter()
    from pipeline.clip.encoder import load_encoder

    wanted, key = config.encoder, _encoder_key(config)
    with _loading:
        if key not in _encoders:
            # Activations are allocated anew for each batch: in pages of 2 MB, page faults cost
            # little. Torch reads this once, when it first takes memory; what the user set stays.
            os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
            _encoders[key] = load_encoder(
                wanted.model,
                device=wanted.device,
                precision=wanted.precision,
                compiled=wanted.compile,
            )
            _load_seconds[key] = time.perf_counter() - began
        return _encoders[key]


def loaded(config: Config) -> "tuple[Encoder, float] | None":
    """Return the config's model and the seconds it took to load, torch included.

    None: it was not loaded in this process yet.
    """
    key = _encoder_key(config)
    return (_encoders[key], _load_seconds[key]) if key in _load_seconds else None


def _encoder_key(config: Config) -> tuple[str, str, str, bool]:
    wanted = config.encoder
    return wanted.model, wanted.device, wanted.precision, wanted.compile


def model_name(config: Config) -> str:
    """Return the name of the config's model, the same from whatever folder."""
    return _whole_name(config.encoder.model)


def captioner_name(config: Config) -> str:
    """Return the name of the config's captioning model, the same from whatever folder."""
    return _whole_name(config.caption.model)


def _whole_name(model: str) -> str:
    kind, _, place = model.partition(":")
    return f"local-dir:{Path(place).absolute()}" if kind == "local-dir" else model


def captioner(config: Config) -> "Captioner":
    """Return the config's model for captions, loaded once per process.

    Raises:
        InputError: it cannot be loaded, or writes no captions.
    """
    from pipeline.clip.captioner import load_captioner

    wanted, runs = config.caption, config.encoder
    key = (captioner_name(config), runs.device, runs.precision, wanted.sample, wanted.seed)
    with _loading:
        if key not in _captioners:
            _captioners[key] = load_captioner(
                key[0],
                device=runs.device,
                precision=runs.precision,
                sample=wanted.sample,
                seed=wanted.seed,
            )
        return _captioners[key]


def label_set(config: Config) -> LabelSet:
    """Return the config's label set."""
    template = config.labels.template
    return load_label_set(config.labels.label_set, (template,) if template else ())


def question(config: Config, store: Store, classes: LabelSet | None = None) -> Question:
    """Return what the config asks of every image of a store.

    Args:
        config: which bars and which method.
        store: its audits may speak for a method.
        classes: the label set; the config's own where it is None.

    Raises:
        InputError: the label set is bad, or lacks the reject prompts that are asked for.
    """
    wanted, classes = config.labels, classes or label_set(config)
    if wanted.unknown == "reject" and not classes.reject:
        raise InputError(
            f'labels.unknown = "reject": label set {classes.name!r} has no reject prompts; '
            'give it some, such as reject = ["a photo of something else"]'
        )
    if wanted.refine == "none" and classes.shares:
        raise InputError(
            f'label set {classes.name!r} gives counts, and labels.refine = "none" would not use '
            "them: leave one of the two out"
        )
    return Question(
        label_set=classes,
        top_k=wanted.top_k,
        abstain_below=wanted.abstain_below,
        refine=chosen_method(store, classes) if wanted.refine == "auto" else wanted.refine,
        unknown=wanted.unknown,
        unknown_above=wanted.unknown_above,
    )


def label_vectors(config: Config) -> LabelVectors:
    """Embed the config's label set, without a store to keep the vectors in."""
    from pipeline.clip.prompts import embed_labels

    return embed_labels(label_set(config), encoder(config))


def stored_label_vectors(
    config: Config, store: Store, classes: LabelSet | None = None
) -> LabelVectors:
    """Return the vectors of a label set, the config's own where it is None, from the store's cache.

    The first time they are made: only then is the model loaded.
    """
    from pipeline.clip.prompts import cached_label_vectors

    return cached_label_vectors(store, classes or label_set(config), lambda: encoder(config))


def text_classifier(
    config: Config, store: Store, classes: LabelSet
) -> "tuple[TextClassifier, LabelVectors]":
    """Return what the texts of a label set say of the store's images, and `stored_label_vectors`.

    Raises:
        InputError: the store holds no embeddings yet.
    """
    from pipeline.training.heads.base import TextClassifier

    identity = store.identity()
    if identity is None:
        raise InputError(f"{store.location}: holds no embeddings yet; `pseudolabel run` makes them")
    vectors = stored_label_vectors(config, store, classes)
    names = tuple(classes.names)
    return TextClassifier(names, vectors.classes, identity.logit_scale), vectors


def loaded_model(config: Config) -> "LoadedModel":
    """Load the config's model once more, whole and in full precision: to learn prompts through."""
    from pipeline.clip.loading import load_model

    return load_model(config.encoder.model)


def decoders(config: Config, processes: int) -> "Decoders":
    """Return what decodes and fits pictures for the config's model, in processes where it must."""
    fitting = encoder(config).fit
    if config.encoder.decode == "exact":
        return decoders_for(config, fitting, processes)
    from pipeline.clip.resizing import finisher

    return _fast_decoders(config, fitting, processes, finisher(fitting))


def thumbnail_decoders(config: Config) -> "Decoders":
    """Return what makes `contact_sheet.THUMBNAIL`s, without torch, in processes where it must."""
    from pipeline.images.thumbnails import finisher
    from pipeline.reports.contact_sheet import THUMBNAIL

    processes = config.run.decode_workers or cores()
    return _fast_decoders(config, THUMBNAIL, processes, finisher(THUMBNAIL))


def _fast_decoders(
    config: Config, fitting: "Fitting", processes: int, finish: "Finish"
) -> "Decoders":
    from pipeline.images.fitting import Rough
    from pipeline.images.jpegs import decode_here

    rough = Rough(fitting)
    here = partial(decode_here, rough=rough, max_pixels=config.scan.max_pixels)
    return decoders_for(config, rough, processes, finish=finish, here=here)


def device_decoder(config: Config, usual: "Decode") -> "DeviceDecoder":
    """Return what decodes JPEGs where the config's model runs, and has `usual` do the rest."""
    from pipeline.clip.device_decoding import DeviceDecoder

    return DeviceDecoder(encoder(config), usual, max_pixels=config.scan.max_pixels)


def require_device(config: Config) -> None:
    """See that the config's decoder has the device it needs, before the model is loaded.

    Raises:
        InputError: there is none.
    """
    if config.encoder.decode == "gpu":
        from pipeline.clip.device_decoding import require_gpu

        require_gpu(config.encoder.device)


def decoders_for(config: Config, fit: "Fit", processes: int, **more: Any) -> "Decoders":
    """Return processes that decode and fit pictures in some other way."""
    from pipeline.images.workers import Decoders

    return Decoders(
        fit,
        max_pixels=config.scan.max_pixels,
        processes=processes,
        timeout=config.scan.decode_seconds,
        **more,
    )
