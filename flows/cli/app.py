"""Every command with its options. What a command needs is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import recovery_app
from flows.cli.examples import examples
from flows.cli.image_app import image
from flows.cli.invocation import invocation, machine_asked
from flows.cli.options import (
    BootOption,
    CloudOption,
    CronOption,
    DemoPrefectOption,
    DirectoryOption,
    JsonOption,
    KindOption,
    LossOption,
    MigrationOption,
    OutputOption,
    OverwriteOption,
    PlanOption,
    PortOption,
    PrefectOption,
    SetOption,
    TargetOption,
    UefiOption,
    YesOption,
)
from flows.cli.repository_app import points, repository
from sealift.errors import UsageError

app = typer.Typer(
    name="sealift",
    invoke_without_command=True,
    add_completion=False,  # sealift completion: without an import of this module
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # laying help out with rich costs 0.3 s
    epilog=examples("sealift config init", "sealift help recovery", "sealift status --json"),
)
config = typer.Typer(
    help="The plan in effect, and a new one.",
    rich_markup_mode=None,
    epilog=examples("sealift config init", "sealift config show"),
)


@app.callback()
def program(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="The same as sealift version.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Moves running virtual machines to another cloud without losing a write."""
    if json:
        machine_asked.set(True)
    if context.invoked_subcommand is not None:
        return
    with invocation("version" if version else "", machine=json) as output:
        if not version:
            raise UsageError("no command is named", next_step="see sealift --help")
        from flows.cli import doctor_command

        doctor_command.version(output)


@app.command(epilog=examples("sealift doctor", "sealift doctor --plan plan.yaml --json"))
def doctor(plan: PlanOption = None, sets: SetOption = None, json: JsonOption = False) -> None:
    """Whether this host can run a migration: tools, packages, folders, sockets."""
    with invocation("doctor", machine=json, plan=plan) as output:
        from flows.cli import doctor_command, plans

        doctor_command.doctor(output, plans.optional(plan, sets))


@app.command(
    epilog=examples(
        "sealift preflight", "sealift preflight --set target.aws.instance_type=m6i.large"
    )
)
def preflight(plan: PlanOption = None, sets: SetOption = None, json: JsonOption = False) -> None:
    """Whether the target would take this machine; makes nothing."""
    with invocation("preflight", machine=json, plan=plan) as output:
        from flows.cli import look_commands, plans

        look_commands.preflight(output, plans.loaded(plan, sets).plan)


@app.command(
    name="plan",
    epilog=examples("sealift plan", "sealift plan --set limits.bandwidth=100MiB/s"),
)
def plan_round(
    plan: PlanOption = None,
    sets: SetOption = None,
    on_tracking_loss: LossOption = None,
    json: JsonOption = False,
) -> None:
    """What the next round would send: bytes, calls, time, cost, ceiling; makes nothing."""
    with invocation("plan", machine=json, plan=plan) as output:
        from flows.cli import look_commands, plans

        look_commands.plan_round(output, plans.loaded(plan, sets, on_tracking_loss).plan)


@app.command(
    epilog=examples("sealift status", "sealift status --id web-01", "sealift status --json")
)
def status(
    plan: PlanOption = None,
    sets: SetOption = None,
    migration: MigrationOption = None,
    json: JsonOption = False,
) -> None:
    """Where a migration stands and what to run next; works beside a run that is active."""
    with invocation("status", machine=json, plan=plan) as output:
        from flows.cli import plans, status_command

        chosen = None if migration else plans.optional(plan, sets)
        status_command.status(output, chosen, migration)


@app.command(
    epilog=examples(
        "sealift replicate --plan web.yaml",
        "sealift replicate --on-tracking-loss full",
        "sealift replicate --plan dr.yaml",
    )
)
def replicate(
    plan: PlanOption = None,
    sets: SetOption = None,
    on_tracking_loss: LossOption = None,
    prefect: PrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Run one round: afterwards the target, or the repository, has a new durable point."""
    with invocation("replicate", machine=json, plan=plan) as output:
        from flows.cli import plans, prefect_runs, replicate_command, run_commands
        from sealift.config import MigrationPlan

        chosen = plans.either(plan, sets, on_tracking_loss).plan
        if isinstance(chosen, MigrationPlan):
            run_commands.replicate(output, chosen, prefect=prefect_runs.wanted(prefect))
        else:
            wanted = prefect_runs.wanted(prefect)
            replicate_command.replicate(output, chosen, prefect=wanted)


@app.command(
    epilog=examples("sealift migrate", "sealift migrate --set policy.downtime_budget=10s --json")
)
def migrate(
    plan: PlanOption = None,
    sets: SetOption = None,
    on_tracking_loss: LossOption = None,
    prefect: PrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Run rounds until the final sync fits the downtime budget, then hold."""
    with invocation("migrate", machine=json, plan=plan) as output:
        from flows.cli import plans, prefect_runs, run_commands

        chosen = plans.loaded(plan, sets, on_tracking_loss).plan
        run_commands.migrate(output, chosen, prefect=prefect_runs.wanted(prefect))


@app.command(
    epilog=examples(
        "sealift cutover --yes",
        "sealift cutover --no-rounds --yes",
        "sealift cutover --undo",
    )
)
def cutover(
    plan: PlanOption = None,
    sets: SetOption = None,
    on_tracking_loss: LossOption = None,
    undo: Annotated[
        bool,
        typer.Option("--undo", envvar="SEALIFT_UNDO", help="Go back from an interrupted cutover."),
    ] = False,
    no_rounds: Annotated[
        bool,
        typer.Option(
            "--no-rounds", envvar="SEALIFT_NO_ROUNDS", help="No more rounds before the final one."
        ),
    ] = False,
    yes: YesOption = False,
    prefect: PrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Move the machine: rounds, stop, final sync, launch. Any failure puts the source back."""
    with invocation("cutover", machine=json, plan=plan) as output:
        from flows.cli import plans, prefect_runs, run_commands

        chosen = plans.loaded(plan, sets, on_tracking_loss).plan
        choice = run_commands.CutoverChoice(undo=undo, rounds=not no_rounds, yes=yes)
        run_commands.cutover(output, chosen, choice, prefect=prefect_runs.wanted(prefect))


@app.command(epilog=examples("sealift abandon --yes"))
def abandon(
    plan: PlanOption = None,
    sets: SetOption = None,
    yes: YesOption = False,
    prefect: PrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Remove everything that this migration made, on both sides; the source runs on."""
    with invocation("abandon", machine=json, plan=plan) as output:
        from flows.cli import plans, prefect_runs, replicate_command, run_commands
        from sealift.config import MigrationPlan

        chosen = plans.either(plan, sets).plan
        if isinstance(chosen, MigrationPlan):
            run_commands.abandon(output, chosen, yes=yes, prefect=prefect_runs.wanted(prefect))
        else:
            replicate_command.abandon(output, chosen, yes=yes)


@app.command(
    epilog=examples(
        "sealift sandbox",
        "sealift sandbox --directory account --json",
        "sealift sandbox --target azure",
    )
)
def sandbox(
    directory: DirectoryOption = None,
    port: PortOption = 0,
    boot: BootOption = False,
    target: CloudOption = "aws",
    json: JsonOption = False,
) -> None:
    """A cloud account of your own, offline, to rehearse a plan with; ends with Ctrl-C."""
    with invocation("sandbox", machine=json) as output:
        from flows.cli import sandbox_command

        sandbox_command.sandbox(output, directory, port, target, boot=boot)


@app.command(
    epilog=examples("sealift demo --output demo-output", "sealift demo --target azure --uefi")
)
def demo(
    output: OutputOption = Path("demo-output"),
    uefi: UefiOption = False,
    target: CloudOption = "aws",
    prefect: DemoPrefectOption = True,
    json: JsonOption = False,
) -> None:
    """Move a live guest to an offline cloud, cut over, boot what landed, count its records."""
    with invocation("demo", machine=json) as told:
        from flows.cli import demo_command
        from sealift.endpoints import Firmware

        firmware = Firmware.UEFI if uefi else Firmware.BIOS
        demo_command.demo(told, output, firmware, target, prefect=prefect)


@app.command(epilog=examples("sealift serve --cron '*/30 * * * *'"))
def serve(
    plan: PlanOption = None,
    sets: SetOption = None,
    cron: CronOption = "*/30 * * * *",
    json: JsonOption = False,
) -> None:
    """Register the plan's flows on the Prefect server and run them here."""
    with invocation("serve", machine=json) as output:
        from flows.cli import plans, serve_command

        serve_command.serve(output, plans.either(plan, sets).plan, cron)


@app.command(epilog=examples("sealift version", "sealift version --json"))
def version(json: JsonOption = False) -> None:
    """Version, sources, targets, tools found."""
    with invocation("version", machine=json) as output:
        from flows.cli import doctor_command

        doctor_command.version(output)


@app.command(epilog=examples("sealift completion bash", "sealift completion fish"))
def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")],
    json: JsonOption = False,
) -> None:
    """The script that lets a shell complete commands, options and names."""
    with invocation("completion", machine=json) as output:
        from flows.cli import completion_command

        completion_command.completion(output, shell)


@app.command(
    name="help",
    epilog=examples("sealift help exit-codes", "sealift help recovery", "sealift help json-schema"),
)
def help_topic(
    context: typer.Context,
    topic: Annotated[
        str | None,
        typer.Argument(help="environment, exit-codes, events, recovery or json-schema."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """More about one topic."""
    with invocation("help", machine=json) as output:
        from flows.cli import help_topics

        help_topics.help_topic(output, topic, context.find_root().command)


@config.command(
    "show",
    epilog=examples("sealift config show", "sealift config show --set limits.bandwidth=10MiB"),
)
def config_show(plan: PlanOption = None, sets: SetOption = None, json: JsonOption = False) -> None:
    """Every field in effect, where its value comes from, and the variable that sets it."""
    with invocation("config show", machine=json) as output:
        from flows.cli import config_commands, plans

        config_commands.show(output, plans.either(plan, sets))


@config.command(
    "init",
    epilog=examples(
        "sealift config init",
        "sealift config init web.yaml --target azure --overwrite",
        "sealift config init dr.yaml --kind replication",
    ),
)
def config_init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("plan.yaml"),
    kind: KindOption = "migration",
    target: TargetOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Write a plan with every field in it, explained."""
    with invocation("config init", machine=json) as output:
        from flows.cli import config_commands

        config_commands.init(output, path, kind, target, overwrite=overwrite)


app.add_typer(config, name="config")
app.add_typer(image, name="image")
app.add_typer(repository, name="repository")
app.add_typer(points, name="points")
recovery_app.register(app)
