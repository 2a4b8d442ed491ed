"""``sealift doctor`` and ``sealift version``."""

import os

import sealift
from flows.cli.lines import FORMAT, Checked
from flows.cli.output import Output
from flows.cli.summaries import ChecksPassed, Versions
from flows.doctor import examine
from sealift.config_load import AnyPlan
from sealift.errors import ToolError


def doctor(output: Output, plan: AnyPlan | None) -> None:
    """Look at everything, then say whether it is enough.

    Raises:
        ToolError: something is missing; the first fix is the next step.
    """
    found = examine(plan, os.environ)
    for f in found:
        output.emit(Checked(name=f.what, ok=f.ok, found=f.found, needed=f.needed, next=f.fix))
    rows = [("ok" if f.ok else "FAILED", f.what, f.found, f.needed, f.fix) for f in found]
    output.table("this host", ("", "what", "found", "needed", "fix"), rows)
    failed = [f for f in found if not f.ok]
    if failed:
        names = ", ".join(f.what for f in failed)
        raise ToolError(
            f"{len(failed)} of {len(found)} not in order: {names}",
            next_step=failed[0].fix,
            log="",  # the table has it all
        )
    step = "sealift preflight asks the target" if plan else "sealift doctor --plan plan.yaml"
    text = f"all {len(found)} are in order"
    output.summary(ChecksPassed(command="doctor", text=text, next=step, checks=len(found)))


def version(output: Output) -> None:
    """What this program is and can do."""
    tools = {f.what: f.found for f in examine(None, os.environ) if f.what.startswith("qemu-")}
    output.say(f"sealift {sealift.__version__}")
    for name, found in tools.items():
        output.say(f"{name} {found}")
    output.summary(
        Versions(
            text="sources: qemu; targets: aws, azure; images: raw, qcow2, vmdk, vhd, vhdx, vdi",
            version=sealift.__version__,
            json_format=FORMAT,
            sources=["qemu"],
            targets=["aws", "azure"],
            tools=tools,
        )
    )
