"""Secrets that are nobody's, and the search for them in whatever a run leaves or shows."""

import base64
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from sealift.clock import SystemClock

_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Canary:
    """One secret: where it is given, and the text to look for."""

    given: str
    value: str

    @property
    def forms(self) -> tuple[bytes, ...]:
        """As it is, and as encodings on the way to a log or a database would show it."""
        raw = self.value.encode()
        whole = [base64.b64encode(bytes(n) + raw)[4:-4] for n in range(3)]
        return (raw, quote(self.value).encode(), raw.hex().encode(), *(f for f in whole if f))


def canary(given: str) -> Canary:
    """A new one; nothing else in the world has its text."""
    return Canary(given, f"cAnArY{secrets.token_hex(12)}")


@dataclass
class Search:
    """Looks for canaries in places, and counts where it has looked.

    ``looked`` has every pair of a secret and a place that was searched while that secret
    was in use; ``found`` those where it was.
    """

    looked: set[tuple[str, str]] = field(default_factory=set)
    found: list[tuple[str, str, str]] = field(default_factory=list)

    def data(self, canaries: Iterable[Canary], place: str, data: bytes, where: str = "") -> None:
        """Search bytes."""
        for one in canaries:
            self.looked.add((one.given, place))
            if any(form in data for form in one.forms):
                self.found.append((one.given, place, where))

    def folder(self, canaries: Iterable[Canary], place: str, folder: Path) -> None:
        """Search the names and contents of every file below a folder."""
        canaries = tuple(canaries)
        self.data(canaries, place, b"")
        for path in files(folder):
            self.data(canaries, place, str(path.relative_to(folder)).encode(), str(path))
            self.data(canaries, place, path.read_bytes(), str(path))

    def exception(self, canaries: Iterable[Canary], error: BaseException) -> None:
        """Search an exception, what it carries, and every one that it came from."""
        canaries = tuple(canaries)
        for one in chain(error):
            told = [str(one), repr(one), repr(one.args), *getattr(one, "__notes__", [])]
            told += [repr(vars(one))]
            self.data(canaries, "exceptions", "\n".join(told).encode(), type(one).__name__)


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those below it, suppressed ones too."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]


def files(folder: Path) -> Iterator[Path]:
    """Regular files below a folder that may change meanwhile."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path


@dataclass(frozen=True)
class Seen:
    """A process below the command: its words and its variables, as the kernel shows them."""

    words: bytes
    variables: bytes

    @property
    def ours(self) -> bool:
        """Python, so Sealift itself or Prefect's server: they need what they were given.

        And what Python's own ``platform`` starts when Prefect asks it for the architecture, or
        Azure's SDK for the processor, which its requests name.
        """
        words = self.words.rstrip(b"\0").split(b"\0")
        asked = words[:2] == [b"file", b"-b"] and b"python" in words[-1]
        return b"python" in words[0] or asked or words == [b"uname", b"-p"]


class ProcessWatch:
    """Notes every process below ``pid`` while it runs; a context manager.

    What a child shows between fork and exec is its parent's, so it counts from its own
    words on.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: set[Seen] = set()

    def __enter__(self) -> "ProcessWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        clock = SystemClock()
        while not self._stop.is_set():
            parents = _parents()
            for pid in parents:
                if self._pid in _above(pid, parents):
                    self._note(pid, parents[pid])
            clock.sleep(_POLL_SECONDS)

    def _note(self, pid: int, parent: int) -> None:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            variables = Path(f"/proc/{pid}/environ").read_bytes()
            same = words == Path(f"/proc/{parent}/cmdline").read_bytes()
            if words and not same and Path(f"/proc/{pid}/cmdline").read_bytes() == words:
                self.seen.add(Seen(words, variables))
        except OSError:
            return


def _parents() -> dict[int, int]:
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(name)] = int(fields[1])
    return found


def _above(pid: int, parents: Mapping[int, int]) -> set[int]:
    above: set[int] = set()
    while (pid := parents.get(pid, 0)) and pid not in above:
        above.add(pid)
    return above
