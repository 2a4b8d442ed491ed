"""What was used last stays, within the bound."""

from sealift.repository.recent import Recent


def test_what_was_not_used_for_longest_goes_first() -> None:
    recent = Recent(10, len)
    recent.put("a", b"1234")
    recent.put("b", b"1234")
    assert recent.get("a") == b"1234"
    recent.put("c", b"12")
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (b"1234", b"1234", b"12")
    recent.get("a")
    recent.put("d", b"123")
    assert (recent.get("a"), recent.get("b")) == (b"1234", None)
    assert (recent.get("c"), recent.get("d")) == (b"12", b"123")


def test_a_value_that_is_put_again_or_dropped_weighs_once_or_nothing() -> None:
    recent = Recent(10, len)
    for _ in range(5):
        recent.put("a", b"12345")
    recent.put("b", b"12345")
    assert recent.get("a") == b"12345"
    recent.drop("a")
    recent.drop("a")
    recent.put("c", b"12345")
    assert (recent.get("a"), recent.get("b")) == (None, b"12345")


def test_one_that_is_too_heavy_is_kept_alone() -> None:
    recent = Recent(3, len)
    recent.put("a", b"1")
    recent.put("b", b"12345")
    assert (recent.get("a"), recent.get("b")) == (None, b"12345")
    recent.put("c", b"1")
    assert (recent.get("b"), recent.get("c")) == (None, b"1")
