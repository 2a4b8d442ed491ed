"""``sealift repository`` and ``sealift points``: commands on what is kept."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.examples import examples
from flows.cli.invocation import invocation
from flows.cli.options import JsonOption, PlanOption, SetOption, YesOption

repository = typer.Typer(
    help="A sealed repository of recovery points.",
    rich_markup_mode=None,
    epilog=examples("sealift repository init --plan dr.yaml"),
)
keys = typer.Typer(
    help="What opens a repository.",
    rich_markup_mode=None,
    epilog=examples("sealift repository keys list --plan dr.yaml"),
)
points = typer.Typer(
    help="The recovery points of a repository.",
    rich_markup_mode=None,
    epilog=examples("sealift points list --plan dr.yaml"),
)
repository.add_typer(keys, name="keys")

PointArgument = Annotated[
    str, typer.Argument(help="The beginning of a point's id, or newest.", metavar="POINT")
]


@repository.command(
    "init",
    epilog=examples(
        "sealift repository init --plan dr.yaml",
        "sealift repository init --plan dr.yaml --recovery code.txt",
    ),
)
def init(
    plan: PlanOption = None,
    sets: SetOption = None,
    recovery: Annotated[
        Path | None,
        typer.Option(
            "--recovery",
            envvar="SEALIFT_RECOVERY",
            help="New file for a recovery code: print it, lock it away, delete the file.",
        ),
    ] = None,
    fips: Annotated[
        bool,
        typer.Option(
            "--fips", envvar="SEALIFT_FIPS", help="Approved algorithms only: HMAC and PBKDF2."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make the repository that the plan names; what the plan names as key opens it."""
    with invocation("repository init", machine=json, plan=plan) as output:
        from flows.cli import plans, repository_commands

        chosen = plans.replication(plan, sets).plan
        repository_commands.init(output, chosen, recovery, fips=fips)


@repository.command("check", epilog=examples("sealift repository check --plan dr.yaml"))
def check(plan: PlanOption = None, sets: SetOption = None, json: JsonOption = False) -> None:
    """Whether everything that points need is there; sealift verify also reads the data."""
    with invocation("repository check", machine=json, plan=plan) as output:
        from flows.cli import plans, upkeep_commands

        chosen = plans.replication(plan, sets).plan
        upkeep_commands.check(output, chosen, "repository check", 0.0)


@repository.command(
    "prune",
    epilog=examples(
        "sealift repository prune --plan dr.yaml --preview",
        "sealift repository prune --plan dr.yaml",
        "sealift repository prune --plan dr.yaml --repack",
    ),
)
def prune(
    plan: PlanOption = None,
    sets: SetOption = None,
    preview: Annotated[
        bool,
        typer.Option("--preview", envvar="SEALIFT_PREVIEW", help="Only say what would go."),
    ] = False,
    mass_removal: Annotated[
        bool,
        typer.Option(
            "--mass-removal",
            envvar="SEALIFT_MASS_REMOVAL",
            help="More than a fifth of the points may go at once.",
        ),
    ] = False,
    repack: Annotated[
        bool,
        typer.Option(
            "--repack",
            envvar="SEALIFT_REPACK",
            help="Also move what is needed out of packs that are mostly not: reads them, and "
            "needs a credential that writes.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Drop points that retention does not keep; delete what none needs, after a quarantine."""
    with invocation("repository prune", machine=json, plan=plan) as output:
        from flows.cli import plans, upkeep_commands

        chosen = plans.replication(plan, sets).plan
        upkeep_commands.prune(
            output, chosen, preview=preview, mass_removal=mass_removal, repack=repack
        )


@repository.command(
    "check-store",
    epilog=examples(
        "sealift repository check-store --plan dr.yaml",
        "sealift repository check-store -p dr.yaml --json",
    ),
)
def check_store(plan: PlanOption = None, sets: SetOption = None, json: JsonOption = False) -> None:
    """Try what the plan's bucket or folder really keeps; below a name of its own, removed after."""
    with invocation("repository check-store", machine=json, plan=plan) as output:
        from flows.cli import check_store_command, plans

        check_store_command.check_store(output, plans.replication(plan, sets).plan)


@repository.command(
    "repair",
    epilog=examples(
        "sealift repository repair --plan dr.yaml --preview",
        "sealift repository repair --plan dr.yaml",
    ),
)
def repair(
    plan: PlanOption = None,
    sets: SetOption = None,
    preview: Annotated[
        bool,
        typer.Option("--preview", envvar="SEALIFT_PREVIEW", help="Only say what would be done."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make a lost or damaged index anew from the packs; deletes nothing."""
    with invocation("repository repair", machine=json, plan=plan) as output:
        from flows.cli import plans, upkeep_commands

        chosen = plans.replication(plan, sets).plan
        upkeep_commands.repair(output, chosen, preview=preview)


@repository.command(
    "undelete",
    epilog=examples(
        "sealift repository undelete --plan dr.yaml --since 2026-05-01T08:30 --preview"
    ),
)
def undelete(
    since: Annotated[
        str,
        typer.Option(
            "--since",
            envvar="SEALIFT_SINCE",
            help="When it began, in UTC: what was deleted or overwritten before stays so.",
        ),
    ],
    plan: PlanOption = None,
    sets: SetOption = None,
    preview: Annotated[
        bool,
        typer.Option("--preview", envvar="SEALIFT_PREVIEW", help="Only say what would be done."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Undo deletes and overwrites in a versioned bucket, with its owner's credential."""
    with invocation("repository undelete", machine=json, plan=plan) as output:
        from flows.cli import plans, undelete_command

        chosen = plans.replication(plan, sets).plan
        undelete_command.undelete(output, chosen, since, preview=preview)


@repository.command("reseal", epilog=examples("sealift repository reseal --plan dr.yaml"))
def reseal(plan: PlanOption = None, sets: SetOption = None, json: JsonOption = False) -> None:
    """Seal all that points need under the keys of the newest epoch: reads and stores all of it.

    Beside other runs, and again after any failure: what is done stays done.
    """
    with invocation("repository reseal", machine=json, plan=plan) as output:
        from flows.cli import plans, upkeep_commands

        upkeep_commands.reseal(output, plans.replication(plan, sets).plan)


@keys.command(
    "list",
    epilog=examples(
        "sealift repository keys list --plan dr.yaml",
        "sealift repository keys list -p dr.yaml --json",
    ),
)
def keys_list(plan: PlanOption = None, sets: SetOption = None, json: JsonOption = False) -> None:
    """Every secret that opens the repository, and whether its slot is whole."""
    with invocation("repository keys list", machine=json, plan=plan) as output:
        from flows.cli import plans, repository_commands

        repository_commands.keys_list(output, plans.replication(plan, sets).plan)


KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file", envvar="SEALIFT_KEY_FILE", help="A key file; made when it is not there."
    ),
]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        envvar="SEALIFT_PASSPHRASE_FILE",
        help="A file whose first line is a passphrase.",
    ),
]
RecoveryOption = Annotated[
    Path | None,
    typer.Option(
        "--recovery",
        envvar="SEALIFT_RECOVERY",
        help="New file for a recovery code: print it, lock it away, delete the file.",
    ),
]
KmsOption = Annotated[
    str | None,
    typer.Option("--kms", envvar="SEALIFT_KMS", help="Id, alias or ARN of an AWS KMS key."),
]
KeyVaultOption = Annotated[
    str | None,
    typer.Option(
        "--key-vault",
        envvar="SEALIFT_KEY_VAULT",
        help="Identifier of an RSA key of Azure Key Vault, as "
        "https://NAME.vault.azure.net/keys/KEY.",
    ),
]


@keys.command(
    "add",
    epilog=examples(
        "sealift repository keys add --plan dr.yaml --recovery code.txt",
        "sealift repository keys add --plan dr.yaml --key-file new.key",
    ),
)
def keys_add(
    plan: PlanOption = None,
    sets: SetOption = None,
    key_file: KeyFileOption = None,
    passphrase_file: PassphraseOption = None,
    recovery: RecoveryOption = None,
    kms: KmsOption = None,
    key_vault: KeyVaultOption = None,
    json: JsonOption = False,
) -> None:
    """Let one more secret open the repository."""
    with invocation("repository keys add", machine=json, plan=plan) as output:
        from flows.cli import plans, repository_commands

        new = repository_commands.NewKey(key_file, passphrase_file, recovery, kms, key_vault)
        repository_commands.keys_add(output, plans.replication(plan, sets).plan, new)


@keys.command(
    "new-epoch",
    epilog=examples(
        "sealift repository keys new-epoch --plan dr.yaml",
        "sealift repository keys new-epoch --plan dr.yaml --recovery code.txt --drop 0123abcd",
    ),
)
def keys_new_epoch(
    plan: PlanOption = None,
    sets: SetOption = None,
    key_file: KeyFileOption = None,
    passphrase_file: PassphraseOption = None,
    recovery: RecoveryOption = None,
    kms: KmsOption = None,
    key_vault: KeyVaultOption = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            "--drop",
            envvar="SEALIFT_DROP",
            help="The beginning of the id of a slot that shall open nothing new.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Seal with a new root key from now on, in slots for the plan's key and one more.

    Every other slot has to be named with --drop: it is removed, and opens old data only for
    whoever kept a copy of it. Old data stays as it is.
    """
    with invocation("repository keys new-epoch", machine=json, plan=plan) as output:
        from flows.cli import plans, repository_commands

        more = repository_commands.NewKey(key_file, passphrase_file, recovery, kms, key_vault)
        chosen = plans.replication(plan, sets).plan
        repository_commands.keys_new_epoch(output, chosen, more, drop or [])


@keys.command("remove", epilog=examples("sealift repository keys remove 0123abcd --plan dr.yaml"))
def keys_remove(
    slot: Annotated[str, typer.Argument(help="The beginning of the slot's id.")],
    plan: PlanOption = None,
    sets: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Remove a slot; never the one that this command was let in by."""
    with invocation("repository keys remove", machine=json, plan=plan) as output:
        from flows.cli import plans, repository_commands

        repository_commands.keys_remove(output, plans.replication(plan, sets).plan, slot)


@points.command(
    "list",
    epilog=examples("sealift points list --plan dr.yaml", "sealift points list -p dr.yaml --json"),
)
def points_list(
    plan: PlanOption = None,
    sets: SetOption = None,
    receipt: Annotated[
        str | None,
        typer.Option(
            "--receipt",
            envvar="SEALIFT_RECEIPT",
            help="Refuse a repository that is not as far as this receipt says it once was.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Every recovery point, the newest last, and a receipt of this state."""
    with invocation("points list", machine=json, plan=plan) as output:
        from flows.cli import plans, points_commands

        points_commands.points_list(output, plans.replication(plan, sets).plan, receipt)


@points.command(
    "show",
    epilog=examples("sealift points show newest --plan dr.yaml"),
)
def points_show(
    point: PointArgument,
    plan: PlanOption = None,
    sets: SetOption = None,
    json: JsonOption = False,
) -> None:
    """What a point is a point of: machine, disks, consistency."""
    with invocation("points show", machine=json, plan=plan) as output:
        from flows.cli import plans, points_commands

        points_commands.points_show(output, plans.replication(plan, sets).plan, point)


@points.command("diff", epilog=examples("sealift points diff newest newest --plan dr.yaml"))
def points_diff(
    first: PointArgument,
    second: PointArgument,
    plan: PlanOption = None,
    sets: SetOption = None,
    json: JsonOption = False,
) -> None:
    """What changed on each disk from the first point to the second."""
    with invocation("points diff", machine=json, plan=plan) as output:
        from flows.cli import plans, points_commands

        chosen = plans.replication(plan, sets).plan
        points_commands.points_diff(output, chosen, first, second)


@points.command("pin", epilog=examples("sealift points pin newest --plan dr.yaml"))
def points_pin(
    point: PointArgument,
    plan: PlanOption = None,
    sets: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Keep a point whatever retention says, until it is unpinned."""
    with invocation("points pin", machine=json, plan=plan) as output:
        from flows.cli import plans, points_changes

        chosen = plans.replication(plan, sets).plan
        points_changes.pin(output, chosen, point, pinned=True)


@points.command("unpin", epilog=examples("sealift points unpin newest --plan dr.yaml"))
def points_unpin(
    point: PointArgument,
    plan: PlanOption = None,
    sets: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Let retention decide on a point again."""
    with invocation("points unpin", machine=json, plan=plan) as output:
        from flows.cli import plans, points_changes

        chosen = plans.replication(plan, sets).plan
        points_changes.pin(output, chosen, point, pinned=False)


@points.command("drop", epilog=examples("sealift points drop 0123abcd --plan dr.yaml --yes"))
def points_drop(
    point: Annotated[str, typer.Argument(help="The beginning of the point's id.", metavar="POINT")],
    plan: PlanOption = None,
    sets: SetOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Give one point up, whatever retention says: never one that is pinned or locked.

    What only it needs is deleted by prunes after the quarantine. Safe beside a running sync: what
    the sync builds on stays.
    """
    with invocation("points drop", machine=json, plan=plan) as output:
        from flows.cli import plans, points_changes

        points_changes.drop(output, plans.replication(plan, sets).plan, point, yes=yes)
