"""Names, shares of scratch space, the server's socket, answers that are nonsense."""

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.qemu import answers
from connectors.qemu.machine import Disk
from connectors.qemu.names import Names, Part, parse_node
from connectors.qemu.scratch import shares
from connectors.qemu.server import socket_path
from sealift.endpoints import VmDisk
from sealift.errors import OutOfSpaceError, ProtocolError, SourceError, UsageError
from sealift.units import MiB, TiB
from tests.qemu.conftest import Attach, MakeVm

QEMU_NODE_NAME_LIMIT = 31


@given(st.text(min_size=1, max_size=300), st.integers(0, 999_999), st.sampled_from(list(Part)))
def test_node_names_fit_and_come_apart_again(disk: str, seq: int, part: Part) -> None:
    names = Names("a" * 64)
    node = names.node(seq, disk, part)
    assert len(node) <= QEMU_NODE_NAME_LIMIT
    parsed = parse_node(node)
    assert parsed is not None
    assert (parsed.migration, parsed.seq, parsed.part) == (names.short, seq, part)
    assert names.is_ours(node)
    assert not Names("b").is_ours(node)


@pytest.mark.parametrize("name", ["drive0", "#block123", "sl-x", "sl-01234567-1-abcdef-zzz", ""])
def test_names_of_others(name: str) -> None:
    assert parse_node(name) is None


def test_bitmap_names_of_others() -> None:
    names = Names("m1")
    assert names.since(names.bitmap(17)) == 17
    for name in ("backup-1", Names("m11").bitmap(1), Names("m").bitmap(1), "sealift-m1-since-x"):
        assert names.since(name) is None


@pytest.mark.parametrize("migration", ["", "a/b", "a b", "-a", "x" * 65, "ä"])
def test_ids_that_cannot_be_names(migration: str) -> None:
    with pytest.raises(UsageError):
        Names(migration)


def disk(name: str, size: int) -> Disk:
    return Disk(VmDisk(name, size, "virtio-blk"), name, name, name, "raw", "", {})


@given(
    st.lists(st.integers(512, 16 * TiB), min_size=1, max_size=20),
    st.integers(0, 64 * TiB),
)
def test_shares_never_exceed_the_limit(sizes: list[int], limit: int) -> None:
    disks = [disk(f"d{i}", size) for i, size in enumerate(sizes)]
    if limit < len(disks) * MiB:
        with pytest.raises(OutOfSpaceError):
            shares(limit, disks)
        return
    found = shares(limit, disks)
    assert sum(found.values()) <= limit
    assert all(share >= MiB and share % 65536 == 0 for share in found.values())


def test_a_socket_path_that_is_too_long() -> None:
    with pytest.raises(UsageError, match="too long"):
        socket_path(Path("/" + "x" * 100), Names("m1").socket)


@pytest.mark.fault(54, 55)
@pytest.mark.tools
def test_a_runtime_directory_that_others_may_enter(
    make_vm: MakeVm, attach: Attach, directory: Path
) -> None:
    vm = make_vm()
    (directory / "run").mkdir()
    (directory / "run").chmod(0o755)
    with pytest.raises(SourceError, match="others may enter"):
        attach(vm).open_point(1, {"vd0": None})
    assert vm.traces() == set()


@pytest.mark.fault(54, 55)
@pytest.mark.tools
def test_our_sockets_are_private(make_vm: MakeVm, attach: Attach, directory: Path) -> None:
    attach(make_vm()).open_point(1, {"vd0": None})
    assert (directory / "run").stat().st_mode & 0o777 == 0o700


@pytest.mark.fault(51)
def test_answers_that_are_nonsense() -> None:
    for check in (
        lambda: answers.as_mapping([], "x"),
        lambda: answers.as_list({}, "x"),
        lambda: answers.objects([1], "x"),
        lambda: answers.text({"k": 1}, "k"),
        lambda: answers.number({"k": -1}, "k"),
        lambda: answers.number({"k": True}, "k"),
        lambda: answers.flag({"k": "yes"}, "k"),
    ):
        with pytest.raises(ProtocolError):
            check()


def test_the_nbd_server_is_not_stopped_under_a_client_that_negotiates(
    make_vm: MakeVm, attach: Attach
) -> None:
    """QEMU would wait for it with the guest standing still."""
    vm = make_vm(disks=1)
    hypervisor = attach(vm)
    hypervisor.open_point(1, {"vd0": None})
    (path,) = (vm.directory / "run").glob("*.nbd")
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(path))
        stranger.recv(8, socket.MSG_WAITALL)
        hypervisor.commit_point(1)
        assert vm.status()
        assert path.exists()
    hypervisor.forget()
    assert vm.traces() == set()
    hypervisor.close()
