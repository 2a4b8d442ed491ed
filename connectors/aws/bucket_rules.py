"""What the owner of a bucket has set for it: versions, locks, and rules that delete or archive."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from connectors.aws.errors import aws_call, code_of
from connectors.aws.object_s3 import S3Spec
from connectors.aws.session import AwsClients
from sealift.errors import SealiftError, TargetDeniedError
from sealift.objects_check import Finding, Verdict

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import LifecycleRuleOutputTypeDef

_NOT_READ_AT_ONCE = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects must be restored first; GLACIER_IR and INTELLIGENT_TIERING without
its archive tiers are read at once (S3 user guide, "storage classes")."""
_NONE = frozenset({"NoSuchLifecycleConfiguration", "ObjectLockConfigurationNotFoundError"})


def bucket_findings(spec: S3Spec, clients: AwsClients) -> Iterator[Finding]:
    """One finding for each setting that bears on a repository.

    Args:
        spec: the bucket, the prefix and whether locks are used.
        clients: of the same settings.
    """
    place: Any = {"Bucket": spec.bucket}
    if spec.owner:
        place["ExpectedBucketOwner"] = spec.owner
    s3 = clients.s3
    asked: list[tuple[str, str, Callable[[], Iterator[Finding]]]] = [
        (
            "versions",
            "s3:GetBucketVersioning",
            lambda: _versions(s3.get_bucket_versioning(**place).get("Status", "")),
        ),
        (
            "lock of the bucket",
            "s3:GetBucketObjectLockConfiguration",
            lambda: _locks(
                spec, s3.get_object_lock_configuration(**place).get("ObjectLockConfiguration", {})
            ),
        ),
        (
            "lifecycle rules",
            "s3:GetLifecycleConfiguration",
            lambda: _rules(spec, s3.get_bucket_lifecycle_configuration(**place).get("Rules", [])),
        ),
    ]
    for capability, action, ask in asked:
        yield from _asked(spec, capability, action, ask)


def _asked(
    spec: S3Spec, capability: str, action: str, ask: Callable[[], Iterator[Finding]]
) -> Iterator[Finding]:
    try:
        with aws_call(action):
            found = list(ask())
    except TargetDeniedError:
        text = f"these credentials may not ask ({action})"
        yield Finding(capability, Verdict.NOTE, text, f"allow {action} to know")
    except SealiftError as error:
        if code_of(error) in _NONE:
            found = list(_locks(spec, {}) if "Lock" in code_of(error) else _rules(spec, []))
            yield from found
        else:
            yield Finding(capability, Verdict.NOTE, error.message, error.next_step)
    else:
        yield from found


def _versions(status: str) -> Iterator[Finding]:
    if status == "Enabled":
        text = "kept: what is deleted or replaced can be brought back, and costs until it expires"
    else:
        text = "not kept: what an intruder deletes is gone"
    yield Finding("versions", Verdict.NOTE, text)


def _locks(spec: S3Spec, found: Any) -> Iterator[Finding]:
    enabled = found.get("ObjectLockEnabled") == "Enabled"
    if spec.lock_mode is not None and not enabled:
        step = "make a bucket with object lock, or leave the lock mode out"
        yield Finding("lock of the bucket", Verdict.BAD, "this bucket has no object lock", step)
        return
    retention = found.get("Rule", {}).get("DefaultRetention", {})
    if retention:
        days = retention.get("Days") or 365 * retention.get("Years", 0)
        text = f"every new object is locked for {days} days ({retention.get('Mode')})"
        step = "prune cannot free anything sooner"
        yield Finding("lock of the bucket", Verdict.NOTE, text, step)
    else:
        text = "possible, no default" if enabled else "none: whoever may delete can delete all"
        yield Finding("lock of the bucket", Verdict.NOTE, text)


def _rules(spec: S3Spec, rules: "list[LifecycleRuleOutputTypeDef]") -> Iterator[Finding]:
    """What a rule does to objects of the repository, from its present versions."""
    ours = [rule for rule in rules if rule.get("Status") == "Enabled" and _touches(rule, spec)]
    harmful = False
    for rule in ours:
        name = rule.get("ID", "without a name")
        expiration = rule.get("Expiration", {})
        if expiration.get("Days") or expiration.get("Date"):
            harmful = True
            text = f"rule {name} deletes objects of the repository by their age"
            step = "take the repository's prefix out of the rule: only prune knows what is needed"
            yield Finding("lifecycle rules", Verdict.BAD, text, step)
        classes = {t.get("StorageClass", "") for t in rule.get("Transitions", [])}
        for cold in sorted(classes & _NOT_READ_AT_ONCE):
            harmful = True
            text = f"rule {name} moves objects to {cold}, from where nothing is read at once"
            step = "a restore, a check or a drill would wait for hours: take the prefix out"
            yield Finding("lifecycle rules", Verdict.DEGRADED, text, step)
    if not harmful:
        yield Finding("lifecycle rules", Verdict.GOOD, f"{len(ours)} rules touch the repository")


def _touches(rule: "LifecycleRuleOutputTypeDef", spec: S3Spec) -> bool:
    """Whether some object of the repository may fall under a rule."""
    chosen = rule.get("Filter", {})
    prefix = str(chosen.get("Prefix") or chosen.get("And", {}).get("Prefix") or "")
    prefix = prefix or str(rule.get("Prefix") or "")
    tagged = "Tag" in chosen or "Tags" in chosen.get("And", {})  # we put no tags
    return not tagged and (prefix.startswith(spec.prefix) or spec.prefix.startswith(prefix))
