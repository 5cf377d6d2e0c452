"""The pytest fixture `socks_proxy`."""

from __future__ import annotations

import pytest

from socksclient import create_connection
from socksclient.testing import SocksServer

from helpers.support import Address, assert_echoes

pytest_plugins = ["pytester"]

TEST = """
    import socket, socksclient

    def test_it(socks_proxy):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            with socksclient.create_connection(address, proxy=socks_proxy.url):
                assert socks_proxy.requests[0].destination == address
"""


def test_socks_proxy_in_a_fresh_run_of_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TEST)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_socks_proxy_in_this_run(socks_proxy: SocksServer, echo_server: Address) -> None:
    with create_connection(echo_server, proxy=socks_proxy.url) as sock:
        assert_echoes(sock)
