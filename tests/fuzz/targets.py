"""All parsers of foreign bytes, by name; each is built, with its seeds, when it is asked for."""

from collections.abc import Callable, Mapping

from tests.fuzz import (
    targets_aws,
    targets_azure,
    targets_images,
    targets_nbd,
    targets_plan,
    targets_qemu,
    targets_s3,
    targets_sealing,
    targets_state,
)
from tests.fuzz.engine import Target

BUILDERS: Mapping[str, Callable[[], Target]] = {
    **targets_nbd.BUILDERS,
    **targets_qemu.BUILDERS,
    **targets_images.BUILDERS,
    **targets_plan.BUILDERS,
    **targets_state.BUILDERS,
    **targets_aws.BUILDERS,
    **targets_s3.BUILDERS,
    **targets_azure.BUILDERS,
    **targets_sealing.BUILDERS,
}
"""In the order of the report."""
