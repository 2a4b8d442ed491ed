"""QEMU's block layer as it is now: devices, nodes, bitmaps, who uses whom, exports.

Everything is decided from this one picture, read afresh in every call, never from what
Sealift remembers (I9).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from connectors.qemu import answers
from connectors.qemu.qmp import QmpSession


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A named dirty bitmap on a node.

    ``count`` is bytes, a multiple of ``granularity``; busy means exported or in a job.
    """

    node: str
    name: str
    recording: bool
    busy: bool
    inconsistent: bool
    persistent: bool
    granularity: int
    count: int


@dataclass(frozen=True, slots=True)
class Node:
    """A block node; ``size`` in bytes, as whoever reads it sees it."""

    name: str
    driver: str
    size: int
    bitmaps: tuple[Bitmap, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """A guest device with a medium.

    Attributes:
        qdev: QEMU's handle for limits: a device id or a QOM path.
        top: the node that it reads and writes.
        read_only: the medium cannot be written.
        limits: bytes and operations per second somebody set, by QEMU's field names; without
            the fields that are 0.
        group: throttle group in which the limits count, or "".
    """

    qdev: str
    top: str
    read_only: bool
    limits: Mapping[str, int]
    group: str


class ParentKind(Enum):
    """What uses a node."""

    NODE = "block-driver"
    DEVICE = "block-backend"
    JOB = "block-job"


@dataclass(frozen=True, slots=True)
class Edge:
    """One use of a node: ``parent`` uses ``child`` as its ``role`` ("file", "backing", "root")."""

    parent: str
    kind: ParentKind
    role: str
    child: str
    writes: bool


@dataclass(frozen=True, slots=True)
class Export:
    """An export of the NBD server, ours or not."""

    id: str
    node: str
    shutting_down: bool


@dataclass(frozen=True, slots=True)
class BlockState:
    """One picture of the block layer."""

    devices: tuple[Device, ...]
    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    exports: tuple[Export, ...]

    def child(self, node: str, role: str) -> str | None:
        """The node that ``node`` uses in a role."""
        found = (e.child for e in self.edges if e.parent == node and e.role == role)
        return next(found, None)

    def parents(self, node: str) -> tuple[Edge, ...]:
        """All uses of a node."""
        return tuple(e for e in self.edges if e.child == node)

    def bitmaps(self, node: str) -> tuple[Bitmap, ...]:
        """Named bitmaps of a node; none when there is no such node."""
        return self.nodes[node].bitmaps if node in self.nodes else ()


def load_block_state(qmp: QmpSession) -> BlockState:
    """Read the picture; a few milliseconds. Nothing changes."""
    named = answers.objects(qmp.execute("query-named-block-nodes", flat=True), "block nodes")
    nodes = {node.name: node for node in map(_node, named)}
    return BlockState(
        devices=_devices(qmp),
        nodes=nodes,
        edges=_edges(answers.as_mapping(qmp.execute("x-debug-query-block-graph"), "block graph")),
        exports=_exports(qmp),
    )


def _devices(qmp: QmpSession) -> tuple[Device, ...]:
    blocks = answers.objects(qmp.execute("query-block"), "query-block")
    return tuple(_device(b) for b in blocks if "inserted" in b and answers.optional_text(b, "qdev"))


_LIMITS = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")


def _device(block: Mapping[str, object]) -> Device:
    inserted = answers.as_mapping(block["inserted"], "inserted")
    limits = {name: answers.number(inserted, name) for name in _LIMITS}
    return Device(
        qdev=answers.text(block, "qdev"),
        top=answers.optional_text(inserted, "node-name"),
        read_only=answers.flag(inserted, "ro"),
        limits={name: value for name, value in limits.items() if value},
        group=answers.optional_text(inserted, "group"),
    )


def _node(raw: Mapping[str, object]) -> Node:
    name = answers.text(raw, "node-name")
    image = answers.as_mapping(raw.get("image"), "image")
    bitmaps = answers.objects(raw.get("dirty-bitmaps", []), "dirty-bitmaps")
    return Node(
        name=name,
        driver=answers.text(raw, "drv"),
        size=answers.number(image, "virtual-size"),
        # Bitmaps without a name are QEMU's own, of jobs and filters.
        bitmaps=tuple(_bitmap(name, b) for b in bitmaps if "name" in b),
    )


def _bitmap(node: str, raw: Mapping[str, object]) -> Bitmap:
    return Bitmap(
        node=node,
        name=answers.text(raw, "name"),
        recording=answers.flag(raw, "recording"),
        busy=answers.flag(raw, "busy"),
        inconsistent=answers.flag(raw, "inconsistent"),
        persistent=answers.flag(raw, "persistent"),
        granularity=answers.number(raw, "granularity"),
        count=answers.number(raw, "count"),
    )


def _edges(graph: Mapping[str, object]) -> tuple[Edge, ...]:
    """QEMU tells who uses whom only in this debugging command, unchanged since 4.0."""
    vertices = {
        answers.number(v, "id"): (answers.text(v, "type"), answers.text(v, "name"))
        for v in answers.objects(graph.get("nodes"), "graph nodes")
    }
    return tuple(_edge(raw, vertices) for raw in answers.objects(graph.get("edges"), "edges"))


def _edge(raw: Mapping[str, object], vertices: Mapping[int, tuple[str, str]]) -> Edge:
    nowhere = (ParentKind.NODE.value, "")
    kind, parent = vertices.get(answers.number(raw, "parent"), nowhere)
    _, child = vertices.get(answers.number(raw, "child"), nowhere)
    known = kind in {k.value for k in ParentKind}
    return Edge(
        parent=parent,
        kind=ParentKind(kind) if known else ParentKind.JOB,
        role=answers.text(raw, "name"),
        child=child,
        writes="write" in answers.as_list(raw.get("perm"), "perm"),
    )


def _exports(qmp: QmpSession) -> tuple[Export, ...]:
    raws = answers.objects(qmp.execute("query-block-exports"), "exports")
    return tuple(
        Export(
            answers.text(r, "id"), answers.text(r, "node-name"), answers.flag(r, "shutting-down")
        )
        for r in raws
    )
