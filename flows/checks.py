"""Preflight: the source's side and the target's side of "would it arrive?"."""

from collections.abc import Sequence

from flows.one_shot import rounds_row
from sealift.config import MigrationPlan
from sealift.endpoints import Check, SourceVm
from sealift.ports import Ports
from sealift.units import format_size


def preflight_checks(ports: Ports, plan: MigrationPlan) -> list[Check]:
    """Every finding of a migration, also the good ones; nothing is made on either side.

    Raises:
        SealiftError: an end cannot be asked at all.
    """
    retry = ports.context.retrier()
    vm = retry.call(ports.hypervisor.describe)
    target = retry.call(lambda: ports.target.preflight(vm))
    return [*_source_checks(vm), *target, *rounds_row(plan.target)]


def _source_checks(vm: SourceVm) -> list[Check]:
    found = (
        f"{vm.name}: {vm.vcpus} vCPU, {format_size(vm.memory_bytes)}, {vm.firmware.value}, "
        f"{vm.architecture}, {'running' if vm.running else 'not running'}"
    )
    disks = ", ".join(f"{d.id} {format_size(d.size)} ({d.bus})" for d in vm.disks)
    agent = "answers" if vm.guest_agent else "none: points are crash-consistent"
    return [
        Check("source machine", ok=True, found=found),
        Check(
            "source disks",
            ok=bool(vm.disks),
            found=disks or "none that can be written",
            next_step="" if vm.disks else "nothing to migrate",
        ),
        Check("guest agent", ok=True, found=agent),
    ]


def failed_checks(checks: Sequence[Check]) -> None:
    """Raise for the checks that failed.

    Raises:
        SealiftError: of the first failed check's kind and with its next step; every failed
            check is named.
    """
    failed = [c for c in checks if not c.ok]
    if failed:
        named = "; ".join(f"{c.name}: {c.found}" for c in failed)
        raise failed[0].error(
            f"{len(failed)} of {len(checks)} checks failed: {named}",
            next_step=failed[0].next_step,
        )
