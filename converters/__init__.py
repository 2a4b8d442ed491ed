"""What turns one disk image or guest into another; images are treated as hostile."""
