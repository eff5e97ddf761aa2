"""Addresses as URLs have them."""

import pytest

from infra.addresses import join_address


@pytest.mark.parametrize(
    ("host", "joined"), [("127.0.0.1", "127.0.0.1:80"), ("a.example", "a.example:80"), ("::1", "[::1]:80")]
)
def test_an_ipv6_address_stands_in_brackets(host: str, joined: str) -> None:
    """Its colons would be taken for the port's."""
    assert joined == join_address(host, 80)
