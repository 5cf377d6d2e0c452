# mypy: ignore-errors
"""`Attempt`: how far one attempt has come, for the log and for every error that ends it."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from socksclient.protocol.exceptions import (
    ProtocolError,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    Reply,
    ReplyError,
    Socks4Reply,
    SocksError,
    host_port,
)
from socksclient.protocol.flow import check_request, is_onion
from socksclient.protocol.socks5 import (
    NOT_IN_A_NAME,
    Command,
    is_address,
    parse_host,
    parse_port,
)

if TYPE_CHECKING:
    from types import TracebackType

    from socksclient.protocol.exceptions import Phase
    from socksclient.protocol.proxy import Chain, Proxy

Target = tuple[str, int]
"""DST.ADDR and DST.PORT of a request."""

NOT_KNOWN = ("0.0.0.0", 0)
"""The address that a UDP association announces if its source is not known."""

_logger = logging.getLogger("socksclient")


_NOT_OF_ONE_ADDRESS = (
    Reply.COMMAND_NOT_SUPPORTED,
    Socks4Reply.NO_IDENTD,
    Socks4Reply.IDENTD_REPORTS_ANOTHER_USER,
)
"""The replies with which the proxy would refuse every other address too."""


class Attempt:
    """One attempt to have something of the last hop of `chain`: a context manager around it.

    It is the one border at which the deadline and what keeps the proxy from being reached become
    a `SocksError`, and at which every `SocksError` gets its place. All else passes untouched:
    cancellation, a caller's mistakes, whatever a method of the caller's own raises (but for a
    TimeoutError without an errno, which cannot be told from that of the deadline).

    Attributes:
        destination: The (host, port) as the caller gave it; None of a UDP association, which
            has no one destination.
        host: That of the destination as it goes over the wire, if it is not resolved here.
        hop: Which hop the attempt stands at.
        phase: How far it has come there.
        targets: For each hop, what to ask it for, one after the other: what its target resolved
            to, where that is done here.

    Raises:
        ValueError: Host or port cannot be, or a hop cannot carry what it is asked for.
    """

    def __init__(
        self, chain: Chain, host: str, port: int, command: Command = Command.CONNECT
    ) -> None:
        self.chain = chain
        self.command = command
        self.destination = None if command == Command.UDP_ASSOCIATE else (host, port)
        # Only a connection needs its port: BIND and UDP ASSOCIATE have 0 for "not known".
        least = 1 if command == Command.CONNECT else 0
        target = (parse_host(host), parse_port(port, least=least))
        self.host = target[0]
        # All hops but the last are asked to connect to the next.
        self.targets = [*([(hop.host, hop.port)] for hop in chain[1:]), [target]]
        self.phase: Phase = "resolve"
        self.hop = 0
        self._earlier: list[str] = []
        # How many addresses of each hop's target have failed.
        self._failed = [0] * len(chain)
        if chain[0].path is None and is_onion(chain[0].host):
            raise ValueError(f"{chain[0].host} is known to Tor only, and would be resolved here")
        for number, hop in enumerate(chain):
            self.hop = number
            check_request(hop, self.asked, self.target[0])
        self.hop = 0

    @property
    def proxy(self) -> Proxy:
        """The hop that the attempt stands at."""
        return self.chain[self.hop]

    @property
    def asked(self) -> Command:
        """CMD of the request that it gets."""
        return self.command if self.hop == len(self.chain) - 1 else Command.CONNECT

    @property
    def target(self) -> Target:
        """DST.ADDR and DST.PORT of that request."""
        return self.targets[self.hop][0]

    @property
    def own_address(self) -> Target | None:
        """The (host, port) at which the hop before reaches the last hop; None with one hop."""
        return self.targets[-2][0] if len(self.chain) > 1 else None

    @property
    def own_host(self) -> str | None:
        """The host of `own_address`."""
        return None if self.own_address is None else self.own_address[0]

    @property
    def resolves_here(self) -> bool:
        """Whether the target is a name which is resolved on this side."""
        return not (
            self.proxy.remote_dns
            or is_address(self.target[0])
            or self.asked in (Command.RESOLVE, Command.RESOLVE_PTR)
        )

    def request_over(self, family: int) -> tuple[Command, str, int]:
        """The request for it, when the nearest hop was reached by an address of `family`.

        A UDP association whose source is not known has all zeros there (RFC 1928 §7), and by
        their family Dante chooses that of its relay: where it listens at IPv6 addresses only, it
        refuses the zeros of IPv4 (REP 08).
        """
        host, port = self.target
        if self.asked == Command.UDP_ASSOCIATE and (host, port) == NOT_KNOWN:
            over_ipv6 = ":" in self.proxy.host if self.hop else family == socket.AF_INET6
            host = "::" if over_ipv6 else host
        return self.asked, host, port

    def checked(self, answer: str) -> str:
        """The answer to RESOLVE, which is an IP address, or to RESOLVE_PTR, which is a name.

        Raises:
            ProtocolError: It is not.
        """
        good = is_address(answer)
        if self.command == Command.RESOLVE_PTR:
            good = not (good or NOT_IN_A_NAME.search(answer) or "\\" in answer or not answer)
        if not good:
            raise ProtocolError(f"the answer to {self.command.text} is {answer!r}")
        return answer

    def start(self) -> None:
        """From the nearest hop on, perhaps not for the first time."""
        self.hop = 0
        self.enter("connect")

    def try_next_address(self, error: SocksError) -> bool:
        """Return whether to try the next address of a target, and move on to it if so.

        The next address may succeed after every refusal that concerns one address. Those are all
        replies except `_NOT_OF_ONE_ADDRESS`, because servers differ: on a host without IPv6,
        microsocks replies REP 01 to an IPv6 address. A hang-up on the request counts too, because
        `ssh -D` hangs up on every failure, and sends no reply.
        """
        ahead = self.targets[error.hop]
        # They are compared by identity because the numbers of SOCKS5 and SOCKS4 overlap.
        refused = isinstance(error, ReplyError) and not any(
            error.reply is reply for reply in _NOT_OF_ONE_ADDRESS
        )
        hung_up = isinstance(error, ProxyClosed) and error.phase == "request"
        if len(ahead) == 1 or not (refused or hung_up):
            return False
        self._failed[error.hop] += 1
        self._earlier.append(f"before that, {ahead.pop(0)[0]}: {error.strerror}")
        return True

    def enter(self, phase: Phase) -> None:
        """A new phase begins."""
        self.phase = phase
        self.log(phase)

    def log(self, event: str) -> None:
        """One line at DEBUG. The proxy's `str` has no credentials in it."""
        if _logger.isEnabledFor(logging.DEBUG):
            what = "" if self.command == Command.CONNECT else f"{self.command.text} "
            if self.destination is not None:
                what += host_port(*self.destination)
            where = f"hop {self.hop}, {self.proxy}" if len(self.chain) > 1 else self.proxy
            _logger.debug("%s via %s: %s", what.rstrip(), where, event)

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        error = self._socks_error(exc)
        if error is None or error.proxy is not None:  # the latter has been here before
            return
        error.proxy = self.proxy
        error.hop = self.hop
        error.destination = self.destination
        error.phase = self.phase
        if self.hop < len(self.chain) - 1:
            error.next_hop = self.target
        ahead = self.targets[self.hop]
        is_asked = self.phase == "request"
        tried = self._failed[self.hop] + is_asked
        if tried and self._failed[self.hop] + len(ahead) > 1 and self.phase != "relay":
            error.addresses_tried = tried
            error.addresses_left = tuple(host for host, _ in ahead[is_asked:])
        if self._earlier:
            error.__notes__ = [*getattr(error, "__notes__", ()), *self._earlier]
        self.log(f"failed: {error.strerror}")
        if error is not exc:
            try:
                raise error from exc
            finally:
                del error, exc  # or they and this frame would hold each other

    def _socks_error(self, exc: BaseException | None) -> SocksError | None:
        if isinstance(exc, SocksError):
            return exc
        if is_deadline(exc):
            if self.phase == "method selection":  # it said nothing at all, or one octet
                return ProxyTimeout("timed out: the proxy does not answer as one of SOCKS5 does")
            return ProxyTimeout()
        if isinstance(exc, OSError) and self.phase in ("resolve", "connect"):
            what = "reach the proxy" if self.phase == "connect" else "resolve the proxy's name"
            return ProxyConnectError(f"cannot {what}: {exc.strerror or exc}", exc.errno)
        return None


def is_deadline(exc: BaseException | None) -> bool:
    """Whether it is a deadline of ours, and not the kernel giving up (ETIMEDOUT)."""
    return isinstance(exc, TimeoutError) and exc.errno is None
