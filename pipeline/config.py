"""Every knob in one place, with unit, range and default, checked when made."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from pipeline.errors import InputError
from pipeline.homes import without_tilde
from pipeline.knobs_of_api import ApiConfig
from pipeline.knobs_of_run import RunConfig
from pipeline.notice import MetricsConfig, NotifyConfig
from pipeline.sections import (
    CaptionConfig,
    EncoderConfig,
    IndexConfig,
    LabelsConfig,
    ScanConfig,
    Section,
    SelectConfig,
    TrainConfig,
)
from pipeline.validation import explain, read_toml


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
    index: IndexConfig = IndexConfig()
    run: RunConfig = RunConfig()
    api: ApiConfig = ApiConfig()
    metrics: MetricsConfig = MetricsConfig()
    notify: NotifyConfig = NotifyConfig()


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
    return _anchor(values, config, path.resolve().parent)


def anchored(config: Config, base: Path) -> Config:
    """Return a config whose relative paths count from `base`, for whoever runs it elsewhere."""
    return make_config(_anchor(config.model_dump(), config, base))


def _anchor(values: dict[str, Any], config: Config, base: Path) -> dict[str, Any]:
    """Make the relative paths in the values of a config absolute, as far as these are given."""

    def whole(location: str) -> str:
        return location if "://" in location else str(base / without_tilde(location))

    values["store"] = whole(config.store)
    values["sources"] = [whole(source) for source in config.sources]
    if config.labels.label_set.endswith(".toml"):
        values.setdefault("labels", {})["label_set"] = whole(config.labels.label_set)
    for section, model in (("encoder", config.encoder.model), ("caption", config.caption.model)):
        if "model" in values.get(section, {}):
            values[section]["model"] = _anchored_model(model, base)
    if config.metrics.file:
        values["metrics"]["file"] = whole(config.metrics.file)
    if config.select.truth:
        values["select"]["truth"] = whole(config.select.truth)
    if config.train.side_text.casefold().endswith((".csv", ".parquet")):
        values["train"]["side_text"] = whole(config.train.side_text)
    if config.train.side_columns:
        values["train"]["side_columns"] = whole(config.train.side_columns)
    return values


def _anchored_model(model: str, base: Path) -> str:
    kind, colon, place = model.partition(":")
    if colon:  # local-dir:folder, or hf-hub:org/name
        return f"{kind}:{base / without_tilde(place)}" if kind == "local-dir" else model
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
