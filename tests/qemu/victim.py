"""A Sealift that kills itself with SIGKILL right after it has sent its n-th QMP message.

Started by the tests as a process of its own. Reads ``VERB SEQ BASE N`` lines, runs each in
a forked child, and answers ``killed`` or ``done``.
"""

import os
import signal
import sys
from pathlib import Path

from qemu.qmp.message import Message

from connectors.qemu import QemuHypervisor, qmp
from sealift.clock import SystemClock
from sealift.units import MiB


def arm(countdown: int) -> None:
    """Die after so many messages; the burst counts as one."""
    left = [countdown]
    send, send_burst = qmp._Client._do_send, qmp._Client._send_with_socket

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(self: qmp._Client, msg: Message) -> None:
        send(self, msg)
        count()

    def counted_burst(self: qmp._Client, payload: bytes) -> None:
        send_burst(self, payload)
        count()

    for name, replacement in (("_do_send", counted), ("_send_with_socket", counted_burst)):
        setattr(qmp._Client, name, replacement)


def act(directory: Path, verb: str, seq: int, base: int, countdown: int) -> None:
    hv = QemuHypervisor(
        directory / "sealift.qmp",
        "mig1",
        directory / "scratch",
        directory / "run",
        scratch_limit_bytes=256 * MiB,
        clock=SystemClock(),
    )
    arm(countdown)
    if verb == "open":
        hv.open_point(seq, {"vd0": base, "vd1": base})
    elif verb == "commit":
        hv.commit_point(seq)
    elif verb == "abort":
        hv.abort_point(seq)


def main() -> None:
    directory = Path(sys.argv[1])
    for line in sys.stdin:
        verb, seq, base, countdown = line.split()
        child = os.fork()
        if child == 0:
            act(directory, verb, int(seq), int(base), int(countdown))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else f"done {status}", flush=True)


if __name__ == "__main__":
    main()
