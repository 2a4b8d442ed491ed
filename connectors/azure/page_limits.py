"""What the blob service publishes about page blobs. Only to tell people what to expect.

There is no table of prices here: those of page blobs differ by redundancy, region and whether a
disk hangs on a machine, and none was read that could be vouched for.
"""

from sealift.units import MiB

TARGET_BYTES_PER_SECOND = 60 * MiB
"""Target throughput of one page blob ("Scalability and performance targets for Blob storage",
2026-05; 500 requests a second is the other limit). What is faster is answered with 503."""
