"""``sealift sandbox``: an account of one's own, offline, to rehearse a plan with."""

import shlex
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from flows.cli.lines import Rehearsal
from flows.cli.output import Output
from flows.cli.summaries import Ended
from sealift.errors import UsageError

Opened = tuple[Mapping[str, str], Mapping[str, str]]
"""Variables for clients of the cloud, and those that name the account in a plan."""


def sandbox(output: Output, directory: Path | None, port: int, target: str, *, boot: bool) -> None:
    """Serve until a signal comes; everything in the account is gone afterwards.

    Raises:
        UsageError: the sandbox is not installed, folder or port cannot be used, or there is no
            such target.
    """
    if target not in ("aws", "azure"):
        raise UsageError(f"--target {target}: there are aws, azure", next_step="choose one")
    if target == "azure" and port:
        raise UsageError("--port: Azure has an address per service", next_step="leave it out")
    stop = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    with _blocked(stop), tempfile.TemporaryDirectory(prefix="sealift-sandbox-") as temporary:
        place = directory or Path(temporary)
        with _started(_azure(place, boot) if target == "azure" else _aws(place, port, boot)) as at:
            _tell(output, target, *at)
            signal.sigwait(stop)
    output.summary(Ended(command="sandbox", text="the sandbox and everything in it is gone"))


@contextmanager
def _started(account: AbstractContextManager[Opened]) -> Iterator[Opened]:
    try:
        opened = account.__enter__()
    except ImportError as error:
        raise UsageError(
            f"the sandbox is not installed: {error}", next_step="pip install 'sealift[sandbox]'"
        ) from None
    except OSError as error:
        raise UsageError(
            f"the sandbox cannot start: {_words(error)}", next_step="choose another folder or port"
        ) from None
    try:
        yield opened
    finally:
        account.__exit__(None, None, None)


@contextmanager
def _aws(place: Path, port: int, boot: bool) -> Iterator[Opened]:
    from sandbox.aws.network import default_network
    from sandbox.aws.rules import Quotas, Rules
    from sandbox.aws.server import AwsSandbox
    from sandbox.boot import InstanceBooter

    booter = InstanceBooter(place / "machines") if boot else None
    rules = Rules(quotas=Quotas())  # the rates that a new account has
    with AwsSandbox(place / "account", port=port, rules=rules, on_launch=booter) as account:
        if booter is not None:
            booter.sandbox = account
        subnet, group = default_network(account.environment())
        values = {"subnet": subnet, "security_groups": group}
        yield account.environment(), _variables("aws", values)


@contextmanager
def _azure(place: Path, boot: bool) -> Iterator[Opened]:
    from sandbox.azure.rules import Rules
    from sandbox.azure.server import AzureSandbox
    from sandbox.boot import MachineBooter
    from sandbox.demo_azure import plan_values

    booter = MachineBooter(place / "machines") if boot else None
    rules = Rules(throttled=True)
    with AzureSandbox(place / "account", rules=rules, on_launch=booter) as account:
        if booter is not None:
            booter.sandbox = account
        yield account.environment(), _variables("azure", plan_values(account))


def _variables(target: str, values: Mapping[str, str]) -> Mapping[str, str]:
    return {
        f"SEALIFT_TARGET__{target.upper()}__{name.upper()}": text for name, text in values.items()
    }


@contextmanager
def _blocked(signals: set[signal.Signals]) -> Iterator[None]:
    """Before any thread begins, so that all inherit it and only ``sigwait`` hears them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _words(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"


def _tell(
    output: Output, target: str, environment: Mapping[str, str], plan: Mapping[str, str]
) -> None:
    output.emit(Rehearsal(environment=dict(environment), plan=dict(plan)))
    whose = {"aws": "an AWS account", "azure": "an Azure subscription"}[target]
    output.say(f"# {whose} of your own, until you press Ctrl-C; in another terminal:")
    for name, value in {**environment, **plan}.items():
        output.say(f"export {name}={shlex.quote(value)}")
