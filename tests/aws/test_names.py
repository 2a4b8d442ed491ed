"""Names, tags and tokens follow from values alone."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.aws.prices import ApiCost
from connectors.aws.spec import VolumeType
from connectors.aws.tags import MIGRATION, Owner, client_token, device_names, image_name, tag_map


@given(st.text(max_size=200), st.integers(min_value=0, max_value=10**9), st.text(max_size=20))
def test_image_names_are_legal_whatever_the_migration_is_called(
    migration: str, seq: int, parameters: str
) -> None:
    name = image_name(migration, seq, parameters)
    assert re.fullmatch(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}", name)
    assert name == image_name(migration, seq, parameters)
    assert name != image_name(migration, seq + 1, parameters)
    assert name != image_name(migration, seq, [parameters])


@given(st.lists(st.integers() | st.text()), st.lists(st.integers() | st.text()))
def test_tokens_differ_exactly_when_their_parts_do(one: list[object], two: list[object]) -> None:
    assert (client_token(*one) == client_token(*two)) == (one == two)
    assert re.fullmatch(r"[!-~]{1,64}", client_token(*one))


@pytest.mark.parametrize("count", [1, 2, 12, 26, 47])
def test_device_names_are_unique_and_the_root_comes_first(count: int) -> None:
    names = device_names(count, "/dev/sda1")
    assert len(set(names)) == len(names) == count
    assert names[0] == "/dev/sda1"
    assert list(names[1:12]) == [f"/dev/sd{c}" for c in "fghijklmnop"][: count - 1]


@pytest.mark.parametrize("count", [0, 48])
def test_more_disks_than_names_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="device names"):
        device_names(count, "/dev/sda1")


def test_our_tags_win_over_the_users() -> None:
    owner = Owner("mig-1", {MIGRATION: "someone else's", "team": "web"})
    tags = tag_map(owner.tags("n", {}))
    assert tags == {MIGRATION: "mig-1", "Name": "n", "team": "web"}
    assert owner.owns(tags)
    assert not Owner("mig-2", {}).owns(tags)


def test_a_full_tebibyte_costs_what_the_price_page_says() -> None:
    assert ApiCost(puts=2_097_152).usd == pytest.approx(12.58, abs=0.01)
    assert ApiCost(gets=2_097_152).usd == pytest.approx(6.29, abs=0.01)
    assert ApiCost(lists=1000).usd == pytest.approx(0.0006)


def test_which_volumes_boot() -> None:
    assert not VolumeType.ST1.bootable
    assert not VolumeType.SC1.bootable
    assert all(t.bootable for t in VolumeType if t not in (VolumeType.ST1, VolumeType.SC1))
    assert all(t.min_gib < t.max_gib <= 65_536 for t in VolumeType)
