"""The offline AWS account: see ``AwsSandbox``."""

from sandbox.aws.faults import Fault, FaultKind, RequestRecord
from sandbox.aws.launches import LaunchedInstance
from sandbox.aws.rules import Quotas, Rules
from sandbox.aws.server import AwsSandbox
from sandbox.reports import BootReport, CheckStatus

__all__ = [
    "AwsSandbox",
    "BootReport",
    "CheckStatus",
    "Fault",
    "FaultKind",
    "LaunchedInstance",
    "Quotas",
    "RequestRecord",
    "Rules",
]
