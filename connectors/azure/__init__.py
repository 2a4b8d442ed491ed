"""Azure: disks, machines, blobs and keys."""
