"""An index made anew from the tables of the packs. Nothing is ever deleted by it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sealift.errors import IntegrityError, ObjectMissingError
from sealift.repository.commits import Commit, IndexRef
from sealift.repository.names import RANDOM_BYTES, ObjectKind, index_name, parsed
from sealift.repository.packs import MAX_INDEX_BYTES, Toc, encode_index, read_toc
from sealift.repository.session import Repository
from sealift.sealing.records import RecordKind


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What the packs of the store say.

    Attributes:
        packs: whose table could be read; the new index names them.
        unreadable: packs whose table could not be, and why.
        published: whether a new index was written.
    """

    packs: int
    unreadable: tuple[tuple[str, str], ...]
    published: bool


def rebuild_index(repository: Repository, *, dry_run: bool) -> RepairReport:
    """Read the table of every pack, and publish an index of them all.

    For a repository whose index objects are lost or damaged; open it with ``follows=False``.
    Packs of a sync under way are named too: they are its own to commit, and in the meantime
    only take room. What a pack's own table does not tell is lost; ``check`` says which
    points need it. The old index objects stay, condemned, until a prune removes them.

    Raises:
        IntegrityError: another writer changed the index meanwhile; run it again.
    """
    head = repository.log.head()
    doomed = set(head.commit.doomed)
    tocs: list[Toc] = []
    unreadable: list[tuple[str, str]] = []
    for name, size in _packs(repository):
        if name in doomed:
            continue
        try:
            tocs.append(_table(repository, name, size))
        except (IntegrityError, ObjectMissingError) as error:
            unreadable.append((name, error.message))
    if dry_run:
        return RepairReport(len(tocs), tuple(unreadable), published=False)
    refs = tuple(_written(repository, part) for part in _parts(tocs))
    before = head.commit.indexes

    def change(commit: Commit) -> Commit:
        if commit.indexes != before:
            raise IntegrityError(
                "another writer changed the index meanwhile", next_step="run it again"
            )
        return replace(commit, indexes=refs)

    repository.log.publish(change)
    repository.refresh()
    return RepairReport(len(tocs), tuple(unreadable), published=True)


def _packs(repository: Repository) -> Iterator[tuple[str, int]]:
    for info in repository.store.list(f"{ObjectKind.PACK.value}/"):
        if parsed(info.name) is not None:
            yield info.name, info.size


def _table(repository: Repository, name: str, size: int) -> Toc:
    def get(start: int, length: int) -> bytes:
        return repository.store.get(name, start, length)

    return read_toc(name, size, get, repository.records)


def _parts(tocs: list[Toc]) -> Iterator[list[Toc]]:
    part: list[Toc] = []
    for toc in tocs:
        if part and sum(len(t.body) for t in part) + len(toc.body) > MAX_INDEX_BYTES:
            yield part
            part = []
        part.append(toc)
    if part:
        yield part


def _written(repository: Repository, tocs: list[Toc]) -> IndexRef:
    name = index_name(repository.ring.entropy(RANDOM_BYTES))
    sealed = repository.records.seal(RecordKind.INDEX, name, encode_index(tocs))
    repository.store.put(name, sealed, lock_until=repository.locks.until())
    return IndexRef(name, hashlib.sha256(sealed).digest())
