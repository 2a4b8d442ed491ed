"""What became of launched instances: status checks, console, picture."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from moto.core.responses import ActionResult
from moto.ec2.models.instances import Instance

from sandbox.aws.ec2_backend import SandboxEc2Backend
from sandbox.aws.ec2_images import SandboxImage, refuse
from sandbox.aws.rules import Rules
from sandbox.reports import BootReport, CheckStatus
from sealift.clock import Clock

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LaunchedInstance:
    """An instance that was started, as a boot hook sees it.

    Args:
        instance_id: ``i-...``.
        region: where it runs.
        image_id: what it was made from.
        instance_type: its type.
        boot_mode: ``uefi`` or ``legacy-bios``.
        root_device_name: which of the volumes holds the boot loader.
        volumes: (device name, volume id), root first, then in device order.
    """

    instance_id: str
    region: str
    image_id: str
    instance_type: str
    boot_mode: str
    root_device_name: str
    volumes: tuple[tuple[str, str], ...]


BootHook = Callable[[LaunchedInstance], BootReport]


@dataclass(slots=True)
class _Entry:
    machine: LaunchedInstance
    launched_at: float
    report: BootReport | None = None
    booted: threading.Event = field(default_factory=threading.Event)


class LaunchBook:
    """Keeps the launches of a sandbox; safe from several threads.

    With a hook every launch is handed to it in a thread of its own; its report sets the
    status checks, and an exception in it makes the instance impaired.
    """

    def __init__(self, rules: Rules, clock: Clock, hook: BootHook | None) -> None:
        self._rules = rules
        self._clock = clock
        self._hook = hook
        self._entries: dict[str, _Entry] = {}
        self._tokens: dict[str, tuple[str, ActionResult]] = {}
        self._lock = threading.Lock()

    def once(
        self, token: str | None, fingerprint: str, launch: Callable[[], ActionResult]
    ) -> ActionResult:
        """Run a launch, or give the answer that this client token got before."""
        known = self._tokens.get(token) if token else None
        if known is not None:
            if known[0] != fingerprint:
                message = "Arguments on this idempotent request are inconsistent"
                raise refuse("IdempotentParameterMismatch", message)
            return known[1]
        answer = launch()
        if token:
            self._tokens[token] = (fingerprint, answer)
        return answer

    def launched(
        self,
        backend: SandboxEc2Backend,
        instance: Instance,
        image: SandboxImage,
        boot_mode: str,
    ) -> None:
        """Take note of a new instance and start its boot hook."""
        machine = _machine(backend, instance, image, boot_mode)
        entry = _Entry(machine, self._clock.monotonic())
        with self._lock:
            self._entries[machine.instance_id] = entry
        if self._hook is not None:
            name = f"boot-{machine.instance_id}"
            threading.Thread(target=self._boot, args=(entry,), name=name, daemon=True).start()

    def attach(self, instance_id: str, report: BootReport) -> None:
        """Set what the instance shows from now on; ``KeyError`` when unknown."""
        entry = self._entries[instance_id]
        entry.report = report
        entry.booted.set()

    def machines(self) -> tuple[LaunchedInstance, ...]:
        """All launches, oldest first."""
        with self._lock:
            return tuple(entry.machine for entry in self._entries.values())

    def report(self, instance_id: str) -> BootReport:
        """What the instance shows now."""
        entry = self._entries.get(instance_id)
        if entry is None:
            return BootReport(CheckStatus.OK)
        if entry.report is not None:
            return entry.report
        age_seconds = self._clock.monotonic() - entry.launched_at
        held = self._hook is not None or self._rules.hold_status_checks
        if held or age_seconds < self._rules.status_check_seconds:
            return BootReport(CheckStatus.INITIALIZING)
        return BootReport(CheckStatus.OK)

    def wait_booted(self, instance_id: str, timeout_seconds: float) -> bool:
        """Wait until something was reported about the instance."""
        return self._entries[instance_id].booted.wait(timeout_seconds)

    def _boot(self, entry: _Entry) -> None:
        if self._hook is None:
            raise AssertionError("started without a hook")
        try:
            report = self._hook(entry.machine)
        except Exception:
            _log.exception("boot hook failed for %s", entry.machine.instance_id)
            report = BootReport(CheckStatus.IMPAIRED)
        self.attach(entry.machine.instance_id, report)


def _machine(
    backend: SandboxEc2Backend, instance: Instance, image: SandboxImage, boot_mode: str
) -> LaunchedInstance:
    root = image.spec.root_device_name
    volumes = [(name, block.volume_id) for name, block in instance.get_block_device_mapping]
    return LaunchedInstance(
        instance_id=instance.id,
        region=backend.region_name,
        image_id=image.id,
        instance_type=instance.instance_type,
        boot_mode=boot_mode,
        root_device_name=root,
        volumes=tuple(sorted(volumes, key=lambda pair: (pair[0] != root, pair[0]))),
    )
