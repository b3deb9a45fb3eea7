"""From a config file and command-line options to one checked config."""

import tomllib
from pathlib import Path
from typing import Any

from pipeline.config import Config, make_config, read_config_file
from pipeline.errors import InputError
from pipeline.opening import known_model

DEFAULT_FILE = Path("pseudolabel.toml")


def resolve(
    file: Path | None, given: dict[str, Any], assignments: list[str] | None = None
) -> Config:
    """Merge, later ones winning: defaults, config file, options, `--set` assignments.

    Args:
        file: as named by the user; None: pseudolabel.toml where the working folder has one.
        given: values by dotted key; None means that the option was not used.
        assignments: "section.key=value" each.

    Raises:
        InputError: names the key, the value and what is allowed.
    """
    if file is None and DEFAULT_FILE.is_file():
        file = DEFAULT_FILE
    values = read_config_file(file) if file else {}
    for key, value in given.items():
        if value is not None:
            _put(values, key, value)
    for assignment in assignments or []:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set {assignment}: write it as section.key=value")
        _put(values, key.strip(), _parse(key.strip(), text.strip()))
    config = make_config(values)
    if "model" not in values.get("encoder", {}):
        known = known_model(config.store)
        if known:  # the store's own model need not be named again
            _put(values, "encoder.model", known)
            config = make_config(values)
    return config


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise InputError(f"--set {key}: {section} is no section")
    values[name] = value


def _parse(key: str, text: str) -> Any:
    """Read a TOML value; what is none, or should be text, is text: quotes are not needed."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return text if _is_text(key) and not isinstance(value, str) else value


def _is_text(key: str) -> bool:
    section, _, name = key.rpartition(".")
    group = Config.model_fields[section].annotation if section in Config.model_fields else Config
    fields = getattr(group, "model_fields", {})
    return name in fields and fields[name].annotation is str
