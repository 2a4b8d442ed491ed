"""How much is measured: in full, or just enough to see that a benchmark works."""

from dataclasses import dataclass

from sealift.units import GiB, MiB, TiB


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes in bytes and counts of repetitions.

    Attributes:
        read_bytes: disk that is read beside nbdcopy.
        seed_bytes: disk that is seeded beside the plain uploader; 30 % of it is data.
        round_bytes: disk of which one percent changes, full of data.
        small_bytes: smaller of the two disks whose syncs' memory is compared.
        large_bytes: the larger one.
        memory_data_bytes: data in each of the two.
        cutover_bytes: disk that is cut over.
        dirty_bytes: what its last sync has to send.
        profile_bytes: disk whose sync is profiled.
        seal_bytes: real files that are sealed.
        backup_bytes: image that backup tools are compared on.
        backup_data_bytes: data in it.
        backup_rounds: how often they are compared.
        vast_bytes: sparse disk that is kept in a repository.
        vast_data_bytes: data scattered over it.
        full_bytes: full disk of made-up chunks that is kept in a repository.
        full_points: how many more points there are of it.
        pairs: repetitions of short measurements.
        few_pairs: repetitions of long ones.
    """

    read_bytes: int
    seed_bytes: int
    round_bytes: int
    small_bytes: int
    large_bytes: int
    memory_data_bytes: int
    cutover_bytes: int
    dirty_bytes: int
    profile_bytes: int
    backup_bytes: int
    backup_data_bytes: int
    backup_rounds: int
    seal_bytes: int
    vast_bytes: int
    vast_data_bytes: int
    full_bytes: int
    full_points: int
    pairs: int
    few_pairs: int


FULL = Scale(
    read_bytes=2 * GiB,
    seed_bytes=4 * GiB,
    round_bytes=16 * GiB,
    small_bytes=1 * GiB,
    large_bytes=64 * GiB,
    memory_data_bytes=256 * MiB,
    cutover_bytes=1 * GiB,
    dirty_bytes=64 * MiB,
    profile_bytes=512 * MiB,
    backup_bytes=4 * GiB,
    backup_data_bytes=1800 * MiB,
    backup_rounds=3,
    seal_bytes=96 * MiB,
    vast_bytes=1 * TiB,
    vast_data_bytes=1 * GiB,
    full_bytes=1 * TiB,
    full_points=30,
    pairs=5,
    few_pairs=3,
)
TINY = Scale(
    read_bytes=32 * MiB,
    seed_bytes=64 * MiB,
    round_bytes=100 * MiB,
    small_bytes=16 * MiB,
    large_bytes=1 * GiB,
    memory_data_bytes=8 * MiB,
    cutover_bytes=64 * MiB,
    dirty_bytes=4 * MiB,
    profile_bytes=16 * MiB,
    backup_bytes=64 * MiB,
    backup_data_bytes=24 * MiB,
    backup_rounds=1,
    seal_bytes=8 * MiB,
    vast_bytes=4 * GiB,
    vast_data_bytes=8 * MiB,
    full_bytes=512 * MiB,
    full_points=3,
    pairs=1,
    few_pairs=1,
)
