"""The command `api`: a store as a service."""

from typing import Annotated

import typer

from flows.commands import Assignments, ConfigFile, Device, Model, Precision, StoreFolder


def api(
    store: StoreFolder = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="0: any that is free; it is printed.")
    ] = None,
    model: Model = None,
    device: Device = None,
    precision: Precision = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Serve search, labels and thumbnails of a store over HTTP, until stopped."""
    import logging

    from flows.api.server import serve
    from flows.console import notes
    from flows.settings import resolve

    given = {
        "store": store,
        "api.host": host,
        "api.port": port,
        "encoder.model": model,
        "encoder.device": device,
        "encoder.precision": precision,
    }
    resolved = resolve(config, given, assignments)
    _log()
    notes.print(f"loading {resolved.store} and {resolved.encoder.model} ...", soft_wrap=True)
    serve(
        resolved,
        lambda url: notes.print(
            f"serving {resolved.store} on {url} (docs: {url}/docs); Ctrl-C stops", soft_wrap=True
        ),
    )
    logging.getLogger("flows.api").info("stopped")


def _log() -> None:
    """Log the service's own lines with their time, on standard error."""
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    service = logging.getLogger("flows.api")
    service.setLevel(logging.INFO)
    service.addHandler(handler)
    service.propagate = False
