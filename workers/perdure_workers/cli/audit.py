"""Declares `audit …`: whether it is as it was written, and what it says."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AddressOption, JsonOption

audit = typer.Typer(no_args_is_help=True, help="Verify and read the audit.")

MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]

UrlOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where it is, as in file:///var/lib/perdure/audit or s3://bucket/prefix. Default: PERDURE_AUDIT_URL, "
        "then what 'perdure dev' keeps in this folder.",
        show_default=False,
    ),
]
OrgOption = Annotated[
    list[str] | None,
    typer.Option(
        "--org",
        metavar="ORG",
        help="Only this organisation's chain; '-' for what belongs to none. Repeatable. Default: all chains.",
        show_default=False,
    ),
]


@audit.command()
def verify(
    url: UrlOption = None,
    org: OrgOption = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask Temporal where the chains once ended.")
    ] = False,
    histories: Annotated[
        bool, typer.Option("--histories", help="Also look whether all that Temporal's histories tell is recorded.")
    ] = False,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Say whether every record is as it was written, and name those that are not."""
    from perdure_workers.cli.actions.audit import verify_audit

    execute(verify_audit(url=url, orgs=org, offline=offline, histories=histories, as_json=as_json, address=address))


@audit.command()
def export(
    since: Annotated[
        datetime | None,
        typer.Option("--from", formats=MOMENTS, help="Facts from this moment on, in UTC.", show_default=False),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--to", formats=MOMENTS, help="Facts before this moment, in UTC.", show_default=False),
    ] = None,
    org: OrgOption = None,
    kind: Annotated[
        str | None, typer.Option(help="As in tool.called, or tool for all of a tool's.", show_default=False)
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Only of this run.", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file.", show_default=False)
    ] = None,
    url: UrlOption = None,
) -> None:
    """Print records as JSON lines, in the order of their chains."""
    from perdure_workers.cli.actions.audit import export_audit

    execute(export_audit(url=url, orgs=org, since=since, until=until, kind=kind, run=run, output=output))
