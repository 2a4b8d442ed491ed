"""QMP servers that lie, hang, flood or vanish: a typed error in time, never a hang."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connectors.qemu import QemuHypervisor
from connectors.qemu.qmp import Command, CommandRefusedError, QmpSession
from sealift.clock import SystemClock
from sealift.errors import ConnectionLostError, ProtocolError, SealiftError, TransientError
from sealift.units import MiB
from tests.qemu.conftest import Attach, MakeVm, Monitor
from tests.qemu.fakes import FakeServer

pytestmark = pytest.mark.tools

ROOT = Path(__file__).resolve().parents[2]
GREETING = b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, '
GREETING += b'"capabilities": []}}\n'
Serve = Callable[[socket.socket], None]
MakeServer = Callable[[Serve], Path]


@pytest.fixture
def make_server(directory: Path) -> Iterator[MakeServer]:
    made: list[FakeServer] = []

    def make(serve: Serve) -> Path:
        made.append(FakeServer(directory / "fake.qmp", serve))
        return made[-1].path

    yield make
    for server in made:
        server.close()


def says_nothing(client: socket.socket) -> None:
    client.recv(1)


def talks_garbage(client: socket.socket) -> None:
    client.sendall(b"\x00\xff HTTP/1.1 200 OK\r\n\r\n" * 100)


def greets_with_an_array(client: socket.socket) -> None:
    client.sendall(b"[1, 2, 3]\n")


def never_ends_a_line(client: socket.socket) -> None:
    while True:
        client.sendall(b"{" * 65536)


def nests_without_end(client: socket.socket) -> None:
    client.sendall(b"[" * 200_000 + b"\n")


def hangs_up(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_RDWR)


def messages(client: socket.socket) -> Iterator[dict[str, object]]:
    """JSON objects one after the other; a client need not end them with anything."""
    held, decoder = "", json.JSONDecoder()
    while received := client.recv(4096):
        held += received.decode()
        while held.lstrip():
            try:
                message, end = decoder.raw_decode(held.lstrip())
            except ValueError:
                break
            held = held.lstrip()[end:]
            yield message


def greeting_then(answer: Callable[[socket.socket, dict[str, object]], None]) -> Serve:
    def serve(client: socket.socket) -> None:
        client.sendall(GREETING)
        for message in messages(client):
            if message["execute"] == "qmp_capabilities":
                client.sendall(json.dumps({"return": {}, "id": message.get("id")}).encode() + b"\n")
            else:
                answer(client, message)

    return serve


def no_answer(client: socket.socket, message: dict[str, object]) -> None:
    """Silence."""


def answers_garbage(client: socket.socket, message: dict[str, object]) -> None:
    client.sendall(b"nonsense\n")


def answers_another(client: socket.socket, message: dict[str, object]) -> None:
    client.sendall(b'{"return": {}, "id": "somebody else"}\n')


def answers_with_a_list(client: socket.socket, message: dict[str, object]) -> None:
    client.sendall(json.dumps({"return": [1], "id": message["id"]}).encode() + b"\n")


def answers_with_a_string(client: socket.socket, message: dict[str, object]) -> None:
    client.sendall(json.dumps({"return": "x", "id": message["id"]}).encode() + b"\n")


def floods_with_events(client: socket.socket, message: dict[str, object]) -> None:
    event = {"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 1}, "data": "x" * 1000}
    line = json.dumps(event).encode() + b"\n"
    while True:
        client.sendall(line * 50)


def breaks_events(client: socket.socket, message: dict[str, object]) -> None:
    client.sendall(b'{"event": "STOP", "timestamp": "yesterday"}\n')


def hangs_up_when_asked(client: socket.socket, message: dict[str, object]) -> None:
    client.shutdown(socket.SHUT_RDWR)


@pytest.mark.fault(51)
@pytest.mark.parametrize(
    ("serve", "error"),
    [
        (says_nothing, TransientError),
        (talks_garbage, ProtocolError),
        (greets_with_an_array, ProtocolError),
        (never_ends_a_line, ProtocolError),
        (nests_without_end, ProtocolError),
        (hangs_up, ConnectionLostError),
        (greeting_then(no_answer), TransientError),
        (greeting_then(answers_garbage), ProtocolError),
        (greeting_then(answers_another), TransientError),
        (greeting_then(answers_with_a_list), ProtocolError),
        (greeting_then(answers_with_a_string), ProtocolError),
        (greeting_then(floods_with_events), TransientError),
        (greeting_then(breaks_events), ProtocolError),
        (greeting_then(hangs_up_when_asked), ConnectionLostError),
    ],
)
def test_a_hostile_server(
    make_server: MakeServer, directory: Path, serve: Serve, error: type[SealiftError]
) -> None:
    clock = SystemClock()
    hv = QemuHypervisor(
        make_server(serve),
        "mig1",
        directory,
        directory / "run",
        scratch_limit_bytes=MiB,
        clock=clock,
        deadline_seconds=1.0,
    )
    begun = clock.monotonic()
    with pytest.raises(error) as caught:
        hv.tracking()
    assert caught.type is error
    assert clock.monotonic() - begun < 60


def test_nobody_listens(directory: Path) -> None:
    with pytest.raises(ConnectionLostError, match="cannot be reached"):
        QmpSession(directory / "nothing")


def test_words_meant_for_a_client_that_died(make_server: MakeServer) -> None:
    clients: list[socket.socket] = []

    def serve(client: socket.socket) -> None:
        clients.append(client)
        if len(clients) == 1:
            client.sendall(b'{"return": {}, "id": "__qmp#00012"}\n')
        client.sendall(GREETING)
        while client.recv(1024):
            client.sendall(b'{"return": {}}\n')

    with QmpSession(make_server(serve)):
        assert len(clients) == 2


def test_a_busy_socket_is_named_and_free_again(make_vm: MakeVm) -> None:
    vm = make_vm()
    other = Monitor(vm.qmp)
    with pytest.raises(TransientError, match="busy"):
        QmpSession(vm.qmp, deadline_seconds=0.5)
    other.close()
    with QmpSession(vm.qmp, deadline_seconds=60) as qmp:
        assert qmp.execute("query-status")


def test_a_refusal_carries_qemus_words(make_vm: MakeVm) -> None:
    vm = make_vm()
    with QmpSession(vm.qmp) as qmp:
        with pytest.raises(CommandRefusedError, match="nope") as caught:
            qmp.execute("blockdev-del", node_name="nope")
        assert caught.value.operands["command"] == "blockdev-del"
        assert qmp.execute("query-status")


def test_a_burst_goes_on_after_a_refusal(make_vm: MakeVm) -> None:
    vm = make_vm(running=True)
    with QmpSession(vm.qmp) as qmp:
        stop, bad, go = Command("stop"), Command("no-such"), Command("cont")
        found, events = qmp.burst([stop, bad, go])
        assert [answer.error is None for answer in found] == [True, False, True]
        assert [event.name for event in events] == ["STOP", "RESUME"]
        again, _ = qmp.burst([Command("query-status")])
        assert again[0].error is None
    assert vm.status() == "running"


def test_qemu_reads_nothing_while_it_takes_the_socket(make_vm: MakeVm, directory: Path) -> None:
    """QEMU 7.2 can end by a null pointer when it does: the reader walks what getfd takes away."""
    vm = make_vm()
    log = directory / "calls"
    words = ["strace", "-f", "-s", "64", "-e", "trace=recvmsg,sendmsg", "-o", str(log)]
    with QmpSession(vm.qmp) as qmp:
        tracer = subprocess.Popen(
            [*words, "-p", str(vm.process.pid)], stderr=subprocess.PIPE, text=True
        )
        try:
            assert tracer.stderr is not None
            assert "attached" in tracer.stderr.readline()
            for _ in range(10):
                qmp.burst([Command("query-status"), Command("query-status")])
        finally:
            tracer.terminate()
            tracer.communicate()
    calls = [call for call in log.read_text().splitlines() if "msg(" in call]
    bursts = [at for at, call in enumerate(calls) if "SCM_RIGHTS" in call]
    assert len(bursts) == 10
    assert [heard_before_an_answer(calls[at:]) for at in bursts] == ["getfd"] * 10


def heard_before_an_answer(calls: list[str]) -> str:
    """The one command that was read from here to QEMU's next answer."""
    answer = next(at for at, call in enumerate(calls) if "sendmsg(" in call)
    read = re.findall(r'iov_base="((?:[^"\\]|\\.)*)"', "\n".join(calls[:answer]))
    return str(json.loads("".join(read).encode().decode("unicode_escape"))["execute"])


BURST = """
import os, signal, sys
from pathlib import Path
from connectors.qemu import qmp
send = qmp._Client._send_with_socket
def dying(self, payload):
    send(self, payload)
    os.kill(os.getpid(), signal.SIGKILL)
qmp._Client._send_with_socket = dying
for line in sys.stdin:
    if os.fork() == 0:
        slow = [qmp.Command("query-block") for _ in range(20)]
        qmp.QmpSession(Path(sys.argv[1])).burst([qmp.Command("stop"), *slow, qmp.Command("cont")])
    os.wait()
    print("died", flush=True)
"""


@pytest.mark.fault(1)
def test_a_burst_outlives_its_sender(make_vm: MakeVm) -> None:
    """Without the socket handed over 12 of 30 such kills left this QEMU paused."""
    vm = make_vm(running=True)
    sender = subprocess.Popen(
        [sys.executable, "-c", BURST, str(vm.qmp)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert sender.stdin is not None
    assert sender.stdout is not None
    for _ in range(40):
        vm.monitor.events.clear()
        sender.stdin.write("go\n")
        sender.stdin.flush()
        assert sender.stdout.readline() == "died\n"
        vm.monitor.wait_for("RESUME")
        assert vm.monitor.events == ["STOP", "RESUME"]
    sender.stdin.close()
    sender.wait(60)
    with QmpSession(vm.qmp) as qmp:
        assert qmp.execute("query-status")
    handles = os.listdir(f"/proc/{vm.process.pid}/fd")
    assert len(handles) < 40


def test_a_session_frees_its_thread(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    hv = attach(vm)
    handles = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        hv.tracking()
    assert not [thread for thread in threading.enumerate() if thread.name == "qmp"]
    assert len(os.listdir("/proc/self/fd")) <= handles


@pytest.mark.fault(14)
def test_a_stopped_qemu_is_a_deadline(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm()
    hv = attach(vm, deadline=1.0)
    vm.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(TransientError):
            hv.tracking()
    finally:
        vm.process.send_signal(signal.SIGCONT)
    assert hv.tracking() == []
