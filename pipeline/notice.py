"""The knobs of who is told what: metrics for a monitor, hooks for an owner."""

import shlex
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pipeline.sections import Section

Hook = str | tuple[str, ...]


class MetricsConfig(Section):
    """Where numbers for a monitor go, beside `metrics/pseudolabel.prom` in the store."""

    file: str = Field(
        "",
        pattern=r"^$|\.prom$",
        description="a local copy in .prom, where node_exporter's textfile collector looks; "
        "empty: none",
    )
    port: int = Field(
        0,
        ge=0,
        le=65535,
        description="where `serve` answers http://127.0.0.1:PORT/metrics; 0: nowhere",
    )


class NotifyConfig(Section):
    """Who is told when a run fails or images drift."""

    on_failure: Hook = Field(
        "",
        description='a command ("notify-me --urgent" or a list of words), given JSON, or the URL '
        "of a webhook; $NAME: from the environment; empty: nobody",
    )
    on_drift: Hook = Field("", description="the same, after a run whose images have drifted")
    drift: Literal["some", "strong"] = Field("some", description="some | strong: from which on")
    timeout_seconds: float = Field(
        30, gt=0, le=600, description="a command that takes longer is killed; of each try"
    )
    tries: int = Field(3, ge=1, le=10, description="of a webhook, 1 s, 2 s, 4 s ... apart")

    @field_validator("on_failure", "on_drift")
    @classmethod
    def _has_words(cls, hook: Hook) -> Hook:
        if isinstance(hook, str) and not is_url(hook):
            try:
                shlex.split(hook)
            except ValueError as error:
                raise ValueError(f"no command: {error}") from error
        return hook


def is_url(hook: Hook) -> bool:
    """Tell whether a hook is a webhook."""
    return isinstance(hook, str) and hook.startswith(("http://", "https://"))


def shown(hook: Hook) -> str:
    """Return what everybody may see of a hook: tokens stand in the rest of a URL or command.

    >>> shown("https://hooks.example/T0/secret"), shown("curl -H 'token: x' there")
    ('https://hooks.example/…', 'curl …')
    """
    if is_url(hook):
        parts = urlsplit(str(hook))
        return f"{parts.scheme}://{parts.hostname or ''}/…"
    told = words(hook)
    return (told[0] + (" …" if len(told) > 1 else "")) if told else ""


def words(hook: Hook) -> list[str]:
    """Return a command's words.

    >>> words("notify 'my store'"), words(("echo", "a b"))
    (['notify', 'my store'], ['echo', 'a b'])
    """
    return shlex.split(hook) if isinstance(hook, str) else list(hook)
