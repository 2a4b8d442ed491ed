"""A real guest under emulation: its disks boot by themselves, and it acknowledges what it wrote.

::

    disks = build_guest(GuestSpec(Firmware.UEFI), folder)
    with GuestMachine(MachineSpec(disks, Firmware.UEFI), run_folder) as machine:
        machine.wait_ready()
        machine.command("start")
        ...                                   # machine.qmp_path is for Sealift
        acknowledged = machine.poweroff()     # QEMU stays, for the final sync
    landed = boot_landed(landed_disks, Firmware.UEFI, other_folder)
    assert landed.found.lost(acknowledged) == 0

Commands of the guest's serial console; each is answered by a line ``ok COMMAND ...`` or
``error: ...``:

=================  ============================================================================
``start``          write records, each acknowledged by ``ack N`` once it is durable on all disks
``stop``           pause; ``start`` goes on
``rate N``         records per second; 0 for none, ``max`` for as many as the disks take
``churn N``        every N records write, zero or discard one slot of 512 KiB on each disk
``ops N``          N such operations at once: 8 fill the slots, the next 8 take them away
``burst 64M [B]``  dirty so much of disk A (or B), checksummed; answered once it is durable
``punch [B]``      make the burst's file a hole; the file system discards its blocks
``sync``           flush everything
``report``         look at the disks again (only when stopped)
``poweroff``       stop, unmount, power off
=================  ============================================================================

The power button and the guest agent's shutdown do as ``poweroff`` does. I/O errors are said
as ``error: ...``, and nothing is acknowledged after one.
"""
