"""The calls of Azure's SDKs that the connector makes, answered by ``AzureService``.

Every call passes through the script: faults strike at the calls of Azure themselves, and come
out as what the SDK raises.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar

from azure.core.exceptions import ServiceResponseError

from connectors.azure.actions import WRITE
from connectors.azure.errors import classify, refusal_of
from sealift.errors import (
    CredentialsError,
    QuotaError,
    SealiftError,
    TargetDeniedError,
    TargetError,
    ThrottledError,
)
from sealift.testing.faults import Fault, Script
from tests.simulation.azure_service import ACCOUNT, CONTAINER, AzureService, refusal

T = TypeVar("T")
_ARM = "https://management.azure.com"


def as_the_sdk(error: SealiftError) -> Exception:
    """What the SDK raises for what the script injects."""
    if isinstance(error, ThrottledError):
        return refusal(429, "TooManyRequests", error.retry_after_seconds)
    if isinstance(error, CredentialsError):
        return refusal(401, "ExpiredAuthenticationToken")
    if isinstance(error, TargetDeniedError):
        return refusal(403, "AuthorizationFailed")
    if isinstance(error, QuotaError):
        return refusal(409, "QuotaExceeded")
    if isinstance(error, TargetError):
        return refusal(409, "Conflict")
    return ServiceResponseError("the answer was lost")


class Calls:
    """One process's calls."""

    def __init__(self, service: AzureService, script: Script) -> None:
        self.service, self.script = service, script

    def __call__(
        self, name: str, effect: Callable[[], T], earlier: Callable[[], T] | None = None
    ) -> T:
        fired = len(self.script.fired)
        if earlier is not None and self.service.behind:
            effect = earlier
        try:
            found = self.script.around("service", name, effect, earlier=earlier)
        except SealiftError as error:
            raise as_the_sdk(error) from None
        if [fault for _, fault in self.script.fired[fired:]] == [Fault.STALE]:
            self.service.fall_behind()
        return found


class BlobClient:
    """Of one blob, or of a snapshot of it."""

    account_name = "account"

    def __init__(self, calls: Calls, name: str, stamp: str | None) -> None:
        self.calls, self.name, self._stamp = calls, name, stamp
        self.url = f"{ACCOUNT}/{CONTAINER}/{name}" + (f"?snapshot={stamp}" if stamp else "")

    def create_page_blob(
        self,
        size: int,
        metadata: dict[str, str],
        match_condition: Any,
        lease: str | None = None,
        etag: str | None = None,
    ) -> dict[str, str]:
        put = self.calls.service.put_blob
        return self.calls(
            "put_blob", lambda: put(self.name, size, metadata, lease, match_condition, etag)
        )

    def _changed(self, call: str, effect: Callable[[Any], T], **may: Any) -> T:
        service = self.calls.service
        lease, condition = may.get("lease"), may.get("match_condition")
        allowed = partial(service.may_write, self.name, lease, condition, may.get("etag"))
        return self.calls(call, lambda: effect(allowed()))

    def set_blob_metadata(self, metadata: dict[str, str], **may: Any) -> dict[str, str]:
        def effect(blob: Any) -> dict[str, str]:
            blob.metadata = dict(metadata)
            return self.calls.service.answer(blob)

        return self._changed("set_metadata", effect, **may)

    def upload_page(self, data: bytes, offset: int, length: int, **may: Any) -> dict[str, str]:
        write = self.calls.service.write
        return self._changed("put_page", lambda blob: write(blob, offset, data), **may)

    def clear_page(self, offset: int, length: int, lease: str) -> dict[str, str]:
        write = self.calls.service.write
        return self._changed(
            "clear_pages", lambda blob: write(blob, offset, bytes(length)), lease=lease
        )

    def create_snapshot(self, metadata: dict[str, str], **may: Any) -> dict[str, str]:
        snapshot = self.calls.service.snapshot
        return self._changed(
            "snapshot_blob", lambda blob: snapshot(self.name, blob, metadata), **may
        )

    def start_copy_from_url(
        self,
        source: str,
        metadata: dict[str, str],
        match_condition: Any,
        destination_lease: str | None = None,
        etag: str | None = None,
    ) -> None:
        copy = self.calls.service.copy
        may = {"lease": destination_lease, "condition": match_condition, "etag": etag}
        self.calls("copy_blob", lambda: copy(self.name, source, metadata, **may))

    def delete_blob(self, delete_snapshots: str = "") -> None:
        delete, whole = self.calls.service.delete_blob, bool(delete_snapshots)
        self.calls("delete_blob", lambda: delete(self.name, self._stamp, snapshots=whole))

    def download_blob(self, offset: int, length: int, **_: Any) -> Any:
        def read() -> bytes:
            blob = self.calls.service.blob(self.name)
            if self._stamp not in blob.snapshots:
                raise refusal(404, "BlobNotFound")
            return blob.snapshots[self._stamp].content[offset : offset + length]

        return SimpleNamespace(readall=lambda: self.calls("get_blob", read))


class LeaseClient:
    """``azure.storage.blob.BlobLeaseClient``."""

    def __init__(self, blob: BlobClient, lease_id: str) -> None:
        self._blob, self._id = blob, lease_id

    def _call(self, verb: str, proposed: str = "") -> None:
        lease, name = self._blob.calls.service.lease, self._blob.name
        self._blob.calls(f"{verb}_lease", lambda: lease(name, self._id, verb, proposed))

    def acquire(self, lease_duration: int) -> None:
        self._call("acquire")

    def renew(self) -> None:
        self._call("renew")

    def change(self, proposed: str) -> None:
        self._call("change", proposed)

    def break_lease(self, lease_break_period: int) -> None:
        self._call("break")


class Container:
    """List Blobs, one page."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def list_blobs(self, name_starts_with: str, include: list[str]) -> list[Any]:
        return self._calls("list_blobs", lambda: self._listed(name_starts_with))

    def _listed(self, prefix: str) -> list[Any]:
        service, found = self._calls.service, []
        service.settle()
        for name, blob in sorted(service.blobs.items()):
            if not name.startswith(prefix):
                continue
            shown = {"name": name, "etag": f'"{blob.etag}"'}
            lease = SimpleNamespace(
                state="leased" if blob.lease else "broken" if blob.broken else "available",
                status="locked" if blob.lease else "unlocked",
            )
            found += [
                SimpleNamespace(
                    **shown, snapshot=stamp, metadata=one.metadata, size=len(one.content)
                )
                for stamp, one in blob.snapshots.items()
            ]
            found.append(
                SimpleNamespace(
                    **shown,
                    snapshot=None,
                    metadata=dict(blob.metadata),
                    size=len(blob.content),
                    lease=lease,
                    copy=SimpleNamespace(status=blob.copy_status),
                )
            )
        return found


class Pages:
    """``PageSender``: raises errors of the tree itself."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def put(self, url: str, offset: int, data: bytes, lease: str) -> None:
        blob = BlobClient(self._calls, url.removeprefix(f"{ACCOUNT}/{CONTAINER}/"), None)
        try:
            blob.upload_page(bytes(data), offset, len(data), lease=lease)
        except ServiceResponseError as error:
            raise classify(error, WRITE) from None
        except Exception as error:
            status = getattr(error, "status_code", None)
            if not status:
                raise
            headers = getattr(error, "response").headers  # noqa: B009 - of a fake answer
            raise refusal_of(WRITE, int(status), headers, {}) from None


class Collection:
    """Resources of one kind."""

    def __init__(self, calls: Calls, kind: str) -> None:
        self._calls, self._kind = calls, kind

    def get(self, group: str, name: str) -> Any:
        service = self._calls.service
        found = self._calls(
            f"get_{self._kind}",
            lambda: self._looked_up(name),
            lambda: _shown(service.earlier(self._kind, name)),
        )
        if found is None:
            raise refusal(404, "ResourceNotFound")
        return found

    def _looked_up(self, name: str) -> Any:
        service = self._calls.service
        service.settle()
        return _shown(service.resources.get((self._kind, name)))

    def list(self, group: str) -> list[Any]:
        service = self._calls.service
        return self._calls(
            f"list_{self._kind}s",
            lambda: [_shown(one) for one in service.each(self._kind)],
            lambda: [_shown(one) for one in service.each_earlier(self._kind)],
        )

    list_by_resource_group = list

    def begin_create_or_update(self, group: str, name: str, body: Any, **named: Any) -> None:
        make = self._calls.service.make
        self._begun(f"make_{self._kind}", lambda: make(self._kind, name, body), **named)

    def begin_delete(self, group: str, name: str, **named: Any) -> None:
        named.pop("force_deletion", None)
        remove = self._calls.service.remove
        self._begun(f"delete_{self._kind}", lambda: remove(self._kind, name), **named)

    def _begun(
        self, call: str, effect: Callable[[], int], *, polling: bool, raw_response_hook: Any
    ) -> None:
        address = f"{_ARM}/operations/{self._calls(call, effect)}"
        headers = {"Azure-AsyncOperation": address, "Retry-After": "1"}
        response = SimpleNamespace(status_code=202, headers=headers)
        request = SimpleNamespace(url=f"{_ARM}/resource")
        raw_response_hook(SimpleNamespace(http_response=response, http_request=request))

    def instance_view(self, group: str, name: str) -> Any:
        def view() -> Any:
            one = self._calls.service.find(self._kind, name)
            codes = [f"ProvisioningState/{one.state}", f"PowerState/{one.power}"]
            return SimpleNamespace(statuses=[SimpleNamespace(code=code) for code in codes])

        return self._calls("instance_view", view)

    def retrieve_boot_diagnostics_data(self, group: str, name: str, **_: Any) -> Any:
        nothing = SimpleNamespace(
            serial_console_log_blob_uri=None, console_screenshot_blob_uri=None
        )
        return self._calls("boot_diagnostics", lambda: nothing)


def _shown(one: Any) -> Any:
    """As the SDK shows a resource; None of none."""
    if one is None:
        return None
    properties = SimpleNamespace(
        provisioning_state=one.state, disk_state="Attached" if one.machine else "Unattached"
    )
    return SimpleNamespace(
        id=one.id, name=one.name, tags=dict(one.tags), properties=properties, managed_by=one.machine
    )


class Management:
    """``ComputeManagementClient`` and ``NetworkManagementClient``."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.disks = Collection(calls, "disk")
        self.virtual_machines = Collection(calls, "machine")
        self.network_interfaces = Collection(calls, "card")

    def send_request(self, request: Any) -> Any:
        """The state of an operation; refused for good, the operation itself has failed."""
        service, number = self._calls.service, int(request.url.rpartition("/")[2])
        try:
            body = self._calls.script.around(
                "service", "poll_operation", lambda: service.status(number)
            )
        except SealiftError as error:
            if type(error) is not TargetError:
                raise as_the_sdk(error) from None
            service.fail(number)
            body = service.status(number)
        return SimpleNamespace(status_code=200, headers={}, text=lambda: "{...}", json=lambda: body)


class SimulatedClients:
    """``AzureClients``, as far as a target in staging uses them."""

    def __init__(self, spec: Any, service: AzureService, script: Script) -> None:
        self.spec = spec
        self._calls = Calls(service, script)
        self.container, self.pages = Container(self._calls), Pages(self._calls)
        self.compute = self.network = Management(self._calls)

    def blob(self, name: str, snapshot: str | None = None) -> BlobClient:
        """One blob, or a snapshot of one."""
        return BlobClient(self._calls, name, snapshot)
