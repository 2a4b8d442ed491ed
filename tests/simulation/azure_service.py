"""What Azure keeps, in memory: blobs with leases and snapshots, disks, cards and machines.

Only the rules that a migration can trip over, each with the page that states it. The connector
is the real one; it talks to these rules instead of to Azure's SDK (``azure_clients``), so that a
whole migration runs in one thread on a virtual clock, thousands of times.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError

from connectors.azure.chain import State, label_of
from converters.vhd import FOOTER_BYTES, parse_footer
from sealift.testing.clock import VirtualClock

OPERATION_SECONDS = 0.5
"""Of an operation or a copy; asked after a second (``Retry-After``) it has ended."""
STALE_SECONDS = 60.0
"""How long Resource Manager may answer as before a change: less than the connector allows for.
"Troubleshoot resource not found errors": a new resource reaches all its regions after a while."""
ACCOUNT = "https://account.blob.core.windows.net"
CONTAINER = "sealift"
GROUP = "/subscriptions/s/resourceGroups/g"
COMPUTE = f"{GROUP}/providers/Microsoft.Compute"
NETWORK = f"{GROUP}/providers/Microsoft.Network/networkInterfaces"


def refusal(status: int, code: str, retry_after: float | None = None) -> HttpResponseError:
    """As the SDK raises it."""
    error: Any = HttpResponseError(message=code)
    headers = {"x-ms-error-code": code}
    if retry_after is not None:
        headers["Retry-After"] = str(int(retry_after))
    error.status_code, error.error_code = status, code
    error.response = SimpleNamespace(headers=headers)
    return error  # type: ignore[no-any-return]


@dataclass
class BlobSnapshot:
    """It never changes ("Snapshot Blob")."""

    content: bytes
    metadata: dict[str, str]


@dataclass
class Blob:
    """A page blob; ``lease`` is "" when nobody holds it, ``broken`` the id whose lease was."""

    content: bytearray
    metadata: dict[str, str]
    etag: int
    lease: str = ""
    broken: str = ""
    copied: bytes | None = None
    copy_ends: float = 0.0
    copy_status: str = ""
    snapshots: dict[str, BlobSnapshot] = field(default_factory=dict)


@dataclass
class Resource:
    """A disk, card or machine; ``parts`` are names of what a machine hangs on."""

    kind: str
    name: str
    tags: dict[str, str]
    ready_at: float
    state: str = "creating"
    content: bytes = b""
    machine: str = ""
    parts: tuple[tuple[str, str], ...] = ()
    power: str = "running"
    gone_at: float | None = None

    @property
    def id(self) -> str:
        """Full ARM id."""
        places = {"disk": f"{COMPUTE}/disks", "card": NETWORK}
        return f"{places.get(self.kind, f'{COMPUTE}/virtualMachines')}/{self.name}"


@dataclass
class Operation:
    """A long-running one: about a resource, which it makes or removes."""

    about: tuple[str, str]
    ends: float
    failed: bool = False


@dataclass
class AzureService:
    """All of it.

    Attributes:
        changes: counts everything that happens.
        past: each resource as it was until some moment, in the order of these.
        sealed: points by number and disk, as they became visible.
        stale_until: till then Resource Manager answers from a region that lags behind.
        next_power: of machines that are made from now on.
        no_capacity: new machines are refused.
    """

    clock: VirtualClock
    blobs: dict[str, Blob] = field(default_factory=dict)
    resources: dict[tuple[str, str], Resource] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    sealed: dict[int, dict[str, str]] = field(default_factory=dict)
    past: dict[tuple[str, str], list[tuple[float, Resource | None]]] = field(default_factory=dict)
    changes: int = 0
    numbers: int = 0
    stale_until: float = 0.0
    next_power: str = "running"
    no_capacity: bool = False

    def settle(self) -> None:
        """What has ended by now shows."""
        now = self.clock.monotonic()
        for blob in self.blobs.values():
            if blob.copied is not None and now >= blob.copy_ends:
                blob.content, blob.copied = bytearray(blob.copied), None
                blob.copy_status = "success"
                self.touch(blob)
        for key, one in list(self.resources.items()):
            if one.gone_at is not None and now >= one.gone_at:
                self._remove(key)
            elif one.state == "creating" and now >= one.ready_at:
                self._note(key)
                one.state = "succeeded"
                self.changes += 1

    def _note(self, key: tuple[str, str]) -> None:
        """Remember a resource that is about to change, or its absence."""
        there, now = self.resources.get(key), self.clock.monotonic()
        kept = [one for one in self.past.get(key, []) if one[0] > now - STALE_SECONDS]
        self.past[key] = [*kept, (now, replace(there) if there else None)]

    def _remove(self, key: tuple[str, str]) -> None:
        """With what has deleteOption Delete ("Delete a VM and attached resources")."""
        self.changes += 1
        for one in (key, *self.resources[key].parts):
            self._note(one)
        gone = self.resources.pop(key)
        for part in gone.parts:
            self.resources.pop(part, None)

    def touch(self, blob: Blob) -> None:
        """It is another one than a moment ago."""
        self.changes += 1
        self.numbers += 1
        blob.etag = self.numbers

    # ------------------------------------------------------------------ blobs

    def blob(self, name: str) -> Blob:
        """ "Blob service error codes": 404 BlobNotFound."""
        self.settle()
        if name not in self.blobs:
            raise refusal(404, "BlobNotFound")
        return self.blobs[name]

    def may_write(self, name: str, lease: str | None, condition: Any, etag: str | None) -> Blob:
        """Conditions first, then the lease ("Lease Blob", table of outcomes)."""
        blob = self.blob(name)
        if condition is MatchConditions.IfMissing:
            raise refusal(409, "BlobAlreadyExists")
        if condition is MatchConditions.IfNotModified and etag != f'"{blob.etag}"':
            raise refusal(412, "ConditionNotMet")
        if blob.lease and lease is None:
            raise refusal(412, "LeaseIdMissing")
        if blob.lease and lease != blob.lease:
            raise refusal(412, "LeaseIdMismatchWithBlobOperation")
        if not blob.lease and lease is not None:
            raise refusal(412, "LeaseLost" if blob.broken else "LeaseNotPresentWithBlobOperation")
        if blob.copied is not None:
            raise refusal(409, "PendingCopyOperation")
        return blob

    def put_blob(
        self,
        name: str,
        size: int,
        metadata: dict[str, str],
        lease: str | None,
        condition: Any,
        etag: str | None,
    ) -> dict[str, str]:
        """ "Put Blob": replaces the bytes; snapshots and lease stay."""
        if name not in self.blobs and condition is not MatchConditions.IfNotModified:
            self.blobs[name] = Blob(bytearray(size), dict(metadata), 0)
        else:
            blob = self.may_write(name, lease, condition, etag)
            blob.content, blob.metadata, blob.copy_status = bytearray(size), dict(metadata), ""
        return self.answer(self.blobs[name])

    def answer(self, blob: Blob) -> dict[str, str]:
        """The headers of a change."""
        self.touch(blob)
        return {"etag": f'"{blob.etag}"'}

    def write(self, blob: Blob, offset: int, data: bytes) -> dict[str, str]:
        """ "Put Page": whole pages within the blob."""
        if offset % 512 or len(data) % 512 or offset + len(data) > len(blob.content):
            raise refusal(416, "InvalidPageRange")
        blob.content[offset : offset + len(data)] = data
        return self.answer(blob)

    def snapshot(self, name: str, blob: Blob, metadata: dict[str, str]) -> dict[str, str]:
        """ "Snapshot Blob": what it says is seen at once."""
        self.numbers += 1
        stamp = f"2026-01-01T00:00:00.{self.numbers:07d}Z"
        blob.snapshots[stamp] = BlobSnapshot(bytes(blob.content), dict(metadata))
        label = label_of(metadata)
        if label is not None and label.state is State.POINT:
            disk = name.rpartition("/")[2].removesuffix(".vhd")
            self.sealed.setdefault(label.seq, {})[disk] = f"{name}@{label.seq}"
        return {**self.answer(blob), "snapshot": stamp}

    def copy(self, name: str, source: str, metadata: dict[str, str], **may: Any) -> None:
        """ "Copy Blob": runs after the call; until it ends nobody changes the destination."""
        address, _, stamp = source.partition("?snapshot=")
        base = self.blobs.get(address.removeprefix(f"{ACCOUNT}/{CONTAINER}/"))
        frozen = base.snapshots.get(stamp) if base is not None else None
        if frozen is None:
            raise refusal(404, "CannotVerifyCopySource")
        if name in self.blobs:
            blob = self.may_write(name, **may)
        else:
            blob = self.blobs[name] = Blob(bytearray(len(frozen.content)), {}, 0)
        blob.metadata, blob.copied, blob.copy_status = dict(metadata), frozen.content, "pending"
        blob.copy_ends = self.clock.monotonic() + OPERATION_SECONDS
        self.touch(blob)

    def delete_blob(self, name: str, stamp: str | None, *, snapshots: bool) -> None:
        """ "Delete Blob": 409 SnapshotsPresent, 412 LeaseIdMissing."""
        blob = self.blob(name)
        if stamp is not None:
            if blob.snapshots.pop(stamp, None) is None:
                raise refusal(404, "BlobNotFound")
        elif blob.lease:
            raise refusal(412, "LeaseIdMissing")
        elif blob.snapshots and not snapshots:
            raise refusal(409, "SnapshotsPresent")
        else:
            del self.blobs[name]
        self.changes += 1

    def lease(self, name: str, held: str, verb: str, proposed: str = "") -> None:
        """ "Lease Blob", table of outcomes of use attempts by lease state."""
        blob = self.blob(name)
        if verb == "break":
            if not blob.lease:
                raise refusal(409, "LeaseNotPresentWithLeaseOperation")
            blob.lease, blob.broken = "", blob.lease
        elif verb == "acquire":
            if blob.lease and blob.lease != held:
                raise refusal(409, "LeaseAlreadyPresent")
            blob.lease, blob.broken = held, ""
        elif not blob.lease:
            code = "LeaseIsBrokenAndCannotBeRenewed" if blob.broken == held else ""
            raise refusal(409, code or "LeaseNotPresentWithLeaseOperation")
        elif blob.lease != held and blob.lease != proposed:
            raise refusal(409, "LeaseIdMismatchWithLeaseOperation")
        elif verb == "change":
            blob.lease = proposed
        self.changes += 1

    # ------------------------------------------------------------------ Resource Manager

    def find(self, kind: str, name: str) -> Resource:
        """404 ResourceNotFound."""
        self.settle()
        if (kind, name) not in self.resources:
            raise refusal(404, "ResourceNotFound")
        return self.resources[kind, name]

    def each(self, kind: str) -> Iterator[Resource]:
        """All of a kind."""
        self.settle()
        return (one for (of, _), one in list(self.resources.items()) if of == kind)

    def fall_behind(self) -> None:
        """From now on, for a while, answers come from a region that lags behind."""
        self.stale_until = self.clock.monotonic() + STALE_SECONDS

    @property
    def behind(self) -> bool:
        """Whether they do."""
        return self.clock.monotonic() < self.stale_until

    def earlier(self, kind: str, name: str) -> Resource | None:
        """What a region that lags behind says of one: as it was a while ago."""
        then = self.clock.monotonic() - STALE_SECONDS
        for until, one in self.past.get((kind, name), []):
            if until > then:
                return one
        return self.resources.get((kind, name))

    def each_earlier(self, kind: str) -> list[Resource]:
        """What such a region lists."""
        names = {name for of, name in (*self.resources, *self.past) if of == kind}
        found = (self.earlier(kind, name) for name in sorted(names))
        return [one for one in found if one is not None]

    def accept(self, about: tuple[str, str]) -> int:
        """The number of the operation that was begun."""
        self.changes += 1
        self.operations.append(Operation(about, self.clock.monotonic() + OPERATION_SECONDS))
        return len(self.operations) - 1

    def make(self, kind: str, name: str, body: dict[str, Any]) -> int:
        """PUT of a resource: what is there already is left as it is.

        "Troubleshoot common Azure deployment errors", Conflict: not while it is being made.
        """
        self.settle()
        there = self.resources.get((kind, name))
        if there is not None and there.state == "creating":
            raise refusal(409, "Conflict")
        if (kind, name) not in self.resources:
            made = Resource(kind, name, body["tags"], self.clock.monotonic() + OPERATION_SECONDS)
            rules: dict[str, Callable[[Resource, dict[str, Any]], None]] = {
                "disk": self._import,
                "machine": self._attach,
            }
            if kind in rules:
                rules[kind](made, body["properties"])
            self._note((kind, name))
            self.resources[kind, name] = made
        return self.accept((kind, name))

    def _import(self, disk: Resource, properties: dict[str, Any]) -> None:
        """ "Disks - Create Or Update", Import: a whole page blob that ends with a VHD footer."""
        address = properties["creationData"]["sourceUri"]
        blob = self.blobs.get(address.removeprefix(f"{ACCOUNT}/{CONTAINER}/"))
        if blob is None or blob.copied is not None:
            raise refusal(400, "InvalidParameter")
        content = bytes(blob.content)
        footer = parse_footer(content[-FOOTER_BYTES:])
        if footer.current_size != len(content) - FOOTER_BYTES:
            raise refusal(400, "InvalidParameter")
        disk.content = content[:-FOOTER_BYTES]

    def _attach(self, machine: Resource, properties: dict[str, Any]) -> None:
        """ "Virtual Machines - Create Or Update": disks and card exist and are nobody's."""
        if self.no_capacity:
            raise refusal(409, "SkuNotAvailable")
        storage = properties["storageProfile"]
        ids = [storage["osDisk"]["managedDisk"]["id"]]
        ids += [one["managedDisk"]["id"] for one in storage["dataDisks"]]
        parts = [("disk", one.rpartition("/")[2]) for one in ids]
        cards = properties["networkProfile"]["networkInterfaces"]
        parts += [("card", one["id"].rpartition("/")[2]) for one in cards]
        for part in parts:
            there = self.resources.get(part)
            if there is None or there.state != "succeeded" or there.gone_at is not None:
                raise refusal(404, "NotFound")
            if there.machine:
                raise refusal(409, "AttachDiskWhileBeingDetached")
        for part in parts:
            self._note(part)
            self.resources[part].machine = machine.name
        machine.parts, machine.power = tuple(parts), self.next_power

    def remove(self, kind: str, name: str) -> int:
        """DELETE: 404 when it is unknown, 409 while it is attached."""
        one = self.find(kind, name)
        if one.machine:
            raise refusal(409, "OperationNotAllowed")
        one.gone_at = one.gone_at or self.clock.monotonic() + OPERATION_SECONDS
        return self.accept((kind, name))

    def status(self, number: int) -> dict[str, Any]:
        """ "Track asynchronous Azure operations"."""
        self.settle()
        operation = self.operations[number]
        if operation.failed:
            return {"status": "Failed", "error": {"code": "OperationFailed", "message": "failed"}}
        ended = self.clock.monotonic() >= operation.ends
        return {"status": "Succeeded" if ended else "InProgress"}

    def fail(self, number: int) -> None:
        """An operation that was accepted fails; what it made is there, and a machine may run."""
        operation = self.operations[number]
        operation.failed = True
        made = self.resources.get(operation.about)
        if made is not None and made.gone_at is None:
            self._note(operation.about)
            made.state = "failed"
        self.changes += 1
