"""The door of Resource Manager, and its asynchronous operations, well and badly ended."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceResponseError,
)
from azure.identity import DefaultAzureCredential

from sandbox.azure.faults import Fault, FaultKind
from sandbox.azure.identity import ARM_AUDIENCE, STORAGE_AUDIENCE
from sandbox.azure.limits import BUCKETS
from sandbox.azure.rules import Polling, Rules
from sandbox.azure.server import AzureSandbox
from sealift.testing.clock import VirtualClock
from tests.sandbox_azure.conftest import MIB, Cloud, clients, use

pytestmark = pytest.mark.sandbox
_SLEEP = "azure.core.polling.base_polling.LROBasePolling._sleep"


@contextmanager
def own_cloud(
    directory: Path, monkeypatch: pytest.MonkeyPatch, rules: Rules, clock: VirtualClock
) -> Iterator[Cloud]:
    with AzureSandbox(directory, rules=rules, clock=clock) as sandbox:
        use(sandbox, monkeypatch)
        with DefaultAzureCredential() as credential:
            yield from clients(sandbox, credential)


def empty(cloud: Cloud) -> Any:
    return cloud.disk_body({"createOption": "Empty"}, diskSizeGB=1)


def raw(
    sandbox: AzureSandbox, path: str, *, token: str | None = None, method: str = "GET"
) -> tuple[int, str, http.client.HTTPMessage]:
    """Status, error code and headers of a plain request."""
    address = urlsplit(sandbox.endpoint).netloc
    shown = sandbox.issuer.issue(ARM_AUDIENCE)[0] if token is None else token
    connection = http.client.HTTPSConnection(address, context=sandbox.authority.client_context())
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Authorization": f"Bearer {shown}"})
        response = connection.getresponse()
        document = json.loads(response.read() or b"{}")
        code = str(document.get("error", {}).get("code", ""))
        return response.status, code, response.headers


def test_tokens_are_checked(sandbox: AzureSandbox) -> None:
    """ "Authorize requests" of the Azure REST API reference: audience, signature, expiry."""
    path = f"/subscriptions/{sandbox.subscription_id}/resourceGroups?api-version=2021-04-01"
    assert raw(sandbox, path)[0] == 200
    other = sandbox.issuer.issue(STORAGE_AUDIENCE)[0]
    assert raw(sandbox, path, token=other)[:2] == (401, "InvalidAuthenticationToken")
    assert raw(sandbox, path, token="a.b.c")[:2] == (401, "InvalidAuthenticationToken")


def test_api_versions_are_checked(sandbox: AzureSandbox) -> None:
    """ "Common Azure deployment errors": MissingApiVersionParameter, and unknown versions."""
    path = f"/subscriptions/{sandbox.subscription_id}/resourceGroups/{sandbox.resource_group}"
    disks = f"{path}/providers/Microsoft.Compute/disks"
    assert raw(sandbox, disks)[:2] == (400, "MissingApiVersionParameter")
    assert raw(sandbox, f"{disks}?api-version=1999-01-01")[:2] == (400, "InvalidResourceType")
    assert raw(sandbox, f"{disks}?api-version=2024-03-02")[0] == 200
    assert raw(sandbox, f"{path}/nonsense?api-version=2024-03-02")[:2] == (
        404, "InvalidResourceType",
    )  # fmt: skip


def test_groups_and_subscriptions_that_are_not_there(sandbox: AzureSandbox) -> None:
    """ "Resolve resource not found errors": ResourceGroupNotFound, ResourceNotFound."""
    start = f"/subscriptions/{sandbox.subscription_id}/resourceGroups"
    end = "providers/Microsoft.Compute/disks/none?api-version=2024-03-02"
    assert raw(sandbox, f"{start}/none/{end}")[:2] == (404, "ResourceGroupNotFound")
    here = f"{start}/{sandbox.resource_group.upper()}/{end}"
    assert raw(sandbox, here)[:2] == (404, "ResourceNotFound")
    other = here.replace(sandbox.subscription_id, "00000000-0000-0000-0000-000000000000")
    assert raw(sandbox, other)[:2] == (404, "SubscriptionNotFound")


@pytest.mark.parametrize("polling", list(Polling))
def test_polling(polling: Polling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "Track asynchronous Azure operations": Azure-AsyncOperation, Location, Retry-After."""
    rules, clock = Rules(operation_seconds=30, polling=polling), VirtualClock()
    with own_cloud(tmp_path, monkeypatch, rules, clock) as cloud:
        disks = cloud.compute.disks
        poller = disks.begin_create_or_update(cloud.group, "slow", empty(cloud), polling=False)
        assert disks.get(cloud.group, "slow").provisioning_state == "Updating"
        monkeypatch.setattr(
            "azure.core.polling.base_polling.LROBasePolling._sleep", _sleeper(clock)
        )
        poller = disks.begin_create_or_update(cloud.group, "slow2", empty(cloud))
        assert poller.result().provisioning_state == "Succeeded"
        assert disks.get(cloud.group, "slow").provisioning_state == "Succeeded"
        disks.begin_delete(cloud.group, "slow").result()
        with pytest.raises(ResourceNotFoundError):
            disks.get(cloud.group, "slow")


def _sleeper(clock: VirtualClock) -> Any:
    return lambda self, seconds: clock.sleep(10.0)


def test_retry_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "Track asynchronous Azure operations": the seconds that Retry-After asks for."""
    clock = VirtualClock()
    asked: list[float] = []
    rules = Rules(operation_seconds=30, retry_after_seconds=7)
    with own_cloud(tmp_path, monkeypatch, rules, clock) as cloud:

        def sleep(self: object, seconds: float) -> None:
            asked.append(seconds)
            clock.sleep(seconds)

        monkeypatch.setattr(_SLEEP, sleep)
        cloud.compute.disks.begin_create_or_update(cloud.group, "d", empty(cloud)).result()
        assert asked == [7] * 5


def test_nothing_else_while_something_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "Common Azure deployment errors", Conflict: the resource is changing."""
    with own_cloud(tmp_path, monkeypatch, Rules(operation_seconds=30), VirtualClock()) as cloud:
        disks = cloud.compute.disks
        disks.begin_create_or_update(cloud.group, "busy", empty(cloud), polling=False)
        with pytest.raises(HttpResponseError) as caught:
            disks.begin_create_or_update(cloud.group, "busy", empty(cloud), polling=False)
        assert caught.value.status_code == 409


def test_operations_that_end_badly(cloud: Cloud) -> None:
    """ "Track asynchronous Azure operations": Failed and Canceled, with an error."""
    disks = cloud.compute.disks
    cases = [
        (FaultKind.OPERATION_FAILS, "AllocationFailed", "Failed"),
        (FaultKind.OPERATION_CANCELED, "OperationPreempted", "Canceled"),
        (FaultKind.OPERATION_FAILS_AFTER_EFFECT, "InternalExecutionError", "Succeeded"),
    ]
    for kind, code, state in cases:
        cloud.sandbox.faults.add(Fault(kind, "Disks_CreateOrUpdate", code=code))
        poller = disks.begin_create_or_update(cloud.group, kind.value, empty(cloud))
        with pytest.raises(HttpResponseError) as caught:
            poller.result()
        assert caught.value.error is not None
        assert caught.value.error.code == code
        assert disks.get(cloud.group, kind.value).provisioning_state == state


def test_an_operation_that_never_ends_gives_way_to_a_delete(cloud: Cloud) -> None:
    disk = cloud.make_disk("hung-os", bytes(MIB), osType="Linux", hyperVGeneration="V1")
    nic = cloud.make_nic("hung-nic")
    machines = cloud.compute.virtual_machines
    cloud.sandbox.faults.add(Fault(FaultKind.OPERATION_HANGS, "VirtualMachines_CreateOrUpdate"))
    body = cloud.vm_body(disk, nic)
    machines.begin_create_or_update(cloud.group, "hung", body, polling=False)
    for _ in range(3):
        assert machines.get(cloud.group, "hung").provisioning_state == "Creating"
    assert "hung" not in [machine.name for machine in cloud.sandbox.machines()]
    machines.begin_delete(cloud.group, "hung", force_deletion=True).result()
    with pytest.raises(ResourceNotFoundError):
        cloud.compute.disks.get(cloud.group, "hung-os")


def test_answers_that_are_lost(cloud: Cloud) -> None:
    disks = cloud.compute.disks
    cases: list[tuple[FaultKind, type[Exception], bool]] = [
        (FaultKind.RESET_BEFORE, ServiceResponseError, False),
        (FaultKind.RESET_AFTER, ServiceResponseError, True),
        (FaultKind.ERROR_BEFORE, HttpResponseError, False),
        (FaultKind.ERROR_AFTER, HttpResponseError, True),
        (FaultKind.ACCESS_DENIED, HttpResponseError, False),
        (FaultKind.EXPIRED_TOKEN, ClientAuthenticationError, False),
        (FaultKind.THROTTLE, HttpResponseError, False),
    ]
    for kind, error, done in cases:
        name = f"lost-{kind.value}"
        cloud.sandbox.faults.add(Fault(kind, "Disks_CreateOrUpdate"))
        with pytest.raises(error):
            disks.begin_create_or_update(cloud.group, name, empty(cloud), polling=False)
        found = [one.name for one in disks.list_by_resource_group(cloud.group)]
        assert (name in found) is done, kind
    assert cloud.sandbox.requests.count("Disks_CreateOrUpdate", "lost-") == len(cases)


def test_throttling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "Understand how Azure Resource Manager throttles requests": buckets, 429, Retry-After,
    what remains."""
    clock = VirtualClock()
    with own_cloud(tmp_path, monkeypatch, Rules(throttled=True), clock) as cloud:
        sandbox = cloud.sandbox
        path = f"/subscriptions/{sandbox.subscription_id}/resourceGroups?api-version=2021-04-01"
        name = "x-ms-ratelimit-remaining-subscription-reads"
        remaining = [raw(sandbox, path)[2][name] for _ in range(3)]
        assert remaining == [str(BUCKETS["reads"].size - used) for used in (0, 1, 2)]
        for _ in range(BUCKETS["reads"].size - 3):
            assert raw(sandbox, path)[0] == 200
        status, code, headers = raw(sandbox, path)
        assert (status, code, headers["Retry-After"]) == (429, "TooManyRequests", "1")
        clock.sleep(1)
        assert raw(sandbox, path)[0] == 200


def test_tags_are_found(cloud: Cloud) -> None:
    """ "Resources - List", ``$filter``: tagName and tagValue."""
    body: Any = {**empty(cloud), "tags": {"sealift-migration": "m-1"}}
    cloud.compute.disks.begin_create_or_update(cloud.group, "tagged", body).result()
    wanted = "tagName eq 'sealift-migration' and tagValue eq 'm-1'"
    listed = cloud.resources.resources.list_by_resource_group(cloud.group, filter=wanted)
    assert [one.name for one in listed] == ["tagged"]


def test_everything_listens_on_loopback_only(sandbox: AzureSandbox) -> None:
    addresses = [sandbox.endpoint, sandbox.blob_endpoint, sandbox.direct_blob_endpoint]
    addresses += [sandbox.vault_url, sandbox.environment()["IDENTITY_ENDPOINT"]]
    ports = {urlsplit(address).port or 0 for address in addresses}
    listening = [
        (line.split()[1].split(":")[0], int(line.split()[1].split(":")[1], 16))
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    bound = {address for address, port in listening if port in ports}
    assert bound == {socket.inet_aton("127.0.0.1")[::-1].hex().upper()}
    assert ports <= {port for _, port in listening}
