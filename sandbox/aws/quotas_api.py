"""Service Quotas for EBS: the limits that the sandbox enforces, under AWS's own codes."""

from sandbox.aws.gateway import Gateway
from sandbox.aws.wire import Call, Reply


def answer(call: Call, gateway: Gateway) -> Reply | None:
    """Answer calls about service ``ebs``; ``None`` for everything else."""
    return None
