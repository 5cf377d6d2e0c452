"""The pytest fixture `socks_proxy`; only pytest loads this module, by its entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from socksclient.testing.server import SocksServer


@pytest.fixture
def socks_proxy() -> Iterator[SocksServer]:
    """A `socksclient.testing.SocksServer` without accounts and faults."""
    from socksclient.testing.server import (
        SocksServer,
    )  # here, for runs of pytest that never ask for it

    with SocksServer() as server:
        yield server
