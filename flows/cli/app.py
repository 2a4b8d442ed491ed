"""Every command with its options. What a command needs is imported when it runs."""

from typing import Annotated

import typer

from flows.cli.invocation import invocation
from flows.cli.options import (
    JsonOption,
    LossOption,
    PlanOption,
    PrefectOption,
    SetOption,
    YesOption,
)

app = typer.Typer(
    name="sealift",
    help="Moves running virtual machines to another cloud without losing a write.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # laying help out with rich costs 0.3 s
    epilog="sealift help exit-codes | environment | json | recovery tells more.",
)


@app.command(epilog="Example: sealift replicate --plan web.yaml")
def replicate(
    plan: PlanOption = None,
    sets: SetOption = None,
    on_tracking_loss: LossOption = None,
    prefect: PrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Run one round: afterwards the target has a new durable point."""
    with invocation("replicate", machine=json) as output:
        from flows.cli import plans, prefect_runs, run_commands

        chosen = plans.loaded(plan, sets, on_tracking_loss).plan
        run_commands.replicate(output, chosen, prefect=prefect_runs.wanted(prefect))


@app.command(epilog="Example: sealift migrate --set policy.downtime_budget=10s")
def migrate(
    plan: PlanOption = None,
    sets: SetOption = None,
    on_tracking_loss: LossOption = None,
    prefect: PrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Run rounds until the final sync fits the downtime budget, then hold."""
    with invocation("migrate", machine=json) as output:
        from flows.cli import plans, prefect_runs, run_commands

        chosen = plans.loaded(plan, sets, on_tracking_loss).plan
        run_commands.migrate(output, chosen, prefect=prefect_runs.wanted(prefect))


@app.command(epilog="Example: sealift cutover --yes, and to go back: sealift cutover --undo")
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
    with invocation("cutover", machine=json) as output:
        from flows.cli import plans, prefect_runs, run_commands

        chosen = plans.loaded(plan, sets, on_tracking_loss).plan
        choice = run_commands.CutoverChoice(undo=undo, rounds=not no_rounds, yes=yes)
        run_commands.cutover(output, chosen, choice, prefect=prefect_runs.wanted(prefect))


@app.command(epilog="Example: sealift abandon --yes")
def abandon(
    plan: PlanOption = None,
    sets: SetOption = None,
    yes: YesOption = False,
    prefect: PrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Remove everything that this migration made, on both sides; the source runs on."""
    with invocation("abandon", machine=json) as output:
        from flows.cli import plans, prefect_runs, run_commands

        chosen = plans.loaded(plan, sets).plan
        run_commands.abandon(output, chosen, yes=yes, prefect=prefect_runs.wanted(prefect))
