"""What opens a repository stays where it was given, and a repository shows nothing of a disk.

The real command replicates a real QEMU into a folder; the passphrase is given in every way.
"""

import itertools
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.secrets.canaries import Canary, canary, files
from tests.secrets.conftest import Bench, Ended

Evidence = Callable[[str, str], None]
pytestmark = [pytest.mark.fault(53), pytest.mark.sandbox, pytest.mark.tools]
_NUMBERS = itertools.count()
VARIABLE = "REPOSITORY_PASSPHRASE"
_PLAN = """\
replication: {name}
source:
  qemu:
    qmp: {vm_qmp}
    scratch: {folder}/scratch
    runtime: {folder}/run
repository:
  folder: {folder}/repository-{way}
  key:
    {key}
  cache: {folder}/home/cache-{way}
limits:
  patience: 2s
"""


@pytest.fixture(scope="module", autouse=True)
def _counted(bench: Bench, evidence: Evidence) -> Iterator[None]:
    yield
    search = bench.search
    evidence("canaries of repositories", f"{len(search.looked)} places, found: {len(search.found)}")


class Given:
    """A repository whose passphrase is given in one way."""

    def __init__(self, bench: Bench, way: str) -> None:
        self.bench, self.way = bench, f"{way}-{next(_NUMBERS)}"
        self.name = Canary("name of the replication", f"canary{secrets.token_hex(8)}")
        self.passphrase = canary(f"passphrase by {way}")
        self.file = bench.folder / "given" / f"passphrase-{self.way}"
        self.file.write_text(f"{self.passphrase.value}\n")
        self.file.chmod(0o600)
        self.variables = {VARIABLE: self.passphrase.value} if way == "variable" else {}
        self.plan = bench.folder / "given" / f"{self.way}.yaml"
        self.plan.write_text(
            _PLAN.format(
                name=self.name.value,
                vm_qmp=bench.vm.qmp,
                folder=bench.folder,
                way=self.way,
                key={
                    "file": f"passphrase_file: {self.file}",
                    "variable": f"passphrase_variable: {VARIABLE}",
                    "command": f"passphrase_command: [cat, {self.file}]",
                }[way],
            )
        )
        self.more: list[Canary] = []

    @property
    def folder(self) -> Path:
        return self.bench.folder / f"repository-{self.way}"

    def run(self, *words: str, code: int | None = 0) -> Ended:
        canaries = (self.passphrase, *self.more)
        command = (*words, "--plan", str(self.plan))
        ended = self.bench.run(*command, canaries=canaries, variables=self.variables)
        assert code is None or ended.code == code, ended.out + ended.err
        stored = (*canaries, self.bench.disk, self.name)
        self.bench.search.folder(stored, "the repository", self.folder)
        assert self.bench.search.found == []
        return ended


def made(bench: Bench, way: str) -> Given:
    given = Given(bench, way)
    code = bench.folder / "given" / f"code-{given.way}.txt"
    given.run("repository", "init", "--recovery", str(code))
    given.more.append(Canary(f"recovery code by {way}", code.read_text().strip()))
    return given


@pytest.mark.parametrize(
    "way",
    [
        "variable",
        pytest.param("file", marks=pytest.mark.slow),
        pytest.param("command", marks=pytest.mark.slow),
    ],
)
def test_a_passphrase_given_in_every_way(bench: Bench, way: str, evidence: Evidence) -> None:
    given = made(bench, way)
    given.run("replicate", "--json")
    given.run("points", "list")
    stored = [path for path in files(given.folder) if path.parent.parent.name == "packs"]
    assert stored, "nothing was replicated: nothing was proven"
    share = min(_randomness(path.read_bytes()) for path in stored)
    assert share > 0.95, "a pack does not look random"
    evidence(f"entropy of packs ({way})", f"{share:.3f} of random bytes' at least")


def _randomness(data: bytes) -> float:
    """Entropy by that of as many random bytes: a few hundred cannot have 8 bits each."""
    return _entropy(data) / _entropy(secrets.token_bytes(len(data)))


def _entropy(data: bytes) -> float:
    """Shannon's, of single bytes, in bits."""
    shares = [count / len(data) for count in Counter(data).values()]
    return -sum(share * math.log2(share) for share in shares)


@pytest.mark.slow
def test_keys_that_change_and_a_passphrase_that_is_wrong(bench: Bench) -> None:
    given = made(bench, "variable")
    key = bench.folder / "given" / "second.key"
    given.run("repository", "keys", "add", "--key-file", str(key))
    given.more.append(Canary("key file", key.read_text().splitlines()[1]))
    listed = given.run("repository", "keys", "list", "--json").out
    assert listed.count('"type": "slot"') + listed.count('"type":"slot"') == 3
    given.run("repository", "keys", "new-epoch", code=2)
    given.run("replicate")
    right, wrong = given.passphrase, canary("wrong passphrase")
    given.passphrase, given.variables = wrong, {VARIABLE: wrong.value}
    given.more.append(right)
    ended = given.run("points", "list", "--json", code=62)
    assert "does not open this slot" in ended.out
    assert ended.out.count("wrong-passphrase")


@pytest.mark.slow
def test_a_planted_leak_into_the_repository_is_found(bench: Bench) -> None:
    given = made(bench, "file")
    given.run("replicate", "--json")
    (given.folder / "planted").write_bytes(b"x" + bench.disk.value.encode() + b"y")
    with pytest.raises(AssertionError):
        given.run("points", "list")
    bench.search.found.clear()
