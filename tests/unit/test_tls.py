"""TLS with a proxy, as far as it needs no socket: contexts, names and the wording of errors."""

from __future__ import annotations

import errno
import ssl

import pytest

from socksclient import Proxy
from socksclient._net.tls import check_not_shared, context_of, server_name, tls_failure

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def test_context_of_a_proxy_is_its_own_or_the_shared_default() -> None:
    assert context_of(Proxy("h", tls=CONTEXT)) is CONTEXT
    default = context_of(Proxy("h", tls=True))
    assert default is context_of(Proxy("i", tls=True))
    assert default.verify_mode == ssl.CERT_REQUIRED
    assert default.check_hostname


def test_check_not_shared_refuses_the_context_of_a_hop() -> None:
    chain = (Proxy("h"), Proxy("i", tls=True), Proxy("j", tls=CONTEXT))
    with pytest.raises(ValueError, match="ssl_context is also the context for TLS"):
        check_not_shared("ssl_context", CONTEXT, chain)
    for context in (None, True, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)):
        check_not_shared("ssl_context", context, chain)
    check_not_shared("ssl_context", CONTEXT, chain[:2])


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("proxy.test", "proxy.test"),
        ("proxy.test.", "proxy.test"),
        ("192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_server_name_has_no_zone_id_and_no_trailing_dot(host: str, name: str) -> None:
    assert server_name(host) == name


def with_cause(cause: BaseException | None) -> Exception:
    """Return an error like those of anyio, which have the reason as their cause."""
    error = EOFError() if cause is None else RuntimeError("the stream is broken")
    error.__cause__ = cause
    return error


UNKNOWN_CA = ssl.SSLCertVerificationError(1, "certificate verify failed")
NO_TLS = ssl.SSLError(1, "wrong version number")
RESET = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


@pytest.mark.parametrize(
    ("error", "text", "number"),
    [
        (NO_TLS, "wrong version number; does the proxy speak TLS?", None),
        (with_cause(NO_TLS), "wrong version number; does the proxy speak TLS?", None),
        (
            UNKNOWN_CA,
            (
                "certificate verify failed; to trust a certificate authority of your own, use"
                " Proxy(tls=context)"
            ),
            None,
        ),
        (RESET, "Connection reset by peer", errno.ECONNRESET),
        (with_cause(RESET), "Connection reset by peer", errno.ECONNRESET),
        (with_cause(None), "the proxy closed the connection", None),
        (OSError("no number"), "no number", None),
    ],
    ids=repr,
)
def test_tls_failure_tells_the_reason_and_what_to_do(
    error: BaseException, text: str, number: int | None
) -> None:
    failure = tls_failure(error)
    assert failure.strerror == f"TLS with the proxy failed: {text}"
    assert failure.errno == number
