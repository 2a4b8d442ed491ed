"""Plan files and values: written by the user, so an error has to be told in words."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

from flows.cli.options import NOT_FIELDS
from sealift.config_load import fields, load_plan
from sealift.errors import ConfigError
from tests.fuzz.engine import Target
from tests.fuzz.mutate import Parts, mutated_bytes, mutated_json, mutated_parts

_LEAST = {
    "migration": "web-01",
    "source.qemu.qmp": "/run/web.qmp",
    "target.aws.subnet": "subnet-1",
    "target.aws.security_groups": "sg-1",
}
_PLAN = b"""migration: web-01
source:
  qemu:
    qmp: /run/web.qmp
    scratch_limit: 10GiB
target:
  aws:
    subnet: subnet-1
    security_groups: [sg-1, "sg-2"]
    tags: {a: 1, 'b': "c"}
policy:
  downtime_budget: 1h30min
  verify: all
limits:
  bandwidth: 100MiB/s
"""
_TOKENS = (
    *(b"- ", b"? ", b": ", b", ", b"[", b"]", b"{", b"}", b"&a ", b"*a ", b"!!str ", b"!<x> "),
    *(b"---\n", b"...\n", b"%YAML 99.9\n", b"%TAG ! x\n", b"#c\n", b"'", b'"', b"\\", b"\n", b"\t"),
    *(b"|", b">-\n", b"<<: ", b'"\\ud800"', b'"\\U00110000"', b'"\\x1b[2J"', b"\xe2\x80\xa8"),
    *(b"\xef\xbb\xbf", b"~x/y", b"1e999", b"0x", b"null", b".inf", b"\0", b"\x7f", b"? [a]\n: c\n"),
)


class _File:
    path: Path

    @contextmanager
    def around(self) -> Iterator[None]:
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        with tempfile.TemporaryDirectory(prefix="sealift-fuzz-", dir=memory) as folder:
            self.path = Path(folder) / "plan.yaml"
            yield


def _told(error: ConfigError) -> str:
    """The kind of problem; its words have to be fit for a terminal."""
    assert "\x1b" not in error.message
    assert error.message.encode()
    problems = error.operands.get("problems")
    first = problems[0]["message"] if isinstance(problems, list) else error.message
    return re.sub(r"[^a-z ]", "", str(first).partition("(")[0])[:12]


def _plan_file() -> Target:
    held = _File()

    def parse(data: bytes) -> object:
        held.path.write_bytes(data)
        try:
            plan = load_plan(held.path, environ={}).plan
        except ConfigError as error:
            return _told(error)
        assert type(plan).model_validate(plan.model_dump(mode="json")) == plan
        return "plan"

    lines = tuple(_PLAN.splitlines(keepends=True))
    whole = tuple((_PLAN + b"policy:\n").splitlines(keepends=True))
    seeds = (lines, whole, (json.dumps({"migration": "a", "source": None}).encode(),))
    return Target(
        *("plan-file", parse, seeds, (ConfigError,)),
        weight=8,
        mutators=(mutated_parts, _with_token, _with_token),
        around=held.around,
        calls=20_000_000,  # 256 KiB, character by character
        memory_bytes=64 * 1024 * 1024,
    )


def _with_token(random: Random, parts: Parts, pool: Sequence[Parts]) -> Parts:
    """Something that YAML gives a meaning to, anywhere."""
    if not parts:
        return (random.choice(_TOKENS),)
    found = list(parts)
    at = random.randrange(len(found))
    place = random.randrange(len(found[at]) + 1)
    token = random.choice(_TOKENS) * random.choice((1, 1, 1, 2, 30, 3000))
    found[at] = found[at][:place] + token + found[at][place:]
    return tuple(found)


def _plan_values() -> Target:
    names = tuple(spec.name for spec in fields())
    variables = tuple(spec.variable for spec in fields())

    def parse(data: bytes) -> object:
        """A field, and its value by an option or by a variable."""
        at = data[0] % len(names) if data else 0
        text = data[2:].decode("utf-8", "surrogateescape")
        by_option = data[1:2] < b"\x80"
        options = {**_LEAST, names[at]: text} if by_option else dict(_LEAST)
        if not by_option:
            options.pop(names[at], None)
        environ = {} if by_option else {variables[at]: text}
        try:
            loaded = load_plan(None, environ=environ, options=options, not_fields=NOT_FIELDS)
        except ConfigError as error:
            return _told(error)
        again = type(loaded.plan).model_validate(loaded.plan.model_dump(mode="json"))
        assert again == loaded.plan
        return names[at]

    values: tuple[str, ...] = (
        "10GiB",
        "1h30min",
        "true",
        "a=1,b=2",
        "sg-1,sg-2",
        "64",
        "all",
        "/run/x",
        "~/x",
    )
    values += ("gp3", "pause", "http://127.0.0.1:1/", "m5.large", "compare", "~nobody-here/x")
    seeds = tuple(
        (bytes([n]), flag, values[n % len(values)].encode())
        for n in range(len(names))
        for flag in (b"\0", b"\xff")
    )
    return Target(
        *("plan-values", parse, seeds, (ConfigError,)),
        weight=20,
        mutators=(_value, mutated_parts, mutated_json),
    )


def _value(random: Random, parts: Parts, pool: Sequence[Parts]) -> Parts:
    """The value alone changes, or moves to another field."""
    other = random.choice(pool)
    if random.random() < 0.3:
        return (random.randbytes(1), *parts[1:2], *other[2:])
    return (*parts[:2], mutated_bytes(random, b"".join(parts[2:]), b"".join(other[2:])))


BUILDERS: Mapping[str, Callable[[], Target]] = {
    "plan-file": _plan_file,
    "plan-values": _plan_values,
}
"""Plans."""
