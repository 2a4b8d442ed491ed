"""Options that several commands share.

One rule for their variables, the same as for plan fields: ``SEALIFT_`` and the name in
upper case, ``--on-tracking-loss`` being ``SEALIFT_ON_TRACKING_LOSS``.
"""

from collections.abc import Mapping
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
    typer.Option("--yes", "-y", envvar="SEALIFT_YES", help="Do not ask for a confirmation."),
]
MigrationOption = Annotated[
    str | None,
    typer.Option(
        "--id",
        envvar="SEALIFT_ID",
        metavar="NAME",
        help="A migration in the default state folder, by its name or that of its machine, "
        "instead of a plan.",
    ),
]

KindOption = Annotated[
    str,
    typer.Option(
        "--kind",
        envvar="SEALIFT_KIND",
        metavar="migration|replication",
        help="What the plan is for: to move a machine, or to keep points of it in a repository.",
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        envvar="SEALIFT_TARGET",
        metavar="aws|azure",
        help="The cloud that the plan has examples of. Default: aws for a migration.",
    ),
]
CronOption = Annotated[
    str,
    typer.Option("--cron", envvar="SEALIFT_CRON", help="When replicate runs; never for not."),
]
DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--directory", envvar="SEALIFT_DIRECTORY", help="Where blocks are kept. Default: temporary."
    ),
]
PortOption = Annotated[
    int,
    typer.Option(
        "--port", envvar="SEALIFT_PORT", min=0, max=65535, help="On 127.0.0.1; 0 is a free one."
    ),
]
BootOption = Annotated[
    bool,
    typer.Option(
        "--boot", envvar="SEALIFT_BOOT", help="Really boot what is launched, in an emulator."
    ),
]
CloudOption = Annotated[
    str,
    typer.Option(
        "--target", envvar="SEALIFT_TARGET", metavar="aws|azure", help="Whose offline cloud it is."
    ),
]
OutputOption = Annotated[
    Path,
    typer.Option(
        "--output", envvar="SEALIFT_OUTPUT", help="Folder for plan, picture and consoles."
    ),
]
UefiOption = Annotated[
    bool, typer.Option("--uefi", envvar="SEALIFT_UEFI", help="A guest that boots by UEFI.")
]
DemoPrefectOption = Annotated[
    bool,
    typer.Option(
        "--prefect/--no-prefect", envvar="SEALIFT_PREFECT", help="Run the rounds as a Prefect flow."
    ),
]
StatedOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        envvar="SEALIFT_FORMAT",
        help="Format of the file. A raw disk must be called one; others are known by their mark.",
    ),
]
BackingOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--allow-backing",
        envvar="SEALIFT_ALLOW_BACKING",
        help="A base file that the image may read from. May be repeated.",
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option("--overwrite", envvar="SEALIFT_OVERWRITE", help="Replace an existing file."),
]

OTHER_VARIABLES: Mapping[str, str] = {
    "AWS_...": "Credentials, profile, region and AWS_ENDPOINT_URL, as the AWS SDK documents them; "
    "target.aws.profile, region and endpoint of a plan win over them.",
    "AZURE_...": "Credentials, tenant and cloud, as the Azure SDK documents them for its default "
    "chain; so are IDENTITY_ENDPOINT and IDENTITY_HEADER of a managed identity.",
    "COLUMNS": "Width of tables and help, where the terminal does not tell its own.",
    "CURL_CA_BUNDLE": "Like REQUESTS_CA_BUNDLE, where that is not set; of Azure only.",
    "DO_NOT_TRACK": "Prefect reports usage to its makers unless this is set; it is, unless you "
    "set another value.",
    "NO_COLOR": "Set to anything: no colours.",
    "PATH": "Where qemu-img, qemu-nbd and prlimit are looked up.",
    "PREFECT_API_URL": "The Prefect server; when it is set, runs are flows of that server.",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "Like DO_NOT_TRACK, for a Prefect server: false, unless "
    "you set another value.",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "How long a run as a flow waits for its "
    "temporary Prefect server: 300, unless you set another value.",
    "REQUESTS_CA_BUNDLE": "File of authorities for certificates of Azure, and of AWS where the "
    "AWS configuration names none (ca_bundle).",
    "SEALIFT_CACHE": "Folder for the built guest of the demonstration. Default: ~/.cache/sealift.",
    "TMPDIR": "Where tools put what they need for a moment.",
    "XDG_CACHE_HOME": "Indexes of repositories go to sealift below it. Default: ~/.cache.",
    "XDG_RUNTIME_DIR": "Sockets go to sealift below it. Default: /tmp/sealift-UID.",
    "XDG_STATE_HOME": "State and logs go to sealift below it. Default: ~/.local/state.",
}
"""Variables that are neither options nor fields of a plan, and what they do."""

NOT_FIELDS = frozenset(
    f"SEALIFT_{name}"
    for name in (
        "ACCELERATOR",
        "AGENT",
        "ALLOW_BACKING",
        "BOOT",
        "CACHE",
        "CLOUD",
        "COMPRESS",
        "CRON",
        "DIRECTORY",
        "DISK",
        "DROP",
        "FIPS",
        "FORMAT",
        "ID",
        "JSON",
        "KEY_FILE",
        "KEY_VAULT",
        "KIND",
        "KMS",
        "LIMIT",
        "MASS_REMOVAL",
        "NO_ROUNDS",
        "ON_TRACKING_LOSS",
        "OUTPUT",
        "OVERWRITE",
        "PASSPHRASE_FILE",
        "PLAN",
        "PLANNED",
        "PORT",
        "PREFECT",
        "PREVIEW",
        "PROOF",
        "READ_DATA",
        "RECEIPT",
        "RECOVERY",
        "REPACK",
        "SECONDS",
        "SET",
        "SINCE",
        "SOCKET",
        "STILL",
        "TARGET",
        "TCP",
        "TO",
        "TRY_RECOVERY",
        "UEFI",
        "UNDO",
        "WRITABLE",
        "YES",
    )
)
"""Variables with our prefix that are no fields of a plan: options, and the rehearsal's cache."""
