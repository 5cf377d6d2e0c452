"""The pytest fixture `socks_proxy`.

pytest loads this module in every run where socksclient is installed, by the entry point
``pytest11``. So the module imports the test server only when a test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from socksclient.testing.server import SocksServer


@pytest.fixture
def socks_proxy() -> Iterator[SocksServer]:
    """Run a `socksclient.testing.SocksServer` without accounts and faults during one test."""
    from socksclient.testing.server import SocksServer

    with SocksServer() as server:
        yield server
