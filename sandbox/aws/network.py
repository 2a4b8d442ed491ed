"""Where a machine is launched in the sandbox's account."""

from collections.abc import Mapping

import boto3


def default_network(environment: Mapping[str, str]) -> tuple[str, str]:
    """(subnet id, security group id) that every account has from the start.

    Args:
        environment: of ``AwsSandbox.environment()``.
    """
    ec2 = boto3.Session().client(
        "ec2",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    return subnet, group
