"""The EBS direct API: six operations with the rules that AWS documents for them.

Knows nothing of HTTP and nothing of moto. ``docs/sandbox.md`` names the source of every
rule.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from sandbox.aws.blocks import BLOCK_BYTES
from sandbox.aws.digests import encoded, sha256
from sandbox.aws.errors import Reason, conflict, not_found, too_many_pending, validation
from sandbox.aws.limits import RateLimits
from sandbox.aws.paging import BlockPage, PageRequest, page_of
from sandbox.aws.rules import Rules
from sandbox.aws.snapshots import (
    Completion,
    SnapshotFacts,
    SnapshotRecord,
    SnapshotState,
    changed_blocks,
)
from sandbox.aws.store import BlockStore
from sandbox.aws.tokens import TokenMint
from sealift.clock import Clock

_MAX_SIZE_GIB = 65_536
_TIMEOUT_MINUTES = range(10, 4_321)
_DEFAULT_TIMEOUT_MINUTES = 60
_MAX_TAGS = 50
_MAX_TOKEN_CHARS = 64


@dataclass(frozen=True, slots=True)
class StartRequest:
    """The arguments of StartSnapshot; ``None`` where the caller gave nothing."""

    size_gib: int
    description: str = ""
    parent_id: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    client_token: str | None = None
    encrypted: bool | None = None
    kms_key_arn: str | None = None
    timeout_minutes: int | None = None


@dataclass(frozen=True, slots=True)
class PutRequest:
    """The arguments of PutSnapshotBlock."""

    index: int
    data: bytes
    data_length: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Block:
    """The answer of GetSnapshotBlock."""

    data: bytes
    checksum: str


class SnapshotHost(Protocol):
    """What the direct API needs of EC2 and KMS in its region."""

    account_id: str
    """Who owns what is made here."""

    def new_snapshot_id(self) -> str:
        """A snapshot id that nobody has."""

    def publish(self, record: SnapshotRecord, tags: Sequence[tuple[str, str]]) -> None:
        """Let EC2 show the snapshot."""

    def encryption_by_default(self) -> bool:
        """Whether the account encrypts every new volume and snapshot."""

    def default_key_arn(self) -> str:
        """The account's key for EBS; made when there is none."""

    def check_key(self, arn: str) -> None:
        """Refuse a key that does not exist or cannot be used."""


class DirectApi:
    """The operations for one region. Safe from several threads."""

    def __init__(self, host: SnapshotHost, store: BlockStore, rules: Rules, clock: Clock) -> None:
        self._host = host
        self._store = store
        self._clock = clock
        self._records: dict[str, SnapshotRecord] = {}
        self._started: dict[str, tuple[StartRequest, SnapshotRecord]] = {}
        self._last_diff: tuple[tuple[str, str], Mapping[int, tuple[bool, bool]]] | None = None
        self._lock = threading.RLock()
        self._mint = TokenMint()
        self.rules = rules
        self.limits = RateLimits(rules.quotas, clock)

    @property
    def owner_id(self) -> str:
        """The account."""
        return self._host.account_id

    def start(self, request: StartRequest) -> SnapshotRecord:
        """StartSnapshot; the same client token and arguments give the same snapshot."""
        self.limits.start()
        _check_start(request)
        with self._lock:
            known = self._started.get(request.client_token or "")
            if known is not None:
                if known[0] != request:
                    raise conflict("The client token was used with different parameters")
                return known[1]
            record = self._new_record(request)
            if request.client_token:
                self._started[request.client_token] = (request, record)
            return record

    def put(self, snapshot_id: str, request: PutRequest) -> str:
        """PutSnapshotBlock; the checksum of what was stored."""
        self.limits.put(snapshot_id)
        record = self.record(snapshot_id)
        _check_put(record, request)
        digest = sha256(request.data)
        if encoded(digest) != request.checksum:
            raise validation("The checksum does not match the block data", Reason.INVALID_BLOCK)
        self._check_key(record)
        record.put(request.index, request.data, digest)
        return request.checksum

    def complete(self, snapshot_id: str, completion: Completion) -> SnapshotState:
        """CompleteSnapshot; pending while it still completes."""
        self.limits.complete()
        record = self.record(snapshot_id)
        record.complete(completion, self.rules.completing_delay_seconds)
        return record.state

    def get(self, snapshot_id: str, index: int, token: str) -> Block:
        """GetSnapshotBlock; needs a token from a listing."""
        self.limits.get(snapshot_id)
        record = self._readable(snapshot_id)
        self._mint.check_block(token, snapshot_id, index, self._clock.now())
        self._check_key(record)
        layer = record.blocks.find(index)
        if layer is None:
            raise not_found(snapshot_id)
        return Block(layer.read(index), encoded(layer.digest(index)))

    def list_blocks(self, snapshot_id: str, page: PageRequest) -> BlockPage:
        """ListSnapshotBlocks: written blocks only, ascending."""
        self.limits.list_blocks()
        record = self._readable(snapshot_id)
        indices = record.blocks.ordered()
        chosen = self._page(page, f"list|{snapshot_id}", indices)
        return self._listed(record, [(i, None, record) for i in chosen[0]], chosen[1])

    def list_changed(self, first_id: str, second_id: str, page: PageRequest) -> BlockPage:
        """ListChangedBlocks: both directions, ascending; refuses foreign lineages."""
        self.limits.list_changed()
        first, second = self._readable(first_id), self._readable(second_id)
        if first.facts.lineage != second.facts.lineage:
            message = "The snapshots do not share a lineage"
            raise validation(message, Reason.UNRELATED_SNAPSHOTS)
        changed = self._changed(first, second)
        indices, next_token = self._page(page, f"diff|{first_id}|{second_id}", list(changed))
        sides = [
            (i, first if changed[i][0] else None, second if changed[i][1] else None)
            for i in indices
        ]
        return self._listed(second, sides, next_token)

    def record(self, snapshot_id: str) -> SnapshotRecord:
        """A snapshot that exists and may be seen."""
        record = self._records.get(snapshot_id)
        if record is None or not record.visible:
            raise not_found(snapshot_id)
        return record

    def adopt(self, record: SnapshotRecord) -> None:
        """Make a snapshot of EC2's own making readable here."""
        with self._lock:
            self._records[record.snapshot_id] = record

    def drop(self, snapshot_id: str) -> None:
        """Forget a deleted snapshot and free its blocks; its client token stays used."""
        with self._lock:
            record = self._records.pop(snapshot_id, None)
        if record is not None:
            record.close()
        self.limits.forget(snapshot_id)

    def _new_record(self, request: StartRequest) -> SnapshotRecord:
        parent = self._parent(request)
        key_arn = self._key_for(request, parent)
        pending = sum(r.state is SnapshotState.PENDING for r in self._records.values())
        if pending >= self.limits.quotas.pending_snapshots:
            raise too_many_pending(self.limits.quotas.pending_snapshots)
        snapshot_id = self._host.new_snapshot_id()
        facts = self._facts(snapshot_id, request, parent, key_arn)
        inherited = parent.blocks.share() if parent else ()
        layer = self._store.new_layer(snapshot_id)
        record = SnapshotRecord(facts, layer, inherited, self._clock)
        record.visible_at += self.rules.visibility_delay_seconds
        self._records[snapshot_id] = record
        self._host.publish(record, request.tags)
        return record

    def _facts(
        self,
        snapshot_id: str,
        request: StartRequest,
        parent: SnapshotRecord | None,
        key_arn: str | None,
    ) -> SnapshotFacts:
        return SnapshotFacts(
            snapshot_id=snapshot_id,
            size_gib=request.size_gib,
            lineage=parent.facts.lineage if parent else snapshot_id,
            started_at=self._clock.now(),
            description=request.description,
            parent_id=parent.snapshot_id if parent else None,
            kms_key_arn=key_arn,
            encrypted=key_arn is not None,
            timeout_seconds=60.0 * (request.timeout_minutes or _DEFAULT_TIMEOUT_MINUTES),
        )

    def _parent(self, request: StartRequest) -> SnapshotRecord | None:
        if request.parent_id is None:
            return None
        parent = self._readable(request.parent_id)
        if request.size_gib < parent.facts.size_gib:
            message = f"The parent snapshot needs {parent.facts.size_gib} GiB"
            raise validation(message, Reason.INVALID_VOLUME_SIZE)
        return parent

    def _key_for(self, request: StartRequest, parent: SnapshotRecord | None) -> str | None:
        by_default = self._host.encryption_by_default()
        if parent is not None:
            if by_default and not parent.facts.encrypted:
                raise validation("Encryption by default is on and the parent is unencrypted")
            arn = parent.facts.kms_key_arn
        elif request.encrypted is False and by_default:
            raise validation("Encryption by default is on: the snapshot cannot be unencrypted")
        elif request.encrypted or by_default:
            arn = request.kms_key_arn or self._host.default_key_arn()
        else:
            arn = None
        if arn is not None:
            self._host.check_key(arn)
        return arn

    def _check_key(self, record: SnapshotRecord) -> None:
        if record.facts.kms_key_arn is not None:
            self._host.check_key(record.facts.kms_key_arn)

    def _readable(self, snapshot_id: str) -> SnapshotRecord:
        record = self.record(snapshot_id)
        state = record.state
        if state is not SnapshotState.COMPLETED:
            message = f"The snapshot '{snapshot_id}' is {state.value}, not completed"
            raise validation(message, Reason.INVALID_SNAPSHOT_ID)
        return record

    def _changed(
        self, first: SnapshotRecord, second: SnapshotRecord
    ) -> Mapping[int, tuple[bool, bool]]:
        key = (first.snapshot_id, second.snapshot_id)
        known = self._last_diff
        if known is None or known[0] != key:  # the pages of one listing follow each other
            known = self._last_diff = (key, changed_blocks(first, second))
        return known[1]

    def _page(
        self, page: PageRequest, query: str, indices: Sequence[int]
    ) -> tuple[Sequence[int], str | None]:
        now = self._clock.now()
        start = page.start_index
        if page.token is not None:
            start = self._mint.check_page(page.token, query, now)
        chosen, next_index = page_of(indices, start, page)
        if next_index is None:
            return chosen, None
        expiry = now + timedelta(seconds=self.rules.page_token_seconds)
        return chosen, self._mint.page(query, next_index, expiry)

    def _listed(
        self,
        shown: SnapshotRecord,
        sides: Sequence[tuple[int, SnapshotRecord | None, SnapshotRecord | None]],
        next_token: str | None,
    ) -> BlockPage:
        expiry = self._clock.now() + timedelta(seconds=self.rules.block_token_seconds)
        with self._lock:
            shown.listing += 1
            listing = shown.listing

        def token(record: SnapshotRecord | None, index: int) -> str | None:
            if record is None:
                return None
            return self._mint.block(record.snapshot_id, index, listing, expiry)

        entries = [(i, token(one, i), token(two, i)) for i, one, two in sides]
        return BlockPage(tuple(entries), shown.facts.size_gib, expiry, next_token)


def _check_start(request: StartRequest) -> None:
    if not 1 <= request.size_gib <= _MAX_SIZE_GIB:
        raise validation(
            f"The volume size must be 1 to {_MAX_SIZE_GIB} GiB", Reason.INVALID_VOLUME_SIZE
        )
    minutes = request.timeout_minutes
    if minutes is not None and minutes not in _TIMEOUT_MINUTES:
        raise validation("Timeout must be between 10 and 4320 minutes")
    if len(request.tags) > _MAX_TAGS or any(key.startswith("aws:") for key, _ in request.tags):
        raise validation(f"At most {_MAX_TAGS} tags, none starting 'aws:'", Reason.INVALID_TAG)
    token = request.client_token or ""
    if len(token) > _MAX_TOKEN_CHARS or not token.isascii():
        raise validation(f"A client token has at most {_MAX_TOKEN_CHARS} ASCII characters")
    _check_encryption_arguments(request)


def _check_encryption_arguments(request: StartRequest) -> None:
    if request.parent_id is not None:
        if request.encrypted is not None:
            raise validation("ParentSnapshotId and Encrypted cannot be used together")
        if request.kms_key_arn is not None:
            raise validation("ParentSnapshotId and KmsKeyArn cannot be used together")
    elif request.kms_key_arn is not None and not request.encrypted:
        raise validation("KmsKeyArn needs Encrypted", Reason.INVALID_PARAMETER_VALUE)


def _check_put(record: SnapshotRecord, request: PutRequest) -> None:
    if request.data_length != BLOCK_BYTES or len(request.data) != BLOCK_BYTES:
        message = f"A block has {BLOCK_BYTES} bytes, DataLength and body must agree"
        raise validation(message, Reason.INVALID_BLOCK)
    if not 0 <= request.index < record.end_index:
        message = f"Block index {request.index} is outside the volume"
        raise validation(message, Reason.INVALID_BLOCK)
