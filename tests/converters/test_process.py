"""Children: limits hold, and none is left, however the parent or the call ends."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from converters.process import Limits, OutputTooLongError, run
from sealift.cancel import CancelToken
from sealift.errors import StoppedError, ToolError
from sealift.readiness import readable
from sealift.units import MiB

pytestmark = pytest.mark.tools

_NOTE_PID = 'echo $$ > "$1"; exec sleep 600'


def ended(pid: int, seconds: float = 60) -> bool:
    """Wait for the end of a process that need not be our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return readable(descriptor, seconds)
    finally:
        os.close(descriptor)


def test_output_and_exit_code_come_back() -> None:
    done = run("sh", ["-c", "printf out; printf err >&2; exit 7"], Limits())
    assert (done.exit_code, done.stdout, done.stderr) == (7, b"out", "err")


def test_all_output_is_there_when_a_run_returns() -> None:
    done = run("head", ["-c", str(5 * MiB), "/dev/zero"], Limits())
    assert done.stdout == bytes(5 * MiB)


def test_a_signal_is_a_negative_exit_code() -> None:
    assert run("sh", ["-c", "kill -TERM $$"], Limits()).exit_code == -signal.SIGTERM


def test_arguments_are_never_shell_words(tmp_path: Path) -> None:
    hostile = f"; touch {tmp_path}/x $(touch {tmp_path}/y) `id` *\n-n"
    done = run("printf", ["%s", hostile], Limits())
    assert done.stdout.decode() == hostile
    assert list(tmp_path.iterdir()) == []


def test_a_missing_program_is_named_with_a_way_out() -> None:
    with pytest.raises(ToolError, match="no-such-tool is not installed") as caught:
        run("no-such-tool", [], Limits())
    assert "install" in caught.value.next_step


def test_timeout_kills_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"echo $$ > {pids}; sleep 600 & echo $! >> {pids}; wait"
    with pytest.raises(ToolError, match="longer than 3 s"):
        run("sh", ["-c", script], Limits(timeout_seconds=3.0))
    assert all(ended(int(pid)) for pid in pids.read_text().split())


def test_cancel_kills_it_and_keeps_the_reason(tmp_path: Path) -> None:
    note, token = tmp_path / "pid", CancelToken()
    os.mkfifo(note)

    def cancel_once_it_runs() -> None:
        note.read_text()  # the fifo opens when the child writes its pid
        token.cancel("asked by a test")

    canceller = threading.Thread(target=cancel_once_it_runs)
    canceller.start()
    with pytest.raises(StoppedError, match="asked by a test"):
        run("sh", ["-c", _NOTE_PID, "sh", str(note)], Limits(), cancel=token)
    canceller.join()


def test_a_token_that_is_already_set_starts_nothing(tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel("before")
    with pytest.raises(StoppedError):
        run("touch", [str(tmp_path / "made")], Limits(), cancel=token)
    assert not (tmp_path / "made").exists()


def test_endless_output_is_cut_off() -> None:
    with pytest.raises(OutputTooLongError, match=r"more than 1\.0 MiB"):
        run("yes", [], Limits(output_bytes=MiB))


def test_endless_error_output_is_not_kept() -> None:
    done = run("sh", ["-c", "head -c 1000000 /dev/zero | tr '\\0' x >&2"], Limits())
    assert 0 < len(done.stderr) <= 64 * 1024


def test_an_error_in_the_callback_ends_the_child_and_is_raised() -> None:
    def refuse(_chunk: bytes) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run("yes", [], Limits(), on_output=refuse)


def test_limits_reach_the_child() -> None:
    limits = Limits(cpu_seconds=7, address_space_bytes=512 * MiB, file_size_bytes=MiB)
    shown = run("cat", ["/proc/self/limits"], limits).stdout.decode()
    lines = {line[:26].strip(): line[26:].split()[:2] for line in shown.splitlines()}
    assert lines["Max cpu time"] == ["7", "7"]
    assert lines["Max address space"] == [str(512 * MiB)] * 2
    assert lines["Max file size"] == [str(MiB)] * 2
    assert lines["Max core file size"] == ["0", "0"]


def test_a_child_may_have_less_memory_than_the_parent_already_uses() -> None:
    ballast = bytearray(600 * MiB)
    done = run("true", [], Limits(address_space_bytes=256 * MiB))
    assert done.exit_code == 0
    assert len(ballast) == 600 * MiB


@pytest.mark.fault(8, 50)
def test_memory_and_cpu_limits_end_it() -> None:
    greedy = "x = bytearray(900_000_000)"
    limits = Limits(address_space_bytes=400 * MiB, timeout_seconds=30)
    assert run(sys.executable, ["-S", "-c", greedy], limits).exit_code == 1
    spin = run("sh", ["-c", "while :; do :; done"], Limits(cpu_seconds=1, timeout_seconds=60))
    assert spin.exit_code in (-signal.SIGKILL, -signal.SIGXCPU)


def test_the_file_size_limit_ends_writing(tmp_path: Path) -> None:
    target = tmp_path / "big"
    arguments = ["if=/dev/zero", f"of={target}", "bs=64K", "count=100"]
    assert run("dd", arguments, Limits(file_size_bytes=MiB)).exit_code != 0
    assert target.stat().st_size <= MiB


@pytest.mark.fault(53)
def test_the_environment_carries_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    assert b"hidden" not in run("env", [], Limits()).stdout


def test_it_has_its_own_group_and_no_descriptors_of_ours(tmp_path: Path) -> None:
    with (tmp_path / "held").open("w"):
        done = run("sh", ["-c", "ps -o pgid= -p $$; echo $$; ls -l /proc/$$/fd"], Limits())
    group, pid, *descriptors = done.stdout.decode().split("\n")
    assert int(group) == int(pid) != os.getpgid(0)
    assert not any("held" in line for line in descriptors)


def test_a_thread_that_ends_soon_after_does_no_harm() -> None:
    """PR_SET_PDEATHSIG fires with the forking thread, so run() must not leave it early."""
    results: list[int] = []

    def worker() -> None:
        results.append(run("sleep", ["0.3"], Limits()).exit_code)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0, 0, 0, 0]


_PARENT = """
import sys
from converters.process import Limits, run
run("sh", ["-c", 'echo $$ > "$1"; exec sleep 600', "sh", sys.argv[1]], Limits())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_child_outlives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    note = tmp_path / "pid"
    os.mkfifo(note)
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(note)], stderr=subprocess.DEVNULL)
    pid = int(note.read_text())
    parent.send_signal(how)
    parent.wait(timeout=60)
    assert ended(pid)
