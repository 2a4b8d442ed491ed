"""A running QEMU as the source of a migration: QMP, dirty bitmaps, live exports."""

from connectors.qemu.hypervisor import QemuHypervisor

__all__ = ["QemuHypervisor"]
