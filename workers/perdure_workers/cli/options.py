"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

AppOption = Annotated[
    str | None,
    typer.Option(
        "--app",
        metavar="PKG:APP",
        help="The app: 'package.module:attribute', or an entry point's name. Default: PERDURE_APP, then all installed "
        "entry points of the group perdure.apps.",
        show_default=False,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="The Temporal server. Default: TEMPORAL_ADDRESS, then Temporal's profile, then 127.0.0.1:7233.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)]
ByOption = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who decides. Default: the user of this machine.", show_default=False),
]
