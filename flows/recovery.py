"""A recovery point in a cloud: what owns it there, and where the work on it is remembered."""

from contextlib import ExitStack

from flows import accounts
from flows.around import Around
from flows.places import state_home
from flows.points import OpenPoint
from sealift.config_repository import ReplicationPlan
from sealift.endpoints import CloudTarget
from sealift.errors import UsageError
from sealift.private import make_private_folder
from sealift.store import FileStateStore, StateLock

_OWNER_DIGITS = 16  # of a point's id, in the names of what is made


def recovery_target(
    plan: ReplicationPlan, point: OpenPoint, around: Around, stack: ExitStack, verb: str
) -> tuple[CloudTarget, FileStateStore]:
    """The account, and a state folder of this point and verb, owned until ``stack`` closes.

    Everything made carries a name out of verb and point, so a run that was killed finds it.

    Raises:
        UsageError: the plan names no account.
        LockedError: another run works on this point.
    """
    owner = f"{verb}-{point.ref.id.hex()[:_OWNER_DIGITS]}"
    home = state_home(around.environ)
    make_private_folder(home)
    make_private_folder(home / ".recovery")
    store = FileStateStore(home / ".recovery" / owner)
    stack.enter_context(StateLock(store.directory, around.run_name))
    return account_of(plan, owner, around, stack), store


def account_of(plan: ReplicationPlan, owner: str, around: Around, stack: ExitStack) -> CloudTarget:
    """The plan's account; everything made there carries ``owner``.

    Raises:
        UsageError: the plan names no account.
    """
    if plan.target is None:
        raise UsageError(
            "the plan names no account to restore into",
            next_step="add target: with aws: or azure: to the plan",
        )
    return accounts.account_target(
        accounts.Account(plan.target, owner, _CONNECTIONS), around, stack
    )


_CONNECTIONS = 32  # as in the plan of a migration
