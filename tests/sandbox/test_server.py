"""The server itself: where it listens, who may call, what it leaves behind."""

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws
from moto.ec2.models import ec2_backends

from sandbox.aws import AwsSandbox, BootReport, CheckStatus, Fault, FaultKind
from sandbox.aws.process import SandboxError, SandboxProcess
from sandbox.aws.testing import A, Cloud, refusal
from sealift.readiness import readable

pytestmark = pytest.mark.sandbox
StartSandbox = Callable[..., tuple[AwsSandbox, Cloud]]


def request(cloud: Cloud, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(cloud.endpoint_url.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def listening(port: int) -> set[str]:
    """Local addresses (hexadecimal) of listening sockets on a port, IPv4 and IPv6."""
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            local, state = line.split()[1], line.split()[3]
            address, number = local.split(":")
            if state == "0A" and int(number, 16) == port:
                found.add(address)
    return found


def test_listens_on_loopback_only(start_sandbox: StartSandbox) -> None:
    sandbox, _ = start_sandbox()
    port = int(sandbox.endpoint_url.rpartition(":")[2])
    assert listening(port) == {"0100007F"}


def test_stop_closes_the_port_and_empties_the_directory(
    start_sandbox: StartSandbox, tmp_path: Path
) -> None:
    sandbox, cloud = start_sandbox()
    cloud.snapshot({0: A})
    address = ("127.0.0.1", int(sandbox.endpoint_url.rpartition(":")[2]))
    sandbox.stop()
    sandbox.stop()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(address, timeout=5):
        pass
    assert not (tmp_path / "sandbox-0" / "layers").exists()


def test_directory_is_private_and_used_by_one(start_sandbox: StartSandbox, tmp_path: Path) -> None:
    _, cloud = start_sandbox()
    cloud.snapshot({0: A})
    directory = tmp_path / "sandbox-0"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*") if path.is_file()}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert modes == {0o600}
    with pytest.raises(BlockingIOError):
        AwsSandbox(directory).start()


def test_leftovers_of_a_killed_sandbox_are_removed(tmp_path: Path) -> None:
    layers = tmp_path / "s" / "layers"
    layers.mkdir(parents=True)
    (layers / "old").write_bytes(b"x")
    with AwsSandbox(tmp_path / "s"):
        assert list(layers.iterdir()) == []


def test_only_its_own_credentials_are_let_in(start_sandbox: StartSandbox) -> None:
    _, cloud = start_sandbox()
    other = Cloud(cloud.endpoint_url)
    assert refusal(lambda: other.start()) == "UnrecognizedClientException"
    assert refusal(other.ec2.describe_snapshots) == "AuthFailure"
    assert request(cloud, "/")[0] == 403
    assert request(cloud, "/moto-api/data.json")[0] == 403


def test_environment_is_enough_for_the_sdk(
    start_sandbox: StartSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox, _ = start_sandbox(region="eu-central-1")
    for name, value in sandbox.environment().items():
        monkeypatch.setenv(name, value)
    session = boto3.Session()
    answer = session.client("ebs").start_snapshot(VolumeSize=1)
    assert session.client("sts").get_caller_identity()["Account"] == sandbox.account_id
    assert session.client("ec2").describe_snapshots()["Snapshots"][0]["State"] == "pending"
    assert answer["OwnerId"] == sandbox.account_id


def test_regions_are_apart_and_copies_go_across(start_sandbox: StartSandbox) -> None:
    _, cloud = start_sandbox()
    snapshot_id = cloud.snapshot({0: A})
    there = cloud.client("ec2", "eu-west-1")
    assert there.describe_snapshots()["Snapshots"] == []
    there.copy_snapshot(SourceSnapshotId=snapshot_id, SourceRegion="us-east-1")
    assert len(there.describe_snapshots()["Snapshots"]) == 1


def test_mock_aws_beside_it_takes_nothing_away(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    snapshot_id = cloud.snapshot({0: A})
    with mock_aws():
        mocked = boto3.client("ec2", region_name="us-east-1")
        assert snapshot_id not in str(mocked.describe_snapshots(OwnerIds=[sandbox.account_id]))
    assert [s["SnapshotId"] for s in cloud.ec2.describe_snapshots()["Snapshots"]] == [snapshot_id]
    assert cloud.blocks(snapshot_id) == {0: A}


def test_stop_takes_the_account_out_of_moto(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    cloud.start()
    assert sandbox.account_id in ec2_backends
    sandbox.stop()
    assert sandbox.account_id not in ec2_backends


def test_unknown_action_is_refused_for_good(cloud: Cloud) -> None:
    """moto answers HTTP 500, which an SDK would repeat."""
    assert refusal(cloud.ec2.describe_fast_snapshot_restores) == "InvalidAction"


def test_unknown_path_of_the_direct_api(cloud: Cloud) -> None:
    scope = f"AWS4-HMAC-SHA256 Credential={cloud.access_key}/20260101/us-east-1/ebs/aws4_request"
    status, body = request(cloud, "/nowhere", {"Authorization": scope})
    assert (status, json.loads(body)["__type"]) == (400, "UnknownOperationException")


def test_control_needs_its_token(start_sandbox: StartSandbox) -> None:
    sandbox, cloud = start_sandbox()
    assert request(cloud, "/sandbox-api/faults")[0] == 403
    assert request(cloud, "/sandbox-api/faults", {"x-sandbox-token": "x"})[0] == 403
    good = {"x-sandbox-token": sandbox.control_token}
    assert request(cloud, "/sandbox-api/faults", good) == (200, b'{"faults": []}')
    assert request(cloud, "/sandbox-api/nothing", good)[0] == 404


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    directory = tmp_path_factory.mktemp("process")
    with SandboxProcess(directory / "s", ["--hold-status-checks"]) as running:
        yield running


@pytest.fixture
def remote(process: SandboxProcess) -> Cloud:
    variables = process.environment()
    return Cloud(
        process.endpoint_url, variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"]
    )


def test_own_process_keeps_data_and_exports_it(
    process: SandboxProcess, remote: Cloud, tmp_path: Path
) -> None:
    instance = remote.launch(remote.image(remote.snapshot({0: A, 9: A}), "exported"))
    volume = remote.ec2.describe_volumes()["Volumes"][0]
    assert process.export_volume(volume["VolumeId"], tmp_path / "v.raw") == 2
    with (tmp_path / "v.raw").open("rb") as file:
        assert file.read(len(A)) == A
    with pytest.raises(SandboxError, match="FileExistsError"):
        process.export_volume(volume["VolumeId"], tmp_path / "v.raw")
    with pytest.raises(SandboxError, match="not found"):
        process.export_volume("vol-none", tmp_path / "w.raw")
    machines = process.control("GET", "instances")["instances"]
    assert machines[0]["instance_id"] == instance["InstanceId"]
    assert machines[0]["volumes"] == [["/dev/xvda", volume["VolumeId"]]]


def test_own_process_takes_faults_and_tells_what_it_saw(
    process: SandboxProcess, remote: Cloud
) -> None:
    process.control("DELETE", "requests")
    number = process.add_fault(Fault(FaultKind.THROTTLE, "StartSnapshot", times=2))
    assert refusal(remote.start).startswith("RequestThrottled")
    left = process.control("GET", "unexercised")["faults"]
    assert [(f["number"], f["hits"], f["fault"]["kind"]) for f in left] == [(number, 1, "throttle")]
    process.control("DELETE", f"faults/{number}")
    assert refusal(remote.start) == "ok"
    noted = process.control("GET", "requests?operation=StartSnapshot")
    assert (noted["count"], [r["status"] for r in noted["requests"]]) == (2, [400, 201])
    with pytest.raises(SandboxError, match="ValueError"):
        process.control("POST", "faults", {"kind": "nonsense"})


def test_own_process_takes_boot_reports(process: SandboxProcess, remote: Cloud) -> None:
    instance_id = remote.launch(remote.image(remote.snapshot({0: A}), "reported"))["InstanceId"]
    process.attach(instance_id, BootReport(CheckStatus.IMPAIRED, b"panic", b"picture"))
    found = remote.ec2.describe_instance_status(InstanceIds=[instance_id])["InstanceStatuses"]
    assert found[0]["InstanceStatus"]["Status"] == "impaired"
    assert remote.ec2.get_console_output(InstanceId=instance_id)["Output"] == "panic"


def test_own_process_ends_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib\n"
        "from sandbox.aws.process import SandboxProcess\n"
        "with SandboxProcess(pathlib.Path(sys.argv[1])) as running:\n"
        "    print(running.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s")]
    parent = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert parent.returncode == -signal.SIGKILL
    with contextlib.suppress(ProcessLookupError):  # it may have ended by now
        child = os.pidfd_open(int(parent.stdout))
        ended = readable(child, 20)
        os.close(child)
        assert ended
    assert not (tmp_path / "s" / "layers").exists()


def test_own_process_stops_on_sigterm(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path / "s") as running:
        proc = Path(f"/proc/{running.pid}")
        assert proc.exists()
    assert not proc.exists()
    assert not (tmp_path / "s" / "layers").exists()
