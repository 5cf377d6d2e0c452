"""`place`, which gives an error its place: the proxy, the hop, the destination and the phase."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from socksclient.protocol.address import Host
from socksclient.protocol.codes import Phase
from socksclient.protocol.exceptions import ProxyConnectError, ProxyTimeout, SocksError
from socksclient.protocol.route import Route

__all__ = ["is_deadline", "place"]


def place(
    error: Exception,
    route: Route,
    hop: int,
    phase: Phase,
    hosts: Sequence[Host] = (),
    failed: int = 0,
    earlier: Iterable[str] = (),
) -> Exception:
    """Return the error to raise in place of `error`: with its place, if it is a `SocksError`.

    Args:
        error: The error that was raised.
        route: The requests to the hops.
        hop: The position of the hop at which the error happened.
        phase: How far the call had come at that hop.
        hosts: The hosts to ask this hop for.
        failed: How many of `hosts` have failed before.
        earlier: The notes about the addresses that have failed before.

    Returns:
        The same error, or a new `SocksError` if the deadline passed or the proxy is out of reach.
        This function changes no error that a caller's mistake causes, and no error that a `Method`
        of the caller's own raises. There is one exception: a TimeoutError without an errno counts
        as the deadline even if such a method raised it, because nothing tells the two apart.
    """
    failure = _socks_error(error, phase)
    if not isinstance(failure, SocksError) or failure.proxy is not None:
        return failure
    request = route.requests[hop]
    failure.proxy = request.proxy
    failure.hop = hop
    failure.destination = route.destination
    failure.phase = phase
    if request is not route.last:
        failure.next_hop = (hosts[failed] if hosts else request.host).text, request.port
    tried = failed + (phase == "request")
    if tried and len(hosts) > 1 and phase != "relay":
        failure.addresses_tried = tried
        failure.addresses_left = tuple(host.text for host in hosts[tried:])
    notes = list(earlier)
    if notes:
        failure.__notes__ = [*getattr(failure, "__notes__", ()), *notes]
    return failure


def is_deadline(error: BaseException | None) -> bool:
    """Return whether an error means that the deadline of this library passed.

    The kernel raises a TimeoutError too when it gives up a connection, with the errno ETIMEDOUT.
    """
    return isinstance(error, TimeoutError) and error.errno is None


def _socks_error(error: Exception, phase: Phase) -> Exception:
    """Return the `SocksError` to raise in the place of an error, or the error itself.

    A deadline becomes a `ProxyTimeout`. An OSError before the connection stands becomes a
    `ProxyConnectError`. Every other error stays as it is.
    """
    if isinstance(error, SocksError):
        return error
    failure: SocksError
    if is_deadline(error):
        failure = ProxyTimeout()
        if phase == "method selection":
            # The proxy has said nothing at all, or one octet.
            failure = ProxyTimeout(
                "timed out before the proxy selected a method; does the proxy speak SOCKS5?"
            )
    elif isinstance(error, OSError) and phase in ("resolve", "connect"):
        what = "reach the proxy" if phase == "connect" else "resolve the proxy's name"
        failure = ProxyConnectError(f"cannot {what}: {error.strerror or error}", error.errno)
    else:
        return error
    failure.__cause__ = error
    return failure
