# SPDX-License-Identifier: Apache-2.0
"""The rtnetlink codec: what it writes, what it refuses; and against the kernel, what anybody may ask."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.runtime import rtnetlink
from ctnr.runtime.rtnetlink import Netlink, attribute, attributes, messages


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=300), max_size=10))
def test_attributes_come_back(found: dict[int, bytes]) -> None:
    assert attributes(b"".join(attribute(kind, data) for kind, data in found.items())) == found


def test_a_length_that_would_wrap_around_is_refused() -> None:
    """CVE-2021-43784."""
    assert len(attribute(1, bytes(0xFFFB))) == 0x10000  # 65535 and its padding
    with pytest.raises(ValueError, match="65536 bytes"):
        attribute(1, bytes(0xFFFC))
    with pytest.raises(ValueError, match="netlink attribute"):
        attribute(1, bytes(0x10008))


@given(st.binary(max_size=200))
def test_damage_is_an_error_and_nothing_else(data: bytes) -> None:
    for parse in (attributes, lambda data: list(messages(data))):
        try:
            parse(data)
        except OSError as error:
            assert "damaged" in str(error)


def test_links_are_those_of_the_kernel() -> None:
    netlink = Netlink()
    try:
        assert {(link.index, link.name) for link in netlink.links()} == set(socket.if_nameindex())
        loopback = netlink.link("lo")
        assert loopback is not None and loopback.index == socket.if_nametoindex("lo")
        assert netlink.link("no-such-device") is None
        if loopback.flags & rtnetlink.IFF_UP:
            # 127.0.0.1/8: permanent, of host scope
            found = [a for a in netlink.addresses(loopback.index) if a.family == socket.AF_INET]
            assert found and all(a.permanent and not a.universe for a in found)
        with pytest.raises(OSError, match="netlink"):
            netlink.set_link(0x7FFFFFFF, up=False)
    finally:
        netlink.close()
