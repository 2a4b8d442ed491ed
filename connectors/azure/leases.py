"""Leases on staging blobs: only the writer of the current point may write.

"Lease Blob" states the rules that this module stands on: a lease without end is held until it
is released, changed or broken; acquiring it with the id that holds it succeeds; renewing
succeeds only for the id that holds it and never after it was broken; a write to a leased blob
needs its id. So a lease that can be renewed or changed has been ours without a gap.
"""

from dataclasses import dataclass

from azure.storage.blob import BlobLeaseClient

from connectors.azure.actions import WRITE
from connectors.azure.chain import Label
from connectors.azure.errors import azure_call, code_of
from connectors.azure.names import Owner
from connectors.azure.session import AzureClients
from sealift.errors import LockedError, TargetError

_LEASED_BY_ANOTHER = frozenset(
    {
        "LeaseAlreadyPresent",
        "LeaseIdMismatchWithBlobOperation",
        "LeaseIdMismatchWithLeaseOperation",
        "LeaseIdMissing",
    }
)
_MOST_UNLABELLED = 64
"""Rounds in a row that may have been killed at the very same call."""
_NOT_HELD = _LEASED_BY_ANOTHER | {
    "LeaseAlreadyBroken",
    "LeaseIsAlreadyBroken",
    "LeaseIsBreakingAndCannotBeAcquired",
    "LeaseIsBreakingAndCannotBeChanged",
    "LeaseIsBrokenAndCannotBeRenewed",
    "LeaseLost",
    "LeaseNotPresentWithBlobOperation",
    "LeaseNotPresentWithLeaseOperation",
}


def is_not_held(error: TargetError) -> bool:
    """Whether the service says that a lease is not ours (any more)."""
    return code_of(error) in _NOT_HELD


def lease_lost(blob_name: str, error: TargetError) -> LockedError:
    """What the user is told when somebody else writes to a staging blob, or broke its lease."""
    return LockedError(
        f"staging blob {blob_name} is leased by another writer, or its lease was broken: "
        f"{code_of(error)}",
        next_step="see who else writes to it, end that, then run the same command again",
        blob=blob_name,
        **error.operands,
    )


@dataclass(frozen=True, slots=True)
class Leases:
    """The leases of one migration.

    Args:
        clients: SDK clients.
        owner: whose they are; lease ids follow from it.
    """

    clients: AzureClients
    owner: Owner

    def kept(self, name: str, seq: int, label: Label | None) -> bool:
        """Hold the blob for point ``seq``, if this migration has held it without a gap.

        Args:
            name: of the blob.
            seq: the point that is to be written.
            label: what the blob says, and so whose lease it should have now.

        Returns:
            Whether it is held, and nobody else can have written to it. If not, its lease is
            free or another's, and what the blob says of its bytes may be untrue: that has to
            be taken back before ``acquire``, or whoever finds the new lease believes it.
        """
        if label is not None and label.seq != seq and self._changed(name, label.seq, seq):
            return True
        if self.renewed(name, seq):
            return True
        return label is not None and self._taken_over(name, label.seq, seq)

    def acquire(self, name: str, seq: int) -> None:
        """Hold a free blob for point ``seq``.

        Raises:
            LockedError: somebody else holds it.
        """
        try:
            with azure_call(WRITE):
                self._client(name, seq).acquire(lease_duration=-1)
        except TargetError as error:
            if not is_not_held(error):
                raise
            raise lease_lost(name, error) from None

    def _taken_over(self, name: str, labelled: int, seq: int) -> bool:
        """Take the lease from a run of ours that ended between changing it and the label.

        It has written nothing then: writers begin after the label. There may have been
        several such runs, each for a point of its own.
        """
        between = range(seq - 1, max(labelled, seq - _MOST_UNLABELLED), -1)
        return any(self._changed(name, before, seq) for before in between)

    def renewed(self, name: str, seq: int) -> bool:
        """Whether the lease of point ``seq`` is held, and has been since it was acquired."""
        try:
            with azure_call(WRITE):
                self._client(name, seq).renew()
        except TargetError as error:
            if is_not_held(error):
                return False
            raise
        return True

    def _changed(self, name: str, before: int, seq: int) -> bool:
        try:
            with azure_call(WRITE):
                self._client(name, before).change(self.owner.lease_id(name, seq))
        except TargetError as error:
            if is_not_held(error):
                return False
            raise
        return True

    def broken(self, name: str) -> None:
        """End whatever lease there is; for blobs of this migration that are to be deleted."""
        try:
            with azure_call(WRITE):
                self._client(name, 0).break_lease(0)
        except TargetError as error:
            if not is_not_held(error):
                raise

    def _client(self, name: str, seq: int) -> BlobLeaseClient:
        return BlobLeaseClient(self.clients.blob(name), self.owner.lease_id(name, seq))
