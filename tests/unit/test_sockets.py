"""`socksclient._net.sockets`: the checks that need no socket."""

from __future__ import annotations

import pytest

from socksclient import Proxy
from socksclient._net.sockets import refuse_tls

PLAIN = Proxy("a")
TLS = Proxy("b", tls=True)


@pytest.mark.parametrize(
    ("chain", "allowed"), [([PLAIN], 0), ([PLAIN, PLAIN], 0), ([PLAIN, TLS], 1), ([TLS], 1)]
)
def test_refuse_tls_accepts_chain_with_as_many_tls_hops_as_allowed(
    chain: list[Proxy], allowed: int
) -> None:
    refuse_tls(chain, "a socket", "anyio", allowed=allowed)


@pytest.mark.parametrize(
    ("chain", "allowed", "text"),
    [
        ([TLS], 0, "a socket cannot go through a proxy with TLS; use anyio"),
        ([PLAIN, TLS], 0, "a socket cannot go through a proxy with TLS; use anyio"),
        (
            [TLS, PLAIN, TLS],
            1,
            "a socket cannot go through more than one proxy with TLS; use anyio",
        ),
    ],
)
def test_refuse_tls_names_what_the_caller_can_use_instead(
    chain: list[Proxy], allowed: int, text: str
) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        refuse_tls(chain, "a socket", "anyio", allowed=allowed)
