"""Commands that bring a point back: restore, mount, drill. Registered by ``flows.cli.app``."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.examples import examples
from flows.cli.invocation import invocation
from flows.cli.options import JsonOption, PlanOption, PrefectOption, SetOption, YesOption
from flows.cli.repository_app import PointArgument

DiskOption = Annotated[
    str | None,
    typer.Option("--disk", envvar="SEALIFT_DISK", help="One disk of the point. Default: all."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command(
        epilog=examples(
            "sealift restore newest --plan dr.yaml --to restored",
            "sealift restore newest --plan dr.yaml --disk vda --to vda.qcow2 --format qcow2",
        )
    )(restore)
    app.command(
        epilog=examples(
            "sealift verify --plan dr.yaml", "sealift verify --plan dr.yaml --read-data 0.1"
        )
    )(verify)
    app.command(
        epilog=examples(
            "sealift failover newest --plan dr.yaml --yes",
            "sealift failover --planned --plan dr.yaml --yes",
            "sealift failover --planned --undo --plan dr.yaml",
        )
    )(failover)
    app.command(epilog=examples("sealift watch --plan dr.yaml --set rpo=1h"))(watch)
    app.command(
        epilog=examples(
            "sealift mount newest --plan dr.yaml --disk vda",
            "sealift mount newest --plan dr.yaml --disk vda --writable",
        )
    )(mount)
    app.command(
        epilog=examples(
            "sealift drill newest --plan dr.yaml --proof login: --output drills",
            "sealift drill newest --plan dr.yaml --still 3",
            "sealift drill newest --plan dr.yaml --try-recovery code.txt",
        )
    )(drill)


def restore(
    point: PointArgument,
    plan: PlanOption = None,
    sets: SetOption = None,
    disk: DiskOption = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            envvar="SEALIFT_TO",
            help="A new file for one disk; without --disk a folder for all.",
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", "-f", envvar="SEALIFT_FORMAT", help="raw, qcow2, vmdk, vhd or vhdx."
        ),
    ] = "raw",
    cloud: Annotated[
        bool,
        typer.Option(
            "--cloud",
            envvar="SEALIFT_CLOUD",
            help="Into the plan's target instead: EBS snapshots of AWS, managed disks of Azure.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write disks of a point into files, or into the plan's target; whole or not at all."""
    with invocation("restore", machine=json, plan=plan) as output:
        from flows.cli import plans, restore_command

        asked = restore_command.Asked(point, disk, to, form, cloud)
        restore_command.restore(output, plans.replication(plan, sets).plan, asked)


def verify(
    plan: PlanOption = None,
    sets: SetOption = None,
    read_data: Annotated[
        float,
        typer.Option(
            "--read-data",
            envvar="SEALIFT_READ_DATA",
            help="Share of the packs that are read as a whole, 0 to 1; chosen at random.",
        ),
    ] = 1.0,
    json: JsonOption = False,
) -> None:
    """Read what points stand on and prove every chunk; names the points that are damaged."""
    with invocation("verify", machine=json, plan=plan) as output:
        from flows.cli import plans, upkeep_commands

        chosen = plans.replication(plan, sets).plan
        upkeep_commands.check(output, chosen, "verify", read_data)


def failover(
    point: PointArgument = "newest",
    plan: PlanOption = None,
    sets: SetOption = None,
    planned: Annotated[
        bool,
        typer.Option(
            "--planned",
            envvar="SEALIFT_PLANNED",
            help="The source is there: stop it, sync it once more, start that elsewhere.",
        ),
    ] = False,
    undo: Annotated[
        bool,
        typer.Option(
            "--undo", envvar="SEALIFT_UNDO", help="Go back from an interrupted planned failover."
        ),
    ] = False,
    yes: YesOption = False,
    prefect: PrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Start a machine from a point in the plan's account, the source being gone or stopped for it.

    A planned failover loses nothing, and any failure of it puts the source back to work.
    """
    with invocation("failover", machine=json, plan=plan) as output:
        from flows.cli import failover_command, plans, prefect_runs

        chosen = plans.replication(plan, sets).plan
        choice = failover_command.FailoverChoice(point, planned, undo, yes)
        with_prefect = prefect_runs.wanted(prefect)
        failover_command.run_failover(output, chosen, choice, prefect=with_prefect)


def watch(plan: PlanOption = None, sets: SetOption = None, json: JsonOption = False) -> None:
    """Whether the newest point is as young as the plan's rpo demands; exit code 65 when not."""
    with invocation("watch", machine=json, plan=plan) as output:
        from flows.cli import plans, watch_command

        watch_command.watch(output, plans.replication(plan, sets).plan)


def mount(
    point: PointArgument,
    plan: PlanOption = None,
    sets: SetOption = None,
    disk: DiskOption = None,
    socket: Annotated[
        Path | None,
        typer.Option(
            "--socket",
            envvar="SEALIFT_SOCKET",
            help="Path of the Unix socket. Default: one in a new folder that only you may enter.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            envvar="SEALIFT_PORT",
            min=0,
            max=65535,
            help="A port of 127.0.0.1 instead, which every user of this host can read; 0 is a "
            "free one.",
        ),
    ] = None,
    writable: Annotated[
        bool,
        typer.Option(
            "--writable",
            envvar="SEALIFT_WRITABLE",
            help="Take writes into a layer in $TMPDIR that is gone at the end.",
        ),
    ] = False,
    limit: Annotated[
        str,
        typer.Option(
            "--limit", envvar="SEALIFT_LIMIT", help="Most bytes of that layer, for each disk."
        ),
    ] = "1GiB",
    json: JsonOption = False,
) -> None:
    """Serve a point over NBD without copying it first; ends with Ctrl-C. The point is only read."""
    with invocation("mount", machine=json, plan=plan) as output:
        from flows.cli import mount_command, plans

        chosen = plans.replication(plan, sets).plan
        where = mount_command.Where(socket, port, limit if writable else None)
        mount_command.mount(output, chosen, point, disk, where)


def drill(
    point: PointArgument,
    plan: PlanOption = None,
    sets: SetOption = None,
    proof: Annotated[
        str | None,
        typer.Option(
            "--proof",
            envvar="SEALIFT_PROOF",
            help="Regular expression that has to appear on the serial console. Default, as of the "
            "options below: what the plan says under drill.",
        ),
    ] = None,
    agent: Annotated[
        bool,
        typer.Option(
            "--agent", envvar="SEALIFT_AGENT", help="The guest agent has to answer, instead."
        ),
    ] = False,
    tcp: Annotated[
        int | None,
        typer.Option(
            "--tcp",
            envvar="SEALIFT_TCP",
            min=1,
            max=65535,
            help="This port of the guest has to take a connection, instead; the guest gets a "
            "network card that leads nowhere else.",
        ),
    ] = None,
    still: Annotated[
        float | None,
        typer.Option(
            "--still",
            envvar="SEALIFT_STILL",
            min=1.0,
            help="The screen has to show something and stand still for so many seconds, instead.",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", envvar="SEALIFT_SECONDS", min=1.0, help="How long the proof may take."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            envvar="SEALIFT_OUTPUT",
            help="Folder for the picture and the console. Default: the plan's, or drills.",
        ),
    ] = None,
    accelerator: Annotated[
        str | None,
        typer.Option(
            "--accelerator", envvar="SEALIFT_ACCELERATOR", help="kvm, tcg, or kvm:tcg for either."
        ),
    ] = None,
    try_recovery: Annotated[
        Path | None,
        typer.Option(
            "--try-recovery",
            envvar="SEALIFT_TRY_RECOVERY",
            help="File with a recovery code, or - to type it, that opens the repository instead "
            "of the plan's key. Only when it was tried is kept.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Boot a point in a QEMU that is cut off from everything; the point is only read."""
    with invocation("drill", machine=json, plan=plan) as told:
        from flows.cli import drill_command, plans
        from flows.drilling import Wishes

        chosen = plans.replication(plan, sets).plan
        wishes = Wishes(proof, seconds, output, accelerator, agent=agent, port=tcp, still=still)
        order = wishes.order(chosen.drill, Path("drills"))
        drill_command.run_drill(told, chosen, point, order, try_recovery)
