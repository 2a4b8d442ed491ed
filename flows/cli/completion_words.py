"""What can be completed, as a file beside this one: ``python -m flows.cli.completion_words``.

A completion must answer within a fifth of a second, and building the parser alone takes
half of that. So its words are in a file that a test compares with the parser.
"""

import json
from enum import Enum
from pathlib import Path
from typing import Any

from flows.cli.command_tree import Command, Option
from flows.cli.completing import WORDS_FILE, Kind
from flows.cli.program import every_command
from sealift.config_load import FieldSpec, every_field

Words = dict[str, Any]

_FORMATS = ["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi"]
_CONTAINERS = ["raw", "qcow2", "vmdk", "vmdk-stream", "vhd-fixed", "vhd-dynamic", "vhdx", "vdi"]
_TOPICS = ["environment", "exit-codes", "events", "recovery", "json-schema"]
_SHELLS = ["bash", "zsh", "fish"]
_LOSS = ["compare", "full", "stop"]

_OPTION_VALUES: dict[str, Kind | list[str]] = {
    "--allow-backing": Kind.FILES,
    "--accelerator": ["kvm", "tcg", "kvm:tcg"],
    "--cron": Kind.NOTHING,
    "--directory": Kind.FOLDERS,
    "--disk": Kind.NOTHING,
    "--drop": Kind.NOTHING,
    "--format": _FORMATS,
    "--id": Kind.MIGRATIONS,
    "--key-file": Kind.FILES,
    "--kms": Kind.NOTHING,
    "--key-vault": Kind.NOTHING,
    "--kind": ["migration", "replication"],
    "--on-tracking-loss": _LOSS,
    "--output": Kind.FOLDERS,
    "--passphrase-file": Kind.FILES,
    "--plan": Kind.PLANS,
    "--limit": Kind.NOTHING,
    "--port": Kind.NOTHING,
    "--proof": Kind.NOTHING,
    "--read-data": Kind.NOTHING,
    "--receipt": Kind.NOTHING,
    "--recovery": Kind.FILES,
    "--seconds": Kind.NOTHING,
    "--since": Kind.NOTHING,
    "--still": Kind.NOTHING,
    "--tcp": Kind.NOTHING,
    "--socket": Kind.FILES,
    "--set": Kind.FIELDS,
    "--target": ["aws", "azure"],
    "--to": _CONTAINERS,
    "--try-recovery": Kind.FILES,
}
_ARGUMENT_VALUES: dict[str, Kind | list[str]] = {
    "completion shell": _SHELLS,
    "config init path": Kind.FILES,
    "drill point": ["newest"],
    "failover point": ["newest"],
    "help topic": _TOPICS,
    "image convert path": Kind.FILES,
    "image convert target": Kind.FILES,
    "image info path": Kind.FILES,
    "mount point": ["newest"],
    "points diff first": ["newest"],
    "points drop point": Kind.NOTHING,
    "points pin point": ["newest"],
    "points unpin point": ["newest"],
    "points diff second": ["newest"],
    "points show point": ["newest"],
    "repository keys remove slot": Kind.NOTHING,
    "restore point": ["newest"],
}


def words() -> Words:
    """Everything that is known without looking at files."""
    return {
        "commands": {" ".join(c.words): _command(c) for c in every_command(groups=True)},
        "fields": {spec.name: _choices(spec) for spec in every_field()},
    }


def words_text() -> str:
    """The file's content."""
    return json.dumps(words(), indent=1, ensure_ascii=False) + "\n"


def _command(command: Command) -> Words:
    return {
        "help": command.help,
        "options": {"--help": ["Show this message and exit.", None]}
        | {name: _option(option) for option in command.options for name in option.names},
        "arguments": [
            _plain(_ARGUMENT_VALUES[" ".join([*command.words, name])]) for name in command.arguments
        ],
    }


def _option(option: Option) -> list[Any]:
    values = None if option.flag else _plain(_OPTION_VALUES[option.names[0]])
    return [option.help, values]


def _plain(values: Kind | list[str]) -> str | list[str]:
    return values if isinstance(values, list) else values.value


def _choices(spec: FieldSpec) -> list[str]:
    """The values of a field that has only some."""
    annotation = spec.info.annotation
    if annotation is bool:
        return ["true", "false"]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(member.value) for member in annotation]
    literal = getattr(annotation, "__args__", ())
    return [text for text in literal if isinstance(text, str)]


if __name__ == "__main__":
    Path(__file__).with_name(WORDS_FILE).write_text(words_text(), encoding="utf-8")
