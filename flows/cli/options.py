"""Options that several commands share.

One rule for their variables, the same as for plan fields: ``SEALIFT_`` and the name in
upper case, ``--on-tracking-loss`` being ``SEALIFT_ON_TRACKING_LOSS``.
"""

from pathlib import Path
from typing import Annotated

import typer

PlanOption = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        "-p",
        envvar="SEALIFT_PLAN",
        help="The plan file. Default: plan.yaml here, if there is one.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        envvar="SEALIFT_SET",
        metavar="FIELD=VALUE",
        help="Set one field of the plan, as policy.downtime_budget=1min. May be repeated.",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", envvar="SEALIFT_JSON", help="One JSON object per line, for machines."),
]
LossOption = Annotated[
    str | None,
    typer.Option(
        "--on-tracking-loss",
        envvar="SEALIFT_ON_TRACKING_LOSS",
        metavar="compare|full|stop",
        help="Short for --set policy.on_tracking_loss=...",
    ),
]
PrefectOption = Annotated[
    bool,
    typer.Option(
        "--prefect",
        envvar="SEALIFT_PREFECT",
        help="Run as a Prefect flow; implied when PREFECT_API_URL is set.",
    ),
]
YesOption = Annotated[
    bool,
    typer.Option("--yes", "-y", envvar="SEALIFT_YES", help="Do not ask for the machine's name."),
]
MigrationOption = Annotated[
    str | None,
    typer.Option(
        "--id",
        envvar="SEALIFT_ID",
        metavar="MIGRATION",
        help="A migration in the default state folder, instead of a plan.",
    ),
]

NOT_FIELDS = frozenset(
    f"SEALIFT_{name}"
    for name in (
        "CACHE",
        "DIRECTORY",
        "EXIT_CODE",
        "FORCE",
        "FORMAT",
        "ID",
        "JSON",
        "NO_ROUNDS",
        "ON_TRACKING_LOSS",
        "OVERWRITE",
        "PLAN",
        "PORT",
        "PREFECT",
        "SET",
        "TARGET_FORMAT",
        "UNDO",
        "YES",
    )
)
"""Variables with our prefix that are options of the command, not fields of the plan."""
