"""Starts of machines: the boot hook, and boot diagnostics made of its report.

"Azure boot diagnostics": the serial log, and a picture of the screen, as blobs in an account
that Azure manages.
"""

import logging
import threading
from collections.abc import Mapping

from sandbox.azure.disk_content import DiskContents
from sandbox.azure.machines import BootHook, LaunchedMachine, Machine
from sandbox.reports import BootReport, CheckStatus

_log = logging.getLogger(__name__)


class LaunchBook:
    """Keeps the starts of a sandbox; safe from several threads.

    With a hook every start is handed to it in a thread of its own; its report is what boot
    diagnostics show. An exception in it makes a report without console and picture.

    Args:
        hook: boots a machine's disks.
        contents: where boot diagnostics are kept.
    """

    def __init__(self, hook: BootHook | None, contents: DiskContents) -> None:
        self._hook = hook
        self._contents = contents
        self._machines: list[LaunchedMachine] = []
        self._reported = threading.Condition()
        self._reports: dict[str, BootReport] = {}

    def launched(self, machine: Machine) -> None:
        """Take note of a start, and let the hook boot it."""
        seen = machine.launched()
        with self._reported:
            self._machines.append(seen)
            self._reports.pop(seen.id.lower(), None)
        if self._hook is not None:
            name = f"boot-{seen.name}"
            threading.Thread(target=self._boot, args=(seen,), name=name, daemon=True).start()

    def machines(self) -> tuple[LaunchedMachine, ...]:
        """All starts, oldest first."""
        with self._reported:
            return tuple(self._machines)

    def attach(self, machine_id: str, report: BootReport) -> None:
        """Set what boot diagnostics of a machine show from now on."""
        with self._reported:
            self._reports[machine_id.lower()] = report
            self._reported.notify_all()

    def report(self, machine_id: str) -> BootReport | None:
        """What was reported about a machine's last start."""
        with self._reported:
            return self._reports.get(machine_id.lower())

    def wait_booted(self, machine_id: str, timeout_seconds: float) -> bool:
        """Wait until something was reported about the machine."""
        with self._reported:
            return self._reported.wait_for(
                lambda: machine_id.lower() in self._reports, timeout_seconds
            )

    def diagnostics(self, machine: Machine, minutes: int) -> Mapping[str, str]:
        """What "Virtual Machines - Retrieve Boot Diagnostics Data" answers."""
        report = self.report(str(machine.id)) or BootReport(CheckStatus.INITIALIZING)
        if not machine.place:
            machine.place = self._contents.new()
        screen, log = f"{machine.id.name}.screenshot.png", f"{machine.id.name}.serialconsole.log"
        return {
            "consoleScreenshotBlobUri": self._contents.publish(
                machine.place, screen, report.screenshot, minutes, "image/png"
            ),
            "serialConsoleLogBlobUri": self._contents.publish(
                machine.place, log, report.console, minutes, "text/plain"
            ),
        }

    def _boot(self, machine: LaunchedMachine) -> None:
        if self._hook is None:
            raise AssertionError("started without a hook")
        try:
            report = self._hook(machine)
        except Exception:
            _log.exception("boot hook failed for %s", machine.name)
            report = BootReport(CheckStatus.IMPAIRED)
        self.attach(machine.id, report)
