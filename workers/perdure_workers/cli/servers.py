"""Declares the commands that serve: `dev`, `worker`, `api`, and the `demo` that shows them all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AddressOption, AppOption

servers = typer.Typer()


@servers.command(rich_help_panel="Serve")
def dev(
    app: AppOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Temporal's gRPC; 0 takes a free port.")] = 7233,
    ui_port: Annotated[int, typer.Option(min=0, max=65535, help="Temporal's Web UI.")] = 8233,
    api_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Perdure's API. Default: PERDURE_API_PORT, then 8000.", show_default=False),
    ] = None,
    db_file: Annotated[Path, typer.Option(help="Where the Temporal server keeps its state.")] = Path(
        ".perdure/temporal.db"
    ),
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Start no worker.")] = False,
    no_api: Annotated[bool, typer.Option("--no-api", help="Start no API.")] = False,
) -> None:
    """Start Temporal server, API and worker together, for development."""
    from perdure.settings import load_settings
    from perdure_workers.dev import Dev, serve

    settings = load_settings(app=app, api_port=api_port)
    execute(
        serve(
            Dev(
                app=app,
                port=port,
                ui_port=ui_port,
                api_port=settings.api_port,
                db_file=db_file,
                worker=not no_worker,
                api=not no_api,
            ),
            settings,
        )
    )


@servers.command(rich_help_panel="Serve")
def worker(
    app: AppOption = None,
    address: AddressOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Serve nothing; tell whether a worker of this host polls, and end.")
    ] = False,
) -> None:
    """Serve runs: poll the task queue until stopped."""
    from perdure_workers.cli.actions.worker import check_worker, serve_worker

    execute(check_worker(address=address) if check else serve_worker(app=app, address=address))


@servers.command(rich_help_panel="Serve")
def api(
    app: AppOption = None,
    address: AddressOption = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Listen here; beyond loopback it needs PERDURE_AUTH=required. Default: PERDURE_API_HOST, then "
            "127.0.0.1.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Default: PERDURE_API_PORT, then 8000; 0 takes a free port.", show_default=False
        ),
    ] = None,
) -> None:
    """Serve the HTTP API."""
    from perdure_workers.cli.actions.api import serve_api

    execute(serve_api(app=app, address=address, host=host, port=port))


@servers.command(rich_help_panel="Start")
def demo() -> None:
    """See a real run cross an approval and a crash, on a server of its own."""
    from perdure_workers.demo import play

    execute(play())
