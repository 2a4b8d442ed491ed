"""Signals at any moment of a process's life; each in a process of its own."""

import os
import signal
import subprocess
import sys

import pytest

HEAD = """
import os, signal, sys
from flows.stop_signals import StopSignals
from sealift.cancel import CancelToken

cancel = CancelToken()
signals = StopSignals(cancel, last=True)

def hit(number=signal.SIGTERM):
    os.kill(os.getpid(), number)

def wait_until_heard():
    for _ in range(500):
        if signals.received:
            return
        signal.sigtimedwait([], 0.01)
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD + body], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_after_the_last_block_changes_no_exit_code(name: str) -> None:
    ended = run(f"""
with signals:
    pass
hit(signal.{name})
wait_until_heard()
print("summary")
sys.exit(7)
""")
    assert (ended.returncode, ended.stdout) == (7, "summary\n"), ended.stderr


def test_a_signal_while_python_shuts_down_changes_no_exit_code() -> None:
    ended = run("""
class Late:
    def __del__(self):
        os.write(1, b"late")
        self.kill(self.pid, self.number)

late = Late()
late.kill, late.pid, late.number = os.kill, os.getpid(), signal.SIGTERM
with signals:
    pass
sys.exit(7)
""")
    assert (ended.returncode, ended.stdout) == (7, "late"), ended.stderr


def test_a_signal_inside_is_heard_and_raises_nothing() -> None:
    ended = run("""
with signals:
    hit()
    wait_until_heard()
    assert cancel.cancelled
print(signals.received.name)
""")
    assert (ended.returncode, ended.stdout) == (0, "SIGTERM\n"), ended.stderr


def test_the_second_signal_ends_the_process_even_after_the_last_block() -> None:
    ended = run("""
with signals:
    hit()
    wait_until_heard()
hit()
signal.pause()
""")
    assert ended.returncode == 130
    assert "stopped hard" in ended.stderr


def test_a_block_that_is_not_the_last_gives_the_handlers_back() -> None:
    ended = run("""
with StopSignals(cancel):
    pass
hit()
signal.pause()
""")
    assert ended.returncode == -15


def test_the_next_run_of_a_process_takes_the_place_of_the_last() -> None:
    ended = run("""
import threading

def held():
    return threading.active_count(), len(os.listdir("/proc/self/fd"))

for _ in range(3):
    with signals:
        pass
    first = held()
    signals = StopSignals(cancel, last=True)
with signals:
    hit()
    wait_until_heard()
assert held() == first, (held(), first)
print(signals.received.name)
""")
    assert (ended.returncode, ended.stdout) == (0, "SIGTERM\n"), ended.stderr


def test_the_first_signal_is_the_first_though_somebody_else_has_asked_for_a_stop() -> None:
    """Prefect's handler raises in the main thread, which may set the token before we hear."""
    ended = run("""
with signals:
    cancel.cancel("TerminationSignal")
    hit()
    wait_until_heard()
print(signals.received.name)
""")
    assert (ended.returncode, ended.stdout) == (0, "SIGTERM\n"), ended.stderr


def test_a_hard_stop_ends_what_would_stay_behind() -> None:
    """The output would stay open as long as the companion lives, and ``run`` would wait for it."""
    ended = run("""
import subprocess
subprocess.Popen(["sleep", "600"])
apart = dict.fromkeys(["stdout", "stderr"], subprocess.DEVNULL)
print(subprocess.Popen(["sleep", "600"], start_new_session=True, **apart).pid, flush=True)
with signals:
    hit()
    wait_until_heard()
    hit()
    signal.pause()
""")
    assert ended.returncode == 130
    os.kill(int(ended.stdout), signal.SIGKILL)  # it is there
