"""A real guest under emulation: its disks boot by themselves, and it acknowledges what it wrote."""
