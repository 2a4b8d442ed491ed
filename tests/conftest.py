"""Shared by all tests: evidence lines, which the end of a run shows, and a Prefect server.

A suite that counts something takes the ``evidence`` fixture and says what it found::

    evidence("kill points", "144, unequal: 0")

and the run ends with ``evidence: kill points: 144, unequal: 0``.
"""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest

from flows.stop_signals import let_go

# A deadline of one example is a timing, and fails on a busy machine.
hypothesis.settings.register_profile("sealift", deadline=None)
hypothesis.settings.load_profile("sealift")

Evidence = Callable[[str, str], None]
_LINES = pytest.StashKey[dict[str, str]]()
_OPEN_FILES = 8192
"""A worker holds servers, clients and pools of many tests; a shell's usual limit is 1,024."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests may take longest go first, so that no worker ends long after the other."""
    longest: dict[str, float] = {}
    for item in items:
        mark = item.get_closest_marker("timeout")
        allowed = float(mark.args[0]) if mark and mark.args else 0.0
        slow = item.get_closest_marker("slow") is not None
        file = item.nodeid.partition("::")[0]
        longest[file] = max(longest.get(file, 0.0), allowed + slow)
    items.sort(key=lambda item: -longest[item.nodeid.partition("::")[0]])


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LINES] = {}
    # A shell without job control starts what runs in the background with SIGINT ignored, and the
    # commands that tests interrupt would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if resource.RLIM_INFINITY != soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.fixture(scope="session")
def evidence(pytestconfig: pytest.Config) -> Evidence:
    """Collects ``(name, figures)``; a name that comes again replaces its line."""
    lines = pytestconfig.stash[_LINES]

    def collect(name: str, figures: str) -> None:
        lines[name] = figures

    return collect


@pytest.fixture(autouse=True)
def signals_given_back() -> Iterator[None]:
    """A command that runs inside the tests' process keeps its handlers until the end of it."""
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in watched}
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    yield
    let_go()
    signal.set_wakeup_fd(wakeup)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A parallel worker ended: take over what it counted."""
    config: pytest.Config = node.config
    config.stash[_LINES].update(getattr(node, "workeroutput", {}).get("evidence", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        lines = session.config.stash[_LINES]
        session.config.workeroutput["evidence"] = dict(lines.items())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for name, figures in config.stash[_LINES].items():
        terminalreporter.write_line(f"evidence: {name}: {figures}")


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary server: about ten seconds, so once."""
    os.environ.setdefault("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
