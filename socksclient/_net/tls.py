"""TLS with a proxy, as far as both runtimes share it: contexts, names and the wording of errors."""

from __future__ import annotations

import functools
import ssl
from typing import cast

from socksclient.protocol.exceptions import ProxyConnectError
from socksclient.protocol.proxy import Chain, Proxy

__all__ = ["check_not_shared", "context_of", "server_name", "tls_failure"]


def context_of(proxy: Proxy) -> ssl.SSLContext:
    """Return the context to speak TLS with `proxy`.

    Other connections may use the same context, so nothing may change the context.
    """
    return _default_context() if proxy.tls is True else cast("ssl.SSLContext", proxy.tls)


# To make a default context takes 20 ms, because OpenSSL reads all certificates of the system. So
# all proxies with `tls=True` share one.
@functools.cache
def _default_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def check_not_shared(name: str, context: object, chain: Chain) -> None:
    """Refuse a context for the destination that is also the context for a proxy of the chain.

    HTTP libraries change the context for the destination: they set ALPN on the context, which must
    not be offered to a proxy (RFC 7301), and they may switch off verification.

    Args:
        name: The name of the caller's argument, for the text of the error.
        context: The context for the destination.
        chain: The proxies.

    Raises:
        ValueError: A proxy of the chain has the same context.
    """
    if any(hop.tls is context for hop in chain if hop.tls not in (None, True)):
        raise ValueError(
            f"{name} is also the context for TLS with the proxy; use another context for the"
            " destination"
        )


def server_name(host: str) -> str:
    """Return the name for SNI and for the check of the certificate: `host` in the form of TLS.

    Such a name has no zone id, which means something on this machine only, and no trailing dot
    (RFC 6066 §3).
    """
    return host.partition("%")[0].removesuffix(".")


def tls_failure(error: BaseException) -> ProxyConnectError:
    """Return the error that a failed TLS handshake with a proxy means.

    The text says what OpenSSL or the system reports, and what the caller can do. The errno is that
    of the system's error; there is none if TLS itself has failed.

    Args:
        error: The error of `ssl`, of a socket or of an anyio stream.
    """
    # anyio's own errors say only that the stream is broken, and have the reason as their cause.
    cause = error if isinstance(error, OSError) else error.__cause__ or error
    text = getattr(cause, "strerror", None) or str(cause) or "the proxy closed the connection"
    if isinstance(cause, ssl.SSLCertVerificationError):
        text += "; to trust a certificate authority of your own, use Proxy(tls=context)"
    elif isinstance(cause, ssl.SSLError):
        text += "; does the proxy speak TLS?"
    # The errno of an `ssl.SSLError` is an error number of OpenSSL, and not one of the system.
    number = None if isinstance(cause, ssl.SSLError) else getattr(cause, "errno", None)
    return ProxyConnectError(f"TLS with the proxy failed: {text}", number)
