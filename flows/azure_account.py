"""A target in an Azure subscription. The SDK is imported when it is used."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from flows.around import Around
from sealift.config_azure import AzurePlan
from sealift.endpoints import CloudTarget

if TYPE_CHECKING:
    from connectors.azure.spec import AzureSpec


def target(
    azure: AzurePlan, owner: str, connections: int, around: Around, stack: ExitStack
) -> CloudTarget:
    """A target whose things carry ``owner``; ``stack`` closes it."""
    from connectors.azure.target import AzureTarget

    spec = spec_of(azure, connections)
    made = AzureTarget(spec, owner, around.clock, cancel=around.cancel)
    stack.callback(made.close)
    return made


def spec_of(azure: AzurePlan, connections: int) -> "AzureSpec":
    """A subscription as its connector takes it."""
    from connectors.azure.spec import AzureSpec, DiskSku, Method, OsType, SecurityType

    return AzureSpec(
        subscription_id=azure.subscription,
        resource_group=azure.resource_group,
        storage_account=azure.storage_account,
        container=azure.container,
        subnet_id=azure.subnet,
        network_security_group_id=azure.network_security_group,
        location=azure.location,
        endpoint=azure.endpoint,
        blob_endpoint=azure.blob_endpoint,
        vm_size=azure.vm_size,
        os_type=OsType(azure.os_type),
        security_type=SecurityType(azure.security_type),
        disk_sku=DiskSku(azure.disk_type),
        zone=azure.zone,
        method=Method(azure.method),
        tags=azure.tags,
        concurrency=connections,
    )
