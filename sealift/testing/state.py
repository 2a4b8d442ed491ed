"""Local state in memory: survives a kill, as files do, and loses what a power cut takes."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class _Stored:
    records: list[bytes] = field(default_factory=list)
    synced: int = 0


class MemoryStateStore:
    """Values replaced as a whole, and logs whose unsynced end a power cut may take."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.logs: dict[str, _Stored] = {}

    def load(self, name: str) -> bytes | None:
        """See ``StateStore.load``."""
        return self.values.get(name)

    def save(self, name: str, data: bytes) -> None:
        """See ``StateStore.save``."""
        self.values[name] = data

    def delete(self, name: str) -> None:
        """See ``StateStore.delete``."""
        self.values.pop(name, None)
        self.logs.pop(name, None)

    def names(self) -> frozenset[str]:
        """See ``StateStore.names``."""
        return frozenset(self.values) | frozenset(self.logs)

    def log(self, name: str) -> "MemoryLog":
        """See ``StateStore.log``."""
        return MemoryLog(self.logs.setdefault(name, _Stored()))

    def power_cut(self, rng: random.Random) -> None:
        """Of what was appended and not synced, nothing is left, or any number of first records."""
        for stored in self.logs.values():
            most = stored.synced if rng.random() < 0.5 else len(stored.records)
            del stored.records[rng.randint(stored.synced, most) :]


class MemoryLog:
    """An append-only log in memory."""

    def __init__(self, stored: _Stored) -> None:
        self._stored = stored

    def records(self) -> Iterator[bytes]:
        """See ``AppendLog.records``."""
        return iter(list(self._stored.records))

    def append(self, payload: bytes) -> None:
        """See ``AppendLog.append``."""
        self._stored.records.append(payload)

    def sync(self) -> None:
        """See ``AppendLog.sync``."""
        self._stored.synced = len(self._stored.records)

    def close(self) -> None:
        """See ``AppendLog.close``."""
