"""The commands that run by themselves: serve, deploy."""

from typing import Annotated

import typer

from flows.commands import Assignments, ConfigFile, Json

POOL = "pseudolabel"
_LONGEST = 1e9  # seconds, some 30 years: Prefect plans several runs ahead, to the year 9999 at most
Every = Annotated[
    float | None, typer.Option("--every", help="Seconds between runs.", min=1, max=_LONGEST)
]
Cron = Annotated[
    str | None, typer.Option("--cron", help='Such as "0 * * * *", in this machine\'s time zone.')
]


def serve(
    every: Every = None,
    cron: Cron = None,
    watch: Annotated[bool, typer.Option("--watch", help="Run when files arrive.")] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Run on a schedule or on file arrival until stopped, with Prefect's UI."""
    from flows.serving import serve as serve_flow
    from flows.settings import resolve
    from pipeline.errors import InputError

    if (every is not None) + (cron is not None) + watch != 1:
        raise InputError("serve: give one of --every SECONDS, --cron EXPRESSION and --watch")
    resolved = resolve(config, {}, assignments)
    serve_flow(resolved, every=every, cron=cron, watch=watch)


def deploy(
    every: Every = None,
    cron: Cron = None,
    pool: Annotated[
        str, typer.Option("--pool", help="Work pool; made, of type process, where there is none.")
    ] = POOL,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the deployments [default: of the store].")
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Register the flows with a Prefect server (PREFECT_API_URL), for the workers of a pool."""
    from flows.console import out, print_json
    from flows.server import configured_server
    from flows.settings import resolve
    from pipeline.errors import InputError

    if every is not None and cron is not None:
        raise InputError("deploy: give --every SECONDS or --cron EXPRESSION, not both")
    resolved = resolve(config, {}, assignments)
    server = configured_server(needed_by="deploy")
    from flows.schedule import When, deployment_name, register

    made = register(resolved, When(every, cron), name=name or deployment_name(resolved), pool=pool)
    if as_json:
        print_json({"server": server.url, "pool": pool, "deployments": made})
        return
    for deployment in made:
        out.print(f"deployed {deployment}", soft_wrap=True)
    out.print(
        f"run by: prefect worker start --pool {pool} --type process\n"
        f"at once: prefect deployment run '{made[0]}'",
        soft_wrap=True,
    )
