"""QEMU's own agent runs in the guest: it freezes the file systems and shuts down."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.guest.image import GuestDisk, GuestSpec
from sandbox.guest.machine import GuestMachine, MachineSpec

pytestmark = pytest.mark.guest


class Agent:
    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rwb")

    def send(self, command: str) -> None:
        self._file.write(json.dumps({"execute": command}).encode() + b"\n")
        self._file.flush()

    def ask(self, command: str) -> object:
        self.send(command)
        answer = json.loads(self._file.readline())
        assert "return" in answer, answer
        return answer["return"]


def test_a_freeze_holds_the_writer_and_a_thaw_lets_it_go(
    build: Callable[[GuestSpec], tuple[GuestDisk, ...]],
    power_on: Callable[[MachineSpec], GuestMachine],
) -> None:
    disks = build(GuestSpec(agent=True))
    with power_on(MachineSpec(disks, autostart=True, agent=True)) as machine:
        machine.wait_for_ack(20)
        agent = Agent(machine.agent_path)
        agent.ask("guest-ping")
        assert agent.ask("guest-fsfreeze-freeze") == 2
        assert agent.ask("guest-fsfreeze-status") == "frozen"
        held = machine.acked()
        for _ in range(200):  # some time passes, in which dozens would have been written
            agent.ask("guest-ping")
        assert machine.acked() <= held + 2  # what was durable may still have been on its way
        assert agent.ask("guest-fsfreeze-thaw") == 2
        machine.wait_for_ack(held + 20)
        agent.send("guest-shutdown")
        machine.wait_down()
