"""What the tool says is believed only when it is what QEMU documents, field by field."""

import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converters.facts import parse_check, parse_info, parse_map, parse_measure
from converters.image import ImageFormat
from converters.process import Finished
from converters.strict_json import load
from converters.tool_errors import refusal
from sealift.display import printable
from sealift.errors import OutOfSpaceError, ToolError

INFO: dict[str, object] = {
    "virtual-size": 1024,
    "filename": "x",
    "format": "qcow2",
    "actual-size": 512,
    "dirty-flag": False,
    "cluster-size": 65536,
    "format-specific": {
        "type": "qcow2",
        "data": {
            "compat": "1.1",
            "compression-type": "zlib",
            "lazy-refcounts": False,
            "refcount-bits": 16,
            "corrupt": False,
            "extended-l2": False,
        },
    },
}
MAP: dict[str, object] = {
    "start": 0,
    "length": 512,
    "depth": 0,
    "present": True,
    "zero": False,
    "data": True,
    "offset": 0,
}
CHECK: dict[str, object] = {"check-errors": 0, "filename": "x", "format": "qcow2"}
MEASURE: dict[str, object] = {"required": 1, "fully-allocated": 2}


def raw(value: object) -> bytes:
    return json.dumps(value).encode()


def test_good_answers_are_read() -> None:
    assert parse_info(raw(INFO)).format is ImageFormat.QCOW2
    assert parse_map(raw([MAP]))[0].end == 512
    assert parse_check(raw(CHECK)).sound
    assert parse_measure(raw(MEASURE)).fully_allocated_bytes == 2


def test_fields_of_newer_qemu_versions_are_known() -> None:
    newer = {**INFO, "children": [{"name": "file", "info": {"filename": "x"}}], "limits": {}}
    assert parse_info(raw(newer)).virtual_size_bytes == 1024
    raw_file = {**INFO, "format": "raw", "format-specific": {"type": "file", "data": {}}}
    assert parse_info(raw(raw_file)).format is ImageFormat.RAW
    assert parse_map(raw([{**MAP, "compressed": True}]))[0].compressed


def changed(field: str, value: object) -> bytes:
    return raw({**INFO, field: value})


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"virtual-size": 1}',
        raw(INFO)[:-1],
        raw(INFO) + b"x",
        changed("surprise", 1),
        changed("virtual-size", "1024"),
        changed("virtual-size", True),
        changed("virtual-size", 1.0),
        changed("virtual-size", None),
        changed("virtual-size", -1),
        changed("virtual-size", 2**63),
        changed("format", "nbd"),
        changed("format", 7),
        changed("dirty-flag", "false"),
        changed("snapshots", {}),
        changed("snapshots", [1]),
        changed("snapshots", [{"name": "x", "more": 1}]),
        changed("format-specific", {"type": "rbd", "data": {}}),
        changed("format-specific", {"type": "qcow2", "data": {"new-reference": "/etc/passwd"}}),
        changed("format-specific", {"type": "qcow2", "data": {}, "more": 1}),
        changed("backing-filename", ["x"]),
        changed("backing-filename", "x" * 100_000),
        raw(INFO)[:-1] + b', "virtual-size": 2048}',
        raw(INFO).replace(b"1024", b"NaN"),
        raw(INFO).replace(b"1024", b"Infinity"),
        raw(INFO).replace(b"1024", b"1e3"),
        raw(INFO).replace(b"1024", b"9" * 5000),
        raw(INFO).replace(b"1024", b"[" * 100_000),
        b"\xff\xfe" + raw(INFO),
    ],
)
def test_anything_else_is_a_tool_error(answer: bytes) -> None:
    with pytest.raises(ToolError) as caught:
        parse_info(answer)
    assert len(caught.value.message) < 600


@pytest.mark.parametrize(
    ("parse", "good"),
    [
        (parse_info, INFO),
        (lambda data: parse_map(b"[" + data + b"]"), MAP),
        (parse_check, CHECK),
        (parse_measure, MEASURE),
    ],
)
def test_each_field_is_needed_typed_and_known(
    parse: Callable[[bytes], object], good: dict[str, object]
) -> None:
    parse(raw(good))
    with pytest.raises(ToolError, match="unknown fields: new"):
        parse(raw({**good, "new": 1}))
    for field in ("virtual-size", "start", "length", "zero", "check-errors", "required"):
        if field in good:
            with pytest.raises(ToolError, match=f"field {field} is missing"):
                parse(raw({k: v for k, v in good.items() if k != field}))
            with pytest.raises(ToolError, match=f"field {field} is of type list"):
                parse(raw({**good, field: []}))


def test_a_map_of_nothing_is_no_extent() -> None:
    with pytest.raises(ToolError):
        parse_map(raw([{**MAP, "length": 0}]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine
@given(st.dictionaries(st.sampled_from([*INFO, *MAP, *CHECK, *MEASURE, "x"]), json_values))
def test_no_answer_makes_a_parser_crash(answer: dict[str, object]) -> None:
    for parse in (parse_info, parse_map, parse_check, parse_measure):
        for value in (answer, [answer], {**INFO, **answer}):
            try:
                parse(raw(value))
            except ToolError as error:
                assert error.message.isprintable()  # noqa: PT017


@given(st.binary(max_size=200))
def test_noise_is_a_tool_error_or_json(noise: bytes) -> None:
    try:
        value = load(noise, "test")
    except ToolError as error:
        assert error.operands["origin"] == "test"  # noqa: PT017
        return
    assert value == json.loads(noise)


@pytest.mark.fault(52)
@given(st.text())
def test_what_is_printable_has_no_effect_on_a_terminal(text: str) -> None:
    shown = printable(text)
    assert "\x1b" not in shown
    assert "\n" not in shown
    assert "\u202e" not in shown
    assert len(shown) <= 10 * 300 + 40
    shown.encode("utf-8")


def test_plain_text_stays_as_it_is_and_long_text_says_what_was_cut() -> None:
    assert printable("/data/Büro 1/disk,2.qcow2") == "/data/Büro 1/disk,2.qcow2"
    assert printable("a\x1b[31mb\u202ec\ud800") == "a\\x1b[31mb\\u202ec\\ud800"
    assert printable("x" * 310) == "x" * 300 + "... (10 more)"


@pytest.mark.parametrize("words", ["No space left on device", "Disk quota exceeded"])
def test_a_full_disk_is_told_from_a_bad_image(words: str) -> None:
    done = Finished(1, b"", f"qemu-img: error while writing at byte 0: {words}\n")
    assert type(refusal(done, [], "converted")) is OutOfSpaceError


def test_a_signal_is_explained() -> None:
    error = refusal(Finished(-24, b"", ""), [], "converted")
    assert "SIGXCPU" in error.message
    assert "resource limit" in error.message
    assert "signal 60" in refusal(Finished(-60, b"", ""), [], "converted").message
