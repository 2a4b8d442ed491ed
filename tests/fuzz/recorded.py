"""Valid messages by the tools themselves: QEMU's answers, qemu-img's output and its images."""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from connectors.qemu.qmp import Command, CommandRefusedError, QmpSession
from sealift.clock import SystemClock
from sealift.errors import TransientError
from sealift.units import KiB, MiB

QUERIES: tuple[Command, ...] = (
    Command("query-named-block-nodes", {"flat": True}),
    Command("x-debug-query-block-graph"),
    Command("query-block"),
    Command("query-block-exports"),
    Command("query-iothreads"),
    Command("query-memory-size-summary"),
    Command("query-target"),
    Command("query-jobs"),
    Command("query-status"),
)
_LISTS = ("/machine/peripheral", "/machine/peripheral-anon", "/objects")
_PROPERTIES = ("type", "bootindex", "serial", "parent_bus", "mac", "iothread")


def key_of(name: str, arguments: Mapping[str, object]) -> str:
    """Under which a command's answer is kept."""
    return " ".join((name, *(str(arguments[k]) for k in sorted(arguments) if k != "flat")))


@cache
def qemu_answers() -> tuple[bytes, ...]:
    """What a QEMU with two disks, a bitmap and a network card says to every question of ours.

    One line for each question: its key, a tabulator, the answer as JSON.
    """
    with _qemu() as qmp:
        answers: dict[str, Any] = {key_of(c.name, c.arguments): qmp.run(c) for c in QUERIES}
        for path in _LISTS:
            answers[key_of("qom-list", {"path": path})] = qmp.execute("qom-list", path=path)
        devices = ["/machine", *(f"/machine/peripheral/{name}" for name in ("vd0", "vd1", "net0"))]
        for path in devices:
            for name in (*_PROPERTIES, "pflash0", "firmware"):
                with suppress(CommandRefusedError):
                    value = qmp.execute("qom-get", path=path, property=name)
                    answers[key_of("qom-get", {"path": path, "property": name})] = value
    return tuple(f"{key}\t{json.dumps(value)}\n".encode() for key, value in answers.items())


@contextmanager
def _qemu() -> Iterator[QmpSession]:
    with tempfile.TemporaryDirectory(prefix="sealift-fuzz-") as folder:
        socket, images = Path(folder) / "qmp", [Path(folder) / f"{n}.qcow2" for n in range(2)]
        for image in images:
            _run("qemu-img", "create", "-q", "-f", "qcow2", str(image), "8M")
        process = subprocess.Popen(_command(socket, images), stderr=subprocess.DEVNULL)
        try:
            qmp = _session(socket)
            with qmp:
                qmp.execute("block-dirty-bitmap-add", node="drive0", name="sealift-web-01-since-3")
                yield qmp
        finally:
            process.kill()
            process.wait()


def _session(socket: Path) -> QmpSession:
    clock = SystemClock()
    for _ in range(400):
        try:
            return QmpSession(socket)
        except TransientError:
            clock.sleep(0.05)
    raise AssertionError("QEMU does not start")


def _command(socket: Path, images: Sequence[Path]) -> list[str]:
    command = ["qemu-system-x86_64", "-machine", "q35", "-S", "-nodefaults", "-display", "none"]
    command += ["-accel", "tcg", "-m", "64", "-qmp", f"unix:{socket},server=on,wait=off"]
    for n, image in enumerate(images):
        node = {"driver": "qcow2", "node-name": f"drive{n}"}
        file = {"driver": "file", "filename": str(image)}
        command += ["-blockdev", json.dumps({**node, "file": file})]
        command += ["-device", f"virtio-blk-pci,drive=drive{n},id=vd{n},bootindex={n}"]
    return [
        *command,
        "-netdev",
        "hubport,id=h0,hubid=0",
        "-device",
        "virtio-net-pci,netdev=h0,id=net0,mac=52:54:00:12:34:56",
    ]


IMAGES: Mapping[str, tuple[str, ...]] = {
    "qcow2": ("-f", "qcow2"),
    "qcow2-v2": ("-f", "qcow2", "-o", "compat=0.10"),
    "qcow2-backing": ("-f", "qcow2", "-b", "base.raw", "-F", "raw"),
    "qcow2-data-file": ("-f", "qcow2", "-o", "data_file=data.raw"),
    "qcow": ("-f", "qcow"),
    "qed": ("-f", "qed"),
    "vmdk": ("-f", "vmdk"),
    "vmdk-flat": ("-f", "vmdk", "-o", "subformat=monolithicFlat"),
    "vmdk-parts": ("-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"),
    "vdi": ("-f", "vdi"),
    "vpc": ("-f", "vpc", "-o", "force_size=on"),
    "vpc-fixed": ("-f", "vpc", "-o", "subformat=fixed,force_size=on"),
    "vhdx": ("-f", "vhdx"),
    "parallels": ("-f", "parallels"),
}


@cache
def images() -> Mapping[str, bytes]:
    """Empty images of a small disk in every format."""
    with tempfile.TemporaryDirectory(prefix="sealift-fuzz-") as folder:
        (Path(folder) / "base.raw").write_bytes(bytes(MiB))
        return {name: _image(Path(folder), name, options) for name, options in IMAGES.items()}


def _image(folder: Path, name: str, options: Sequence[str]) -> bytes:
    path = folder / f"{name}.img"
    _run("qemu-img", "create", "-q", *options, str(path), "1M", folder=folder)
    return path.read_bytes()


@cache
def qemu_img_output() -> Mapping[str, tuple[bytes, ...]]:
    """JSON of info, map, check and measure by the tool, over several formats."""
    found: dict[str, list[bytes]] = {"info": [], "map": [], "check": [], "measure": []}
    with tempfile.TemporaryDirectory(prefix="sealift-fuzz-") as name:
        folder = Path(name)
        (folder / "base.raw").write_bytes(b"x" * 64 * KiB + bytes(MiB - 64 * KiB))
        for image in ("qcow2", "qcow2-backing", "vmdk", "vdi", "vhdx"):
            options = IMAGES[image]
            path, form = folder / f"{image}.img", options[1]
            _run("qemu-img", "create", "-q", *options, str(path), "1M", folder=folder)
            if image == "qcow2":
                _run("qemu-img", "bitmap", "--add", "-f", "qcow2", str(path), "b")
                _run("qemu-img", "snapshot", "-c", "before", str(path))
            for verb, outputs in found.items():
                more = ("-O", "qcow2") if verb == "measure" else ()
                given = ("-f", form, "--output=json", *more)
                outputs.append(_run("qemu-img", verb, *given, str(path)))
    return {verb: tuple(outputs) for verb, outputs in found.items()}


def _run(*command: str, folder: Path | None = None) -> bytes:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout
