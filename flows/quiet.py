"""Settings that keep Prefect silent, offline and patient; a setting that the user made stays.

They are read when Prefect is imported, so this runs before that. The same settings stand in
pyproject.toml for the plain `prefect` command.
"""

import logging
import os
import warnings

_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 were once too few
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "pipeline,flows",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # a stage may also run outside a flow
}


def quiet_prefect(level: str = "CRITICAL") -> None:
    """Set the defaults; call it before Prefect is imported.

    Args:
        level: of Prefect's own loggers. The command line shows an error itself, in one line, so it
            asks for CRITICAL; a schedule, whose log is read afterwards, asks for INFO.
    """
    for name, value in {**_SETTINGS, "PREFECT_LOGGING_LEVEL": level}.items():
        os.environ.setdefault(name, value)


def quiet_libraries() -> None:
    """Keep log lines of libraries, which call the root logger, out of a person's sight."""
    shown = logging.StreamHandler()
    shown.setLevel(logging.WARNING)  # a flow has more said than that, to Prefect's log
    logging.basicConfig(level=logging.ERROR, format="%(message)s", handlers=[shown])
    logging.getLogger("pipeline").setLevel(logging.WARNING)
    logging.getLogger("flows").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"(open_clip|torch|prefect|PIL)(\.|$)")
