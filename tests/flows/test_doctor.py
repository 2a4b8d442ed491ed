"""Whether this host can run a migration."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import doctor
from flows.doctor import Finding, examine
from sealift.config import MigrationPlan


def plan(qmp: Path, **more: object) -> MigrationPlan:
    return MigrationPlan.model_validate(
        {
            "migration": "x",
            "source": {"qemu": {"qmp": str(qmp), "scratch_limit": "1MiB", **more}},
            "target": {"aws": {"subnet": "subnet-1", "security_groups": ["s"]}},
        }
    )


def found(what: str, findings: list[Finding]) -> Finding:
    (one,) = [f for f in findings if f.what == what]
    return one


@pytest.mark.tools
def test_this_host_is_in_order(tmp_path: Path) -> None:
    findings = examine(None, {"XDG_STATE_HOME": str(tmp_path)})
    assert [f for f in findings if not f.ok] == []
    assert {"python", "qemu-img", "qemu-nbd", "python packages", "package flows"} <= {
        f.what for f in findings
    }
    assert not (tmp_path / "sealift").exists(), "doctor makes nothing"


def test_every_failure_has_a_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "prlimit").write_text("#!/bin/sh\necho prlimit from util-linux 2.10\n")
    (tmp_path / "prlimit").chmod(0o755)
    (tmp_path / "file").write_text("")
    findings = examine(plan(tmp_path / "none"), {"XDG_STATE_HOME": str(tmp_path / "file")})
    wrong = {f.what for f in findings if not f.ok}
    assert {"qemu-img", "qemu-nbd", "prlimit", "state folder", "QMP socket"} <= wrong
    assert all(f.fix for f in findings if not f.ok)


@pytest.mark.fault(54)
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "sealift"
    home.mkdir()
    home.chmod(0o777)
    finding = found("state folder", examine(None, {"XDG_STATE_HOME": str(tmp_path)}))
    assert not finding.ok
    assert finding.fix == f"chmod go-w {home}"


def test_a_package_of_the_same_name_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = {name: ["sealift"] for name in doctor.OUR_PACKAGES}
    owners["connectors"] = ["sealift", "some-connectors"]
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: owners)
    finding = found("package connectors", examine(None, {"XDG_STATE_HOME": str(tmp_path)}))
    assert not finding.ok
    assert "some-connectors" in finding.found


def test_a_missing_and_a_wrong_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.metadata.requires", lambda name: ["nosuchpackage>=1", "pytest>=9999"]
    )
    finding = found("python packages", examine(None, {"XDG_STATE_HOME": "/nonexistent"}))
    assert not finding.ok
    assert "nosuchpackage is missing" in finding.found
    assert "pytest" in finding.found


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Path]:
    """Greets as QEMU does."""
    path = tmp_path / "q.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def greet() -> None:
        peer, _ = server.accept()
        peer.sendall(b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}}}\r\n')
        peer.close()

    thread = threading.Thread(target=greet)
    thread.start()
    yield path
    if thread.is_alive():  # nobody asked
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(path))
    thread.join()
    server.close()


def test_a_monitor_that_greets(monitor: Path, tmp_path: Path) -> None:
    finding = found("QMP socket", examine(plan(monitor), {"XDG_STATE_HOME": str(tmp_path)}))
    assert finding.ok
    assert "QEMU 7.2" in finding.found


def test_a_socket_that_says_nothing_is_told_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_SOCKET_SECONDS", 0.1)
    path = tmp_path / "q.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        finding = found("QMP socket", examine(plan(path), {"XDG_STATE_HOME": str(tmp_path)}))
    assert not finding.ok
    assert finding.fix


def test_a_plain_file_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "q").write_text("")
    finding = found("QMP socket", examine(plan(tmp_path / "q"), {"XDG_STATE_HOME": str(tmp_path)}))
    assert not finding.ok
    assert "is not a socket" in finding.found


def test_a_runtime_folder_that_is_too_long(tmp_path: Path) -> None:
    long = plan(tmp_path / "q", runtime="/" + "x" * 100)
    finding = found("runtime folder", examine(long, {"XDG_STATE_HOME": str(tmp_path)}))
    assert not finding.ok
    assert os.sep in finding.found
