"""What the owner of a container has set for it, as far as its blobs' credentials may ask.

Rules of the account that move or delete blobs by their age ("lifecycle management policies") and
whether it keeps versions are said by the Resource Manager alone, to other permissions; that they
were not asked is said, with the command that does.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from connectors.azure.blob_wire import Answer, Ask, BlobWire
from connectors.azure.blob_xml import parsed
from connectors.azure.errors import code_of
from connectors.azure.object_blob import BlobSpec, LockMode
from sealift.errors import SealiftError, TargetDeniedError, TransientError
from sealift.objects_check import Finding, Verdict

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

_SERVICE = "Microsoft.Storage/storageAccounts/blobServices"
_ACCOUNT_INFO = f"{_SERVICE}/getInfo/action"
_CONTAINER_READ = f"{_SERVICE}/containers/read"
_SERVICE_READ = f"{_SERVICE}/read"
_YES = "true"
_NAMES = {
    "namespace": "namespace",
    "lock": "lock of the container",
    "access": "public access",
    "deleted": "soft delete",
    "lifecycle": "lifecycle rules",
}


def container_findings(
    spec: BlobSpec, credential: "TokenCredential | None" = None
) -> Iterator[Finding]:
    """One finding for each setting that bears on a repository.

    Args:
        spec: the container, and whether locks are used.
        credential: None takes the standard chain.
    """
    with closing(BlobWire(spec, credential)) as wire:
        account = Ask(
            *(_ACCOUNT_INFO, "GET", spec.container),
            *({"restype": "account", "comp": "properties"}, {}),
        )
        container = Ask(_CONTAINER_READ, "GET", spec.container, {"restype": "container"}, {})
        service = Ask(
            *(_SERVICE_READ, "GET", ""), *({"restype": "service", "comp": "properties"}, {})
        )
        yield from _asked(wire, account, _NAMES["namespace"], _namespace)
        yield from _asked(wire, container, _NAMES["lock"], lambda said: _container(spec, said))
        yield from _asked(wire, service, _NAMES["deleted"], _soft_delete)
    yield _lifecycle(spec)


def _asked(
    wire: BlobWire, ask: Ask, capability: str, read: Callable[[Answer], Iterator[Finding]]
) -> Iterator[Finding]:
    try:
        found = list(read(wire.call(ask)))
    except TargetDeniedError:
        text = f"these credentials may not ask ({ask.action})"
        yield Finding(capability, Verdict.NOTE, text, f"allow {ask.action} to know")
    except SealiftError as error:
        said = f"not known: {code_of(error) or error.message}"
        yield Finding(capability, Verdict.NOTE, said, error.next_step)
    else:
        yield from found


def _namespace(said: Answer) -> Iterator[Finding]:
    """A hierarchical one lists folders before files, and folders beside blobs."""
    name = _NAMES["namespace"]
    if said.headers.get("x-ms-is-hns-enabled", "").lower() == _YES:
        text = "the account has a hierarchical namespace (Data Lake Storage Gen2)"
        step = "use an account without it: its lists have another order, and name folders"
        yield Finding(name, Verdict.BAD, text, step)
    else:
        yield Finding(name, Verdict.GOOD, "flat")


def _container(spec: BlobSpec, said: Answer) -> Iterator[Finding]:
    yield from _lock(spec, said)
    access = said.headers.get("x-ms-blob-public-access", "")
    if access:
        text = f"anybody may read this container without credentials ({access})"
        step = "`az storage container set-permission --public-access off`"
        yield Finding(_NAMES["access"], Verdict.DEGRADED, text, step)


def _lock(spec: BlobSpec, said: Answer) -> Iterator[Finding]:
    name = _NAMES["lock"]
    flag = said.headers.get("x-ms-immutable-storage-with-versioning-enabled", "").lower()
    if said.headers.get("x-ms-has-legal-hold", "").lower() == _YES:
        text = "the container is on legal hold"
        yield Finding(name, Verdict.NOTE, text, "prune cannot free anything while it lasts")
    if spec.lock_mode is not None and flag != _YES:
        step = "make a container with version-level immutability, or leave the lock out"
        text = "this container has no version-level immutability"
        yield Finding(name, Verdict.BAD, text, step)
        return
    if flag != _YES and said.headers.get("x-ms-has-immutability-policy", "").lower() == _YES:
        text = "a policy of the whole container keeps every blob from being replaced or deleted"
        step = "locks and leases of a repository need both: use version-level immutability"
        yield Finding(name, Verdict.BAD, text, step)
        return
    if spec.lock_mode is LockMode.UNLOCKED:
        text = "unlocked policies: who may lock a blob may end its lock, too"
        step = "for protection from our own credentials use lock.mode compliance"
        yield Finding(name, Verdict.DEGRADED, text, step)
        return
    possible = "possible for each blob" if flag == _YES else "none: whoever may delete can delete"
    yield Finding(name, Verdict.NOTE, possible)


def _soft_delete(said: Answer) -> Iterator[Finding]:
    root = parsed(said.body)
    if root is None:
        raise TransientError(f"{_SERVICE_READ}: the answer cannot be read")
    policy = root.find("DeleteRetentionPolicy")
    enabled = policy is not None and (policy.findtext("Enabled") or "").lower() == _YES
    days = "" if policy is None else policy.findtext("Days") or ""
    if enabled:
        text = f"what is deleted or replaced can be brought back for {days} days, and costs"
    else:
        text = "off: what an intruder deletes is gone, unless the account keeps versions"
    yield Finding(_NAMES["deleted"], Verdict.NOTE, text)


def _lifecycle(spec: BlobSpec) -> Finding:
    command = f"az storage account management-policy show --account-name {spec.account}"
    return Finding(
        _NAMES["lifecycle"],
        Verdict.NOTE,
        "not asked: a rule that deletes or archives blobs by their age would take points away",
        f"see that none touches {spec.container}/{spec.prefix}: `{command}`",
    )
