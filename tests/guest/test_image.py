"""Disks are built without root, once per content, and errors name what to install."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.guest import image, parts
from sandbox.guest.image import GuestSpec, ImageFormat, build_guest
from sandbox.guest.initramfs import build_initramfs
from sandbox.guest.tools import need_file, run_tool
from sealift.endpoints import Firmware
from sealift.errors import ToolError, UsageError
from sealift.units import GiB, MiB

SMALL = GuestSpec(root_bytes=160 * MiB, data_bytes=64 * MiB + 1536, format=ImageFormat.RAW)


def info(path: Path) -> dict[str, object]:
    text = run_tool(["qemu-img", "info", "--output=json", path], package="qemu-utils")
    answer: dict[str, object] = json.loads(text)
    return answer


def test_the_second_build_is_a_copy_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    build_guest(GuestSpec(), first)
    monkeypatch.setattr(image, "_build", None)
    disks = build_guest(GuestSpec(), second)
    for disk in disks:
        assert disk.path.read_bytes() == (first / disk.path.name).read_bytes()
        assert info(disk.path)["format"] == "qcow2"
        assert info(disk.path)["virtual-size"] in (389 * MiB, 195 * MiB)
    assert GuestSpec().root_bytes % GiB


@pytest.mark.slow
@pytest.mark.parametrize("firmware", list(Firmware))
def test_equal_content_gives_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, firmware: Firmware
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    spec = replace(SMALL, firmware=firmware)
    one = build_guest(spec, tmp_path / "a")
    kept = parts.cache_folder()
    monkeypatch.setenv("SEALIFT_CACHE", str(tmp_path / "cache"))
    for name in ("kernel", "package-busybox-static"):
        (parts.cache_folder() / name).symlink_to(kept / name)
    two = build_guest(spec, tmp_path / "b")
    assert [d.path.read_bytes() for d in one] == [d.path.read_bytes() for d in two]
    assert parts.cache_folder().stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("firmware", list(Firmware))
def test_sizes_need_not_be_whole_anything(tmp_path: Path, firmware: Firmware) -> None:
    disks = build_guest(
        GuestSpec(firmware, 160 * MiB + 512, 64 * MiB + 1536, ImageFormat.RAW), tmp_path
    )
    assert [disk.path.stat().st_size for disk in disks] == [160 * MiB + 512, 64 * MiB + 1536]
    assert os.stat(disks[0].path).st_blocks * 512 < 60 * MiB
    for disk in disks:
        run_tool(["sfdisk", "--verify", disk.path], package="fdisk")


@pytest.mark.parametrize(("root", "data"), [(389 * MiB + 1, 0), (64 * MiB, 0), (389 * MiB, 512)])
def test_impossible_sizes_are_refused(tmp_path: Path, root: int, data: int) -> None:
    with pytest.raises(UsageError, match="no multiple of 512"):
        build_guest(GuestSpec(root_bytes=root, data_bytes=data), tmp_path)


def test_the_root_file_system_is_whole(tmp_path: Path) -> None:
    disks = build_guest(SMALL, tmp_path)
    for disk, offset in zip(disks, (33 * MiB, MiB), strict=True):
        command = ["e2fsck", "-f", "-n", f"{disk.path}?offset={offset}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Pass 5" in done.stdout


def test_the_initramfs_is_an_archive_that_cpio_would_read() -> None:
    archive = build_initramfs(parts.fetch_kernel(), parts.fetch_busybox())
    busybox = str(parts.fetch_busybox())
    names = subprocess.run(
        [busybox, "sh", "-c", f"{busybox} gunzip | {busybox} cpio -t"],
        input=archive,
        capture_output=True,
        check=True,
    ).stdout.decode()
    order = [Path(name).stem for name in names.split() if name.startswith("modules/")]
    assert order.index("virtio_ring") < order.index("virtio_blk")
    assert {"init", "bin/busybox", "dev/console", "modules/order"} <= set(names.split())


def test_a_missing_tool_or_file_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="qemu-imgx is not installed") as caught:
        run_tool(["qemu-imgx"], package="qemu-utils")
    assert caught.value.next_step.endswith("install --no-install-recommends qemu-utils")
    with pytest.raises(ToolError, match="is missing") as caught:
        need_file(tmp_path / "mbr.bin", "syslinux-common")
    assert caught.value.next_step.endswith("syslinux-common")


def test_a_package_that_apt_does_not_know_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEALIFT_CACHE", str(tmp_path))
    with pytest.raises(ToolError, match="cannot download sealift-no-such-package") as caught:
        parts.fetch_package("sealift-no-such-package")
    assert caught.value.next_step == "sudo apt-get update"
    assert list(parts.cache_folder().iterdir()) == []


def _say(folder: Path, text: str) -> None:
    (folder / "by").write_text(text)


def test_two_builds_at_once_share_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEALIFT_CACHE", str(tmp_path))

    def slower(folder: Path) -> None:
        (folder / "by").write_text("slower")
        parts.cached("thing", lambda other: _say(other, "faster"))

    assert (parts.cached("thing", slower) / "by").read_text() == "faster"
    assert [path.name for path in parts.cache_folder().iterdir()] == ["thing"]
