"""Mutations: of bytes, of the parts that a message consists of, and of JSON trees.

An input is a tuple of parts, such as the messages of a stream or the regions of an image.
Parts are joined before a parser sees them, so a failure is one string of bytes.
"""

import json
from collections.abc import Sequence
from random import Random
from typing import Literal

Parts = tuple[bytes, ...]

INTEGERS = (
    *(0, 1, 2, 3, 7, 8, 12, 16, 64, 127, 128, 255, 256, 511, 512, 513, 4095, 4096, 65535, 65536),
    *(10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 512, 2**63 - 1, 2**63),
    *(2**64 - 512, 2**64 - 1, -1, -2, -(2**31), -(2**63)),
)
"""Edges of widths, counts that no honest message has, and sizes of sectors."""

_DEPTH = 3000  # beyond the recursion limit of the interpreter
_MAX_PARTS = 64
_MAX_PART_BYTES = 1 << 20
_TEXTS = (
    *("", " ", "\0", "a\0b", "..", "../../etc/shadow", "/etc/shadow", "-rf", "json:{}", "nbd://x/"),
    *(
        "\x1b[2J\x1b[31m",
        "\u202egnp.exe",
        "\ud800",
        "a\nb\r\n",
        "~",
        "~nobody-here/x",
        "x" * 10_000,
    ),
    *(
        "NaN",
        "Infinity",
        "-1",
        "1e999",
        "0x10",
        "9" * 5000,
        "\ufeff",
        "é" * 2048,
        "%s%n{0}",
        "a" * 300,
    ),
)
_CONSTANTS = ("NaN", "Infinity", "-Infinity", "1e999", "-1", "1.5", "null", "true", "[]", "{}")


def mutated_parts(random: Random, parts: Parts, pool: Sequence[Parts]) -> Parts:
    """One to four changes: mostly inside of one part, else of their order and number."""
    found = list(parts)
    for _ in range(1 + (random.random() < 0.3) * random.randrange(1, 4)):
        if not found or random.random() < 0.15:
            _reorder(random, found, pool)
        else:
            at = random.randrange(len(found))
            other = random.choice(pool)
            found[at] = mutated_bytes(random, found[at], random.choice(other) if other else b"")
    return tuple(found[:_MAX_PARTS])


def _reorder(random: Random, parts: list[bytes], pool: Sequence[Parts]) -> None:
    other = random.choice(pool)
    kind = random.randrange(5)
    if kind == 0 and parts:
        del parts[random.randrange(len(parts))]
    elif kind == 1 and parts:
        parts.insert(random.randrange(len(parts) + 1), random.choice(parts))
    elif kind == 2 and len(parts) > 1:
        i, j = random.randrange(len(parts)), random.randrange(len(parts))
        parts[i], parts[j] = parts[j], parts[i]
    elif kind == 3 and other:
        parts.insert(random.randrange(len(parts) + 1), random.choice(other))
    elif parts:
        del parts[random.randrange(len(parts)) :]


def mutated_bytes(random: Random, data: bytes, other: bytes = b"") -> bytes:
    """One change: a bit, a byte, an integer of some width, a cut, a repeat, a splice."""
    if not data:
        return random.choice((b"\0", b"\xff" * 8, random.randbytes(8), other[:64]))
    at = random.randrange(len(data))
    kind = random.randrange(10)
    if kind < 2:
        return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + random.randbytes(1) + data[at + 1 :]
    if kind < 6:
        return _with_integer(random, data, at)
    if kind == 6:
        return data[:at]
    if kind == 7:
        end = min(len(data), at + random.choice((1, 2, 4, 8, 16, 512)))
        return data[:at] + data[end:]
    if kind == 8:
        end = min(len(data), at + random.choice((1, 4, 8, 16, 64)))
        times = random.choice((1, 2, 3, 50, 1000))
        return (data[:at] + data[at:end] * times + data[at:])[:_MAX_PART_BYTES]
    start = random.randrange(len(other)) if other else 0
    piece = other[start : start + random.choice((1, 4, 8, 64, 512))] or random.randbytes(4)
    return data[:at] + piece + data[at + (len(piece) if random.random() < 0.5 else 0) :]


def _with_integer(random: Random, data: bytes, at: int) -> bytes:
    width = random.choice((1, 2, 4, 4, 8, 8))
    at -= at % width if random.random() < 0.5 else 0
    order: Literal["big", "little"] = "big" if random.random() < 0.5 else "little"
    if random.random() < 0.3:
        held = int.from_bytes(data[at : at + width], order)
        value = held + random.choice((-1, 1, -512, 512, held))
    else:
        value = random.choice(INTEGERS)
    packed = (value % (1 << 8 * width)).to_bytes(width, order)
    return data[:at] + packed + data[at + width :]


def mutated_json(random: Random, parts: Parts, pool: Sequence[Parts]) -> Parts:
    """A change of the tree of one part that is JSON; of its bytes when it is not."""
    if not parts or random.random() < 0.1:
        return mutated_parts(random, parts, pool)
    found = list(parts)
    at = random.randrange(len(found))
    try:
        tree = json.loads(found[at])
    except (ValueError, RecursionError):
        return mutated_parts(random, parts, pool)
    for _ in range(1 + (random.random() < 0.3) * random.randrange(1, 4)):
        tree = _mutated_tree(random, tree)
    text = _with_flaw(random, json.dumps(tree, ensure_ascii=random.random() < 0.9))
    found[at] = text.encode("utf-8", "surrogatepass") + found[at][len(found[at].rstrip()) :]
    return tuple(found)


def _mutated_tree(random: Random, tree: object) -> object:
    if isinstance(tree, dict) and tree and random.random() < 0.85:
        return _mutated_object(random, tree)
    if isinstance(tree, list) and tree and random.random() < 0.85:
        return _mutated_array(random, tree)
    return _value(random, tree)


def _mutated_object(random: Random, tree: dict[str, object]) -> dict[str, object]:
    key = random.choice(list(tree))
    kind = random.random()
    if kind < 0.8:
        return {**tree, key: _mutated_tree(random, tree[key])}
    if kind < 0.9:
        return {name: value for name, value in tree.items() if name != key}
    return {**tree, random.choice((*_TEXTS, key.upper(), key + "s")): tree[key]}


def _mutated_array(random: Random, tree: list[object]) -> list[object]:
    at = random.randrange(len(tree))
    kind = random.random()
    if kind < 0.7:
        return [*tree[:at], _mutated_tree(random, tree[at]), *tree[at + 1 :]]
    if kind < 0.8:
        return tree[:at] + tree[at + 1 :]
    if kind < 0.9:
        return [*tree[:at], tree[at], *tree[at:]]
    return (tree * random.choice((2, 10, 1000)))[:2000]


def _value(random: Random, old: object) -> object:
    if isinstance(old, str) and random.random() < 0.5:
        raw = mutated_bytes(random, old.encode("utf-8", "surrogatepass"), b"x")
        return raw.decode("utf-8", "replace")
    if isinstance(old, int) and random.random() < 0.6:
        return random.choice((*INTEGERS, old + 1, old - 1, old * 2, 10**30))
    others: tuple[object, ...] = (None, True, False, 0, 1.5, -0.0, [], {}, [[]], {"a": []}, "")
    return random.choice((*others, random.choice(_TEXTS), random.choice(INTEGERS)))


def _with_flaw(random: Random, text: str) -> str:
    """Sometimes what a tree cannot say: a key twice, NaN, depth, a huge number, a huge text."""
    kind = random.random()
    if kind < 0.02:
        return "[" * _DEPTH + text + "]" * _DEPTH
    if kind < 0.04:
        return '{"a":' * _DEPTH + text + "}" * _DEPTH
    if kind < 0.08 and text.startswith("{") and len(text) > 2:
        return "{" + text[1:-1] + "," + text[1:]
    if kind < 0.14:
        return _with_number(random, text)
    if kind < 0.145:
        return text.replace('"', '"' + "x" * 200_000, 1)
    return text


def _with_number(random: Random, text: str) -> str:
    digits = [i for i, c in enumerate(text) if c.isdigit()]
    if not digits:
        return text
    start = end = random.choice(digits)
    while end < len(text) and text[end].isdigit():
        end += 1
    wanted = random.choice((*_CONSTANTS, "1" * 5000, "1" * 4000, str(10**9), "1E400", "0.1e-400"))
    return text[:start] + wanted + text[end:]
