"""A pydantic error as one sentence for a person: which key, which value, what is allowed."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import InputError


def explain(error: ValidationError, where: str) -> str:
    """Say every fault of `error`, one a line, as "where: key = value: what is allowed"."""
    lines = []
    for fault in error.errors():
        key = ".".join(str(step) for step in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"{where}: {key}: there is no such key")
        elif fault["type"] == "missing":
            lines.append(f"{where}: {key} is missing")
        else:
            told = f"{key} = {fault['input']!r}: " if key else ""
            lines.append(f"{where}: {told}{fault['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        InputError: it is missing, unreadable or no TOML; the message names file and line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error
