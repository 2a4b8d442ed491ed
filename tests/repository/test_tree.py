"""The block map: an updated tree is the tree built from scratch, and a diff is what changed."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.errors import IntegrityError
from sealift.repository.tree import (
    FANOUT,
    ID_BYTES,
    NODE_BYTES,
    ZERO_ID,
    Run,
    Tree,
    built,
    changed,
    decode_node,
    encode_node,
    nodes,
    runs,
)
from sealift.units import GiB, KiB, MiB, TiB
from tests.conftest import Evidence

CHUNK = 64 * KiB
Ids = dict[int, bytes]


class Nodes:
    """Where nodes are kept; the same plaintext is stored once."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}
        self.stored_bytes = 0
        self.stored = 0
        self.loaded = 0

    def store(self, data: bytes) -> bytes:
        name = hashlib.sha256(data).digest()
        if name not in self.held:
            self.stored += 1
            self.stored_bytes += len(data)
        self.held[name] = data
        return name

    def load(self, name: bytes) -> bytes:
        self.loaded += 1
        return self.held[name]


def empty(size: int) -> Tree:
    return Tree(size, CHUNK, ZERO_ID)


def fresh(size: int, ids: Ids, held: Nodes) -> Tree:
    return built(empty(size), sorted(ids.items()), held.load, held.store)


def chunk_id(value: int) -> bytes:
    return ZERO_ID if value == 0 else hashlib.sha256(str(value).encode()).digest()


def content(tree: Tree, held: Nodes) -> Ids:
    found: Ids = {}
    at = 0
    for run in runs(tree, held.load):
        assert run.start == at
        assert run.count > 0
        at += run.count
        if run.ids is not None:
            assert len(run.ids) == run.count * ID_BYTES
            for n in range(run.count):
                one = run.ids[n * ID_BYTES : (n + 1) * ID_BYTES]
                if one != ZERO_ID:
                    found[run.start + n] = one
    assert at == tree.chunks
    return found


CHUNKS = st.sampled_from([1, 63, 64, 65, 200, 64 * 64 - 1, 64 * 64, 64 * 64 + 1, 300_000])


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, Ids, Ids]:
    before = draw(CHUNKS)
    after = max(before, draw(CHUNKS))

    def changes(chunks: int) -> Ids:
        near = st.integers(0, min(chunks, 140) - 1)
        places = st.one_of(near, st.integers(0, chunks - 1), st.just(chunks - 1))
        values = st.integers(0, 4).map(chunk_id)
        return draw(st.dictionaries(places, values, max_size=12))

    return before, after, changes(before), changes(after)


@settings(max_examples=300, deadline=None)
@given(histories())
def test_an_updated_tree_is_the_tree_built_from_scratch(
    history: tuple[int, int, Ids, Ids],
) -> None:
    before, after, first, second = history
    held = Nodes()
    old = fresh(before * CHUNK, first, held)
    new = built(old, sorted(second.items()), held.load, held.store, after * CHUNK)
    assert new == fresh(after * CHUNK, {**first, **second}, Nodes())
    expected = {n: one for n, one in {**first, **second}.items() if one != ZERO_ID}
    assert content(new, held) == expected


@settings(max_examples=300, deadline=None)
@given(histories())
def test_a_diff_names_what_differs_and_nothing_else(history: tuple[int, int, Ids, Ids]) -> None:
    before, after, first, second = history
    held = Nodes()
    old = fresh(before * CHUNK, first, held)
    new = built(old, sorted(second.items()), held.load, held.store, after * CHUNK)
    was, now = content(old, held), content(new, held)
    differs = {n for n in was.keys() | now.keys() if was.get(n) != now.get(n)}
    found = list(changed(old, new, held.load))
    assert {n for start, count in found for n in range(start, start + count)} == differs
    starts = [start for start, _ in found]
    assert starts == sorted(starts)
    backwards = list(changed(new, old, held.load))
    seen = {n for start, count in backwards for n in range(start, start + count)}
    assert seen == {n for n in differs if n < before}


@settings(max_examples=100, deadline=None)
@given(CHUNKS, st.data())
def test_any_part_of_a_tree_can_be_walked(chunks: int, data: st.DataObject) -> None:
    held = Nodes()
    places = data.draw(st.sets(st.integers(0, chunks - 1), max_size=6))
    ids = {n: chunk_id(n + 1) for n in places}
    tree = fresh(chunks * CHUNK, ids, held)
    start = data.draw(st.integers(0, chunks))
    end = data.draw(st.integers(0, chunks + 5))
    found: list[Run] = list(runs(tree, held.load, start, end))
    assert sum(run.count for run in found) == max(0, min(end, chunks) - start)
    named = {
        run.start + n: run.ids[n * ID_BYTES : (n + 1) * ID_BYTES]
        for run in found
        if run.ids is not None
        for n in range(run.count)
    }
    assert {n: one for n, one in named.items() if one != ZERO_ID} == {
        n: one for n, one in ids.items() if start <= n < end
    }


def test_metadata_of_scattered_changes_grows_with_them(evidence: Evidence) -> None:
    """1,000 scattered chunks of a full disk of 16 TiB; the bar is 8 MiB."""
    size, rng = 16 * TiB, random.Random(1)
    held = Nodes()

    def load(name: bytes) -> bytes:
        found = held.held.get(name)
        return found if found is not None else full_node(name)

    def full_node(name: bytes) -> bytes:
        level = levels[name]
        ids = b"".join(hashlib.sha256(name + bytes([n])).digest() for n in range(FANOUT))
        if level:
            for at in range(0, NODE_BYTES, ID_BYTES):
                levels[ids[at : at + ID_BYTES]] = level - 1
        return encode_node(level, ids)

    root = hashlib.sha256(b"a full disk").digest()
    tree = Tree(size, CHUNK, root)
    levels = {root: tree.height - 1}
    places = sorted(rng.sample(range(tree.chunks), 1000))
    ids = {n: rng.randbytes(ID_BYTES) for n in places}
    new = built(tree, ids.items(), load, held.store)
    assert list(changed(tree, new, load)) == [(n, 1) for n in places]
    evidence(
        "metadata of 1,000 scattered changes in 16 TiB",
        f"{held.stored} nodes, {held.stored_bytes / MiB:.1f} MiB",
    )
    assert held.stored_bytes < 8 * MiB


def test_the_same_content_shares_every_node() -> None:
    held = Nodes()
    ids = {n: chunk_id(n + 1) for n in range(5000)}
    tree = fresh(GiB, ids, held)
    stored = held.stored
    assert built(tree, sorted(ids.items()), held.load, held.store) == tree
    assert held.stored == stored
    assert list(changed(tree, tree, held.load)) == []


def test_what_was_seen_is_not_entered_again() -> None:
    held = Nodes()
    tree = fresh(GiB, {n: chunk_id(n + 1) for n in range(5000)}, held)
    newer = built(tree, [(7, chunk_id(99_999))], held.load, held.store)
    seen: set[bytes] = set()

    def enter(node: bytes) -> bool:
        new = node not in seen
        seen.add(node)
        return new

    first = list(nodes(tree, held.load, enter))
    second = list(nodes(newer, held.load, enter))
    assert len(first) == held.stored - 3
    assert [level for level, _, _ in second] == [2, 1, 0]


@pytest.mark.fault(48)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 9,
        b"\1" + b"\xff" * 8 + b"i" * NODE_BYTES,
        b"\0" + b"\xff" * 8 + b"i" * (NODE_BYTES - 1),
        b"\0" + b"\xff" * 8 + b"i" * (NODE_BYTES + 32),
        b"\0" + (1).to_bytes(8, "big"),
        b"\0" + (3).to_bytes(8, "big") + b"i" * 32,
    ],
)
def test_what_is_no_leaf_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode_node(0, data)


@given(st.lists(st.integers(0, 3), min_size=FANOUT, max_size=FANOUT).filter(any), st.integers(0, 6))
def test_nodes_come_back_as_they_were(values: list[int], level: int) -> None:
    ids = b"".join(chunk_id(v) for v in values)
    assert decode_node(level, encode_node(level, ids)) == ids


@pytest.mark.parametrize("indexes", [[5, 5], [6, 5], [16], [-1]])
def test_changes_out_of_order_or_place_are_refused(indexes: list[int]) -> None:
    held = Nodes()
    with pytest.raises(ValueError, match="chunk"):
        built(empty(16 * CHUNK), [(n, chunk_id(1)) for n in indexes], held.load, held.store)


def test_a_tree_does_not_shrink() -> None:
    held = Nodes()
    with pytest.raises(ValueError, match="shrink"):
        built(empty(16 * CHUNK), [], held.load, held.store, 15 * CHUNK)
