"""``sealift serve``: this host runs the plan's flows when a Prefect server says so."""

import os
from contextlib import suppress

from flows.cli.lines import Deployed
from flows.cli.output import Output
from flows.cli.summaries import Ended
from sealift.config_load import AnyPlan
from sealift.errors import UsageError


def serve(output: Output, plan: AnyPlan, cron: str) -> None:
    """Register the plan's deployments and serve them until a signal comes.

    Raises:
        UsageError: no server is configured, or the schedule is none.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise UsageError(
            "no Prefect server is configured",
            next_step="prefect server start --host 127.0.0.1, then export "
            "PREFECT_API_URL=http://127.0.0.1:4200/api",
        )
    from prefect import serve as prefect_serve

    from flows.deployments import deployments

    schedule = None if cron.strip().lower() in ("", "never", "off") else cron
    try:
        made = deployments(plan, schedule)
    except ValueError as error:
        raise UsageError(
            f"--cron {cron}: {error}", next_step="write for example */30 * * * *"
        ) from None
    with suppress(KeyboardInterrupt):  # Ctrl-C is how it ends, also before Prefect listens to it
        for deployment in made:
            output.emit(Deployed(flow=str(deployment.flow_name), name=deployment.name))
            output.say(f"{deployment.flow_name}/{deployment.name}")
        prefect_serve(*made, pause_on_shutdown=False, print_starting_message=not output.machine)
    output.summary(Ended(command="serve", text="no longer served"))
