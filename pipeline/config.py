"""Every knob in one place, with unit, range and default, checked when made."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import InputError
from pipeline.validation import explain, read_toml


class Section(BaseModel):
    """A group of knobs: unknown keys are refused, values cannot change once made."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )


class EncoderConfig(Section):
    """The CLIP model and how it is run."""

    model: str = Field(
        "ViT-B-32/datacomp_xl_s13b_b90k",
        description="architecture/pretrained tag, architecture/checkpoint file, hf-hub:org/name "
        "or local-dir:folder",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto | cpu | cuda | cuda:1; auto and cuda: all GPUs of this machine",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto | fp32 | bf16 | fp16; auto: the fastest the device does well"
    )
    batch_size: int = Field(
        0, ge=0, description="images per forward pass; 0: the fastest is found while running"
    )
    compile: bool = Field(False, description="torch.compile: slow to start, may run faster")
    decode: Literal["fast", "exact", "gpu"] = Field(
        "fast",
        description="fast (vectors agree to 0.9999) | exact: bit for bit open_clip's preprocessing "
        "| gpu: JPEGs on the GPU",
    )


class ScanConfig(Section):
    """Which files are taken."""

    settle_seconds: float = Field(
        30,
        ge=0,
        le=31_536_000,
        description="a file younger than this, in seconds, waits for the next run",
    )
    decode_seconds: float = Field(
        60, gt=0, description="a file that takes longer to decode is recorded as unreadable"
    )
    max_pixels: int = Field(
        178_956_970,
        ge=1,
        description="larger pictures are recorded as unreadable, not decoded",
    )


class LabelsConfig(Section):
    """What is asked of each image."""

    label_set: str = Field(
        "labels.toml", min_length=1, description='a TOML file, or names: "dog,cat,car"'
    )
    template: str = Field(
        "",
        description='used for every label, such as "an eye with {}"; or a set: one | cifar | '
        "imagenet",
    )
    top_k: int = Field(5, ge=1, description="labels kept per image, likeliest first")
    abstain_below: float = Field(
        0.0, ge=0, le=1, description="an image whose confidence is lower gets no label, 0 to 1"
    )
    refine: Literal["auto", "none", "neighbours", "neighbours-strong", "anchored"] = Field(
        "auto",
        description="auto (neighbours-strong, or what an audit has chosen) | none | neighbours | "
        "neighbours-strong (similar images vote, too; from 300 on) | anchored (all classes there)",
    )
    unknown: Literal["cosine", "mcm", "energy", "reject"] = Field(
        "cosine",
        description="how images that no class fits are told: cosine | mcm | energy | reject",
    )
    unknown_above: float = Field(
        2.0,
        ge=-2,
        le=2,
        description="an image whose unknown_score is higher gets no label; 2: all do",
    )


class SelectConfig(Section):
    """Which labelled images are good enough to train on."""

    min_confidence: float = Field(0.5, ge=0, le=1, description="0 to 1")
    max_per_class: int = Field(5000, ge=1, description="the most confident ones, per class")
    duplicate_cosine: float = Field(
        0.98, gt=0, le=1, description="images at least this similar are near-duplicates"
    )
    valid_share: float = Field(
        0.2, gt=0, lt=1, description="share of the selection held out for early stopping"
    )


class TrainConfig(Section):
    """The multimodal MLP head."""

    every_run: bool = Field(True, description="train after each run that changed the selection")
    side_text: str = Field(
        "none",
        description="none | file-name | shards (key.txt, key.json of tar members) | a CSV file "
        "with the columns path and text",
    )
    hidden: int = Field(256, ge=1, description="width of the hidden layer")
    dropout: float = Field(0.3, ge=0, lt=1, description="0 to 1")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="0 to 1")
    learning_rate: float = Field(1e-3, gt=0, description="of AdamW")
    weight_decay: float = Field(1e-2, ge=0, description="of AdamW")
    batch_size: int = Field(256, ge=2, description="samples per step")
    max_epochs: int = Field(100, ge=1, description="passes over the training split at most")
    patience: int = Field(10, ge=1, description="epochs without a better validation loss")
    seed: int = Field(0, ge=0, description="same seed, same weights")


class CaptionConfig(Section):
    """The model that writes captions (`pseudolabel caption`)."""

    model: str = Field(
        "coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k",
        description="a CoCa of open_clip, named as encoder.model; never used for labels",
    )
    batch_size: int = Field(16, ge=1, description="images written of at once")
    sample: bool = Field(
        False, description="draw each word among the likeliest instead of taking the likeliest"
    )
    seed: int = Field(0, ge=0, description="of these draws: same seed and batch, same words")
    commit_seconds: float = Field(
        60, ge=0, description="work, in seconds, that an interruption may cost"
    )


class RunConfig(Section):
    """Where and in which portions the work is done."""

    engine: Literal["local"] = Field("local", description="local")
    shard_rows: int = Field(8192, ge=1, description="images per task and per part")
    part_rows: int = Field(65_536, ge=1, description="rows of a part that `compact` makes, at most")
    compact_after: int = Field(
        64, ge=0, description="a run that leaves more small parts than this merges them; 0: never"
    )
    decode_workers: int = Field(
        0, ge=0, description="processes that decode images; 0: one per core"
    )


class Config(Section):
    """The whole of `pseudolabel.toml`, and the one parameter of every flow."""

    store: str = Field("store", min_length=1, description="folder that holds every result")
    sources: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        ("images",), description="folders that images arrive in"
    )
    encoder: EncoderConfig = EncoderConfig()
    scan: ScanConfig = ScanConfig()
    labels: LabelsConfig = LabelsConfig()
    select: SelectConfig = SelectConfig()
    train: TrainConfig = TrainConfig()
    caption: CaptionConfig = CaptionConfig()
    run: RunConfig = RunConfig()


def make_config(values: dict[str, Any], where: str = "options") -> Config:
    """Check nested values.

    Raises:
        InputError: names each key, its value and what is allowed.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, where)) from error


def read_config_file(path: Path) -> dict[str, Any]:
    """Read the values of a config file; relative paths in it count from the file's own folder.

    Raises:
        InputError: the file is missing, no TOML, or holds a bad value.
    """
    values = read_toml(path)
    config = make_config(values, where=str(path))  # so that an error names the file, not an option
    base = path.resolve().parent

    def anchored(location: str) -> str:
        return location if "://" in location else str(base / Path(location).expanduser())

    values["store"] = anchored(config.store)
    values["sources"] = [anchored(source) for source in config.sources]
    if config.labels.label_set.endswith(".toml"):
        values.setdefault("labels", {})["label_set"] = anchored(config.labels.label_set)
    for section, model in (("encoder", config.encoder.model), ("caption", config.caption.model)):
        if "model" in values.get(section, {}):
            values[section]["model"] = _anchored_model(model, base)
    if config.train.side_text.endswith(".csv"):
        values["train"]["side_text"] = anchored(config.train.side_text)
    return values


def _anchored_model(model: str, base: Path) -> str:
    kind, colon, place = model.partition(":")
    if colon:  # local-dir:folder, or hf-hub:org/name
        return f"{kind}:{base / Path(place).expanduser()}" if kind == "local-dir" else model
    architecture, _, weights = model.partition("/")
    return f"{architecture}/{base / weights}" if (base / weights).is_file() else model


def commented_toml(config: Config) -> str:
    """Write a config file with every knob and, behind each, what it means."""
    lines = ["# pseudolabel.toml: relative paths count from this file's folder.", ""]
    top = [name for name in Config.model_fields if name in ("store", "sources")]
    lines += [_knob(name, getattr(config, name), Config, width=36) for name in top]
    for name in (name for name in Config.model_fields if name not in top):
        section = getattr(config, name)
        lines += ["", f"[{name}]"]
        fields = type(section).model_fields
        lines += [_knob(field, getattr(section, field), type(section), 36) for field in fields]
    return "\n".join(lines) + "\n"


def _knob(name: str, value: object, section: type[BaseModel], width: int) -> str:
    text = json.dumps(value, ensure_ascii=False)  # JSON's strings, numbers and lists are TOML's
    return f"{f'{name} = {text}':<{width}}  # {section.model_fields[name].description}"
