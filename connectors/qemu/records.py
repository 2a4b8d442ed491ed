"""Short texts that live exactly as long as the QEMU process.

What must not outlive QEMU (an open point, the mark of one QEMU process) is kept in QEMU
itself, as an object of type ``secret``: made and removed by one command each, so a record
is there completely or not at all, and a restarted QEMU has none. Nothing in it is secret;
it is the one object type that hands its text back.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from connectors.qemu import answers
from connectors.qemu.graph import BlockState
from connectors.qemu.names import BOOT_RECORD
from connectors.qemu.qmp import QmpSession
from sealift.endpoints import Consistency, PointInfo
from sealift.errors import SourceError

_OBJECTS = "/objects"
_NOT_A_RECORD = (
    *(ValueError, KeyError, TypeError, AttributeError),
    *(OverflowError, RecursionError),  # infinity for a number, depth without end
)


def list_records(qmp: QmpSession) -> Sequence[str]:
    """Names of all objects that users made, ours among them."""
    found = answers.objects(qmp.execute("qom-list", path=_OBJECTS), "objects")
    return [answers.text(o, "name") for o in found]


def read_record(qmp: QmpSession, name: str) -> str | None:
    """The text of a record, or None."""
    if name not in list_records(qmp):
        return None
    value = qmp.execute("qom-get", path=f"{_OBJECTS}/{name}", property="data")
    if not isinstance(value, str):
        raise SourceError(f"object {name} in QEMU is not a record of ours")
    return value


def write_record(qmp: QmpSession, name: str, text: str) -> None:
    """Make a record.

    Raises:
        CommandRefusedError: there is one already.
    """
    qmp.execute("object-add", qom_type="secret", id=name, data=text)


def delete_record(qmp: QmpSession, name: str) -> None:
    """Remove a record or any other of our objects; fine when it is gone already."""
    if name in list_records(qmp):
        qmp.execute("object-del", id=name)


def boot_id(qmp: QmpSession) -> str:
    """The mark of this QEMU process; made at the first call."""
    known = read_record(qmp, BOOT_RECORD)
    if known is None:
        known = str(uuid.uuid4())
        write_record(qmp, BOOT_RECORD, known)
    return known


def forget_boot(qmp: QmpSession, state: BlockState) -> None:
    """Remove the mark of this QEMU process when no migration has anything left in it."""
    bitmaps = (bitmap.name for node in state.nodes.values() for bitmap in node.bitmaps)
    names = [*bitmaps, *state.nodes, *list_records(qmp)]
    if all(n == BOOT_RECORD or not n.startswith(("sl-", "sealift-")) for n in names):
        delete_record(qmp, BOOT_RECORD)


@dataclass(frozen=True, slots=True)
class OpenPoint:
    """What is written down about a completely open point.

    Attributes:
        info: for the engine.
        nonce: new each time a point is opened.
        sources: the guest's own node per disk.
        sizes: bytes per disk.
        server: path of the NBD socket.
    """

    info: PointInfo
    nonce: str
    sources: Mapping[str, str]
    sizes: Mapping[str, int]
    server: str


def point_to_text(point: OpenPoint) -> str:
    """As JSON; ``point_from_text`` reads it."""
    info = point.info
    return json.dumps(
        {
            "seq": info.seq,
            "boot": info.boot_id,
            "consistency": info.consistency.value,
            "note": info.note,
            "pause": info.pause_seconds,
            "bases": dict(info.bases),
            "disks": list(info.disks),
            "nonce": point.nonce,
            "sources": dict(point.sources),
            "sizes": dict(point.sizes),
            "server": point.server,
        }
    )


def point_from_text(text: str) -> OpenPoint:
    """Read back what ``point_to_text`` wrote.

    Raises:
        SourceError: it is not that.
    """
    try:
        raw = json.loads(text)
        info = PointInfo(
            seq=int(raw["seq"]),
            boot_id=str(raw["boot"]),
            consistency=Consistency(raw["consistency"]),
            note=str(raw["note"]),
            pause_seconds=_seconds(raw["pause"]),
            disks=tuple(map(str, raw["disks"])),
            bases={str(d): None if b is None else int(b) for d, b in raw["bases"].items()},
        )
        sources = {str(d): str(n) for d, n in raw["sources"].items()}
        sizes = {str(d): int(n) for d, n in raw["sizes"].items()}
        return OpenPoint(info, str(raw["nonce"]), sources, sizes, str(raw["server"]))
    except _NOT_A_RECORD as error:
        raise SourceError("QEMU holds a record of a point that cannot be read") from error


def _seconds(value: object) -> float:
    seconds = float(str(value))
    if not 0 <= seconds < float("inf"):
        raise ValueError("not a duration")
    return seconds
