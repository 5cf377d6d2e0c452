"""FTP through a proxy, in both of its modes: `ftplib` with its connections through SOCKS.

The control connection and, in the passive mode, the data connections go by CONNECT. In the active
mode (``set_pasv(False)``) it is the server that connects, to a port at which the proxy listens:
that is BIND, which few proxies offer.
"""

from __future__ import annotations

import ftplib
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from socksclient._net.sockets import refuse_tls
from socksclient._sync.connect import DEFAULT_TIMEOUT, Listener, bind, create_connection
from socksclient._sync.tls import server_name, start_tls
from socksclient.protocol.address import is_address
from socksclient.protocol.exceptions import ProtocolError, SocksError
from socksclient.protocol.proxy import Chain, ProxyLike, as_chain

__all__ = ["FTP", "FTP_TLS"]


class _Proxied(ftplib.FTP):
    """What `ftplib.FTP` does with sockets of its own, done through `proxy`."""

    proxy: Chain
    trust_server_pasv_ipv4_address: bool  # ftplib has it, its type stubs do not
    # False once PASV has had to take the place of EPSV on this control connection.
    _epsv_works = True

    def connect(
        self,
        host: str = "",
        port: int = 0,
        timeout: float | None = -999,
        source_address: tuple[str, int] | None = None,
    ) -> str:
        """Connects to the server, as `ftplib.FTP.connect` does.

        Raises:
            SocksError: As `socksclient.create_connection` does.
        """
        if host:
            self.host = host
        if port > 0:
            self.port = port
        if timeout != -999:  # ftplib's own "not given", for None means something here
            self.timeout = timeout
        if source_address is not None:
            self.source_address = source_address
        sys.audit("ftplib.connect", self, self.host, self.port)
        self._epsv_works = True
        self.sock = self._tunnel(self.host, self.port)
        self.af = self.sock.family
        self.file = self.sock.makefile("r", encoding=self.encoding)
        self.welcome = self.getresp()
        return self.welcome

    def makepasv(self) -> tuple[str, int]:
        """Ask the server where to connect to for data: by EPSV (RFC 2428), or else by PASV.

        EPSV works for IPv4 and IPv6. If the server answers EPSV with anything but a good 229, this
        asks by PASV, and goes on doing so for the rest of the control connection if that succeeds.
        The host returned is the host of the control connection, or with
        `trust_server_pasv_ipv4_address` the one in the server's answer to PASV.

        Returns:
            The (host, port) to ask the proxy for.

        Raises:
            ftplib.Error: The server does not answer PASV with a good 227.
        """
        if not self._epsv_works:
            return self._ask_by_pasv()
        try:
            return self._ask_by_epsv()
        except (ftplib.Error, UnicodeDecodeError):
            # A server may write its refusal in another encoding than the names of files, such as
            # Latin-1. If PASV fails too, its error has the error of EPSV as its context.
            return self._ask_by_pasv()

    def _ask_by_epsv(self) -> tuple[str, int]:
        response = self.sendcmd("EPSV")
        try:
            _, port = ftplib.parse229(response, (self.host, self.port))
        except ValueError as error:
            # parse229 raises this if the port is no number.
            raise ftplib.error_proto(response) from error
        return self.host, _good_port(port, response)

    def _ask_by_pasv(self) -> tuple[str, int]:
        response = self.sendcmd("PASV")
        host, port = ftplib.parse227(response)
        _good_port(port, response)
        # EPSV is given up only now: over IPv6, many servers have no good answer to PASV, and must
        # be asked by EPSV again.
        self._epsv_works = False
        return (host if self.trust_server_pasv_ipv4_address else self.host), port

    def makeport(self) -> Listener:  # type: ignore[override] # of a socket, ftplib needs no more
        """Has the proxy listen for the server, and tells the server where, by PORT or EPRT.

        Raises:
            ReplyError: The proxy does not offer BIND (REP 07), or refuses it.
        """
        # The server that the proxy is to let in is the one that the control connection goes to.
        server = (self.host, self.port)
        with _data_connection():
            listener = bind(server, self.timeout, self.source_address, proxy=self.proxy)
        host, port = listener.address
        try:
            if not is_address(host):
                raise ProtocolError(f"the proxy listens at {host!r}, and FTP needs an IP address")
            if ":" in host:
                self.voidcmd(f"EPRT |2|{host}|{port}|")
            else:
                self.sendport(host, port)
        except BaseException:
            listener.close()
            raise
        return listener

    def ntransfercmd(
        self, cmd: str, rest: int | str | None = None
    ) -> tuple[socket.socket, int | None]:
        """Begin a transfer, as `ftplib.FTP.ntransfercmd` does.

        In passive mode, if the proxy cannot connect to the port that the server answered to EPSV,
        the server is asked by PASV for another one: firewalls between the proxy and the server may
        know PASV only. The timeout holds for each of the two connections.

        Returns:
            The data connection, and how many octets to expect, if the server says that.

        Raises:
            SocksError: The data connection cannot be made. The text begins by saying that the data
                connection failed.
            ftplib.Error: The server refuses the transfer.
        """
        if self.passiveserver:
            conn = self._connect_to_server()
            try:
                response = self._begin(cmd, rest)
            except BaseException:
                conn.close()
                raise
        else:
            with self.makeport() as listener:
                response = self._begin(cmd, rest)
                with _data_connection():
                    conn, _ = listener.accept()
        return conn, ftplib.parse150(response) if response.startswith("150") else None

    def abort(self) -> str:
        """Aborts a transfer; with no out-of-band data, which relays do not pass on as such.

        So a server that does not listen meanwhile, as vsftpd, answers when its transfer has ended:
        close the data connection before.
        """
        self.putcmd("ABOR")
        response = self.getmultiline()
        if response[:3] not in ("225", "226", "426"):
            raise ftplib.error_proto(response)
        return response

    def _connect_to_server(self) -> socket.socket:
        """Return a data connection that the proxy makes to the server (passive mode)."""
        address = self.makepasv()
        told_by_epsv = self.lastresp == "229"
        try:
            with _data_connection():
                return self._tunnel(*address)
        except SocksError as error:
            # PASV can help only if the last proxy was asked for the port, and failed.
            asked = error.phase == "request" and error.hop == len(self.proxy) - 1
            if not (told_by_epsv and asked):
                raise
            try:
                address = self._ask_by_pasv()
            except ftplib.Error as refusal:
                # PASV does not work with IPv6, so the first error tells more.
                notes = getattr(error, "__notes__", ())
                error.__notes__ = [*notes, f"the server did not help by PASV either: {refusal}"]
                raise error from error.__cause__
            with _data_connection():
                return self._tunnel(*address)

    def _tunnel(self, host: str, port: int) -> socket.socket:
        return create_connection((host, port), self.timeout, self.source_address, proxy=self.proxy)

    def _begin(self, cmd: str, rest: int | str | None) -> str:
        """Sends the command of a transfer; returns the response that it begins with."""
        if rest is not None:
            self.sendcmd(f"REST {rest}")
        response = self.sendcmd(cmd)
        if response.startswith("2"):  # ftplib knows servers that say 200 first
            response = self.getresp()
        if not response.startswith("1"):
            raise ftplib.error_reply(response)
        return response


def _good_port(port: int, response: str) -> int:
    """Return the port that the server gave in `response`, if it is a valid one."""
    if not 0 < port <= 0xFFFF:
        raise ftplib.error_proto(response)
    return port


@contextmanager
def _data_connection() -> Iterator[None]:
    """Say in the text of every error that the data connection failed."""
    try:
        yield
    except OSError as error:
        what = "the FTP data connection failed"
        if error.strerror:
            error.strerror = f"{what}: {error.strerror}"
        else:
            error.args = (f"{what}: {error}",)
        raise


class FTP(_Proxied):
    """`ftplib.FTP` through a proxy.

    Args:
        host: The server; it is connected to, and logged in with a `user`, if it is given. A name
            goes to the proxy as it is with ``socks5h``.
        user: Who to log in as.
        passwd: His password.
        acct: His account.
        timeout: Seconds, for each connection through the proxy and each operation on it.
        source_address: The (IP address, port) to connect to the proxy from.
        encoding: Of the names of files and directories.
        proxy: The proxy's URL, or a `Proxy`, or a chain of these.
    """

    def __init__(
        self,
        host: str = "",
        user: str = "",
        passwd: str = "",
        acct: str = "",
        timeout: float | None = DEFAULT_TIMEOUT,
        source_address: tuple[str, int] | None = None,
        *,
        encoding: str = "utf-8",
        proxy: ProxyLike,
    ) -> None:
        self.proxy = as_chain(proxy)
        try:
            super().__init__(host, user, passwd, acct, timeout, source_address, encoding=encoding)
        except BaseException:
            self.close()
            raise


class FTP_TLS(ftplib.FTP_TLS, _Proxied):  # noqa: N801 - as in ftplib
    """`ftplib.FTP_TLS` through a proxy: `FTP` with TLS.

    As in ftplib, data connections are protected after `prot_p` only, and certificates are
    verified by a `context` that does so.

    Args:
        host: As of `FTP`, and so the others.
        user: Who to log in as.
        passwd: His password.
        acct: His account.
        context: The `ssl.SSLContext` for all connections to the server.
        timeout: Seconds.
        source_address: The (IP address, port) to connect to the proxy from.
        encoding: Of the names of files and directories.
        proxy: The proxy's URL, or a `Proxy`, or a chain of these, without TLS.

    Raises:
        ValueError: The proxy cannot be, or speaks TLS.
    """

    _protects_data = False

    def __init__(
        self,
        host: str = "",
        user: str = "",
        passwd: str = "",
        acct: str = "",
        *,
        context: ssl.SSLContext | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        source_address: tuple[str, int] | None = None,
        encoding: str = "utf-8",
        proxy: ProxyLike,
    ) -> None:
        self.proxy = as_chain(proxy)
        # ftplib would take the TLS with the proxy for TLS with the server, and would then send the
        # password to the server in the clear.
        refuse_tls(self.proxy, "FTP_TLS", "a proxy without TLS")
        try:
            super().__init__(
                host,
                user,
                passwd,
                acct,
                context=context,
                timeout=timeout,
                source_address=source_address,
                encoding=encoding,
            )
        except BaseException:
            self.close()
            raise

    def auth(self) -> str:
        """Begin TLS on the control connection, as `ftplib.FTP_TLS.auth` does."""
        # ftplib takes the name for TLS from `host`, where it may end with a dot for the proxy.
        host = self.host
        self.host = server_name(host)
        try:
            return super().auth()
        finally:
            self.host = host

    def prot_p(self) -> str:
        """Protect the data connections with TLS from now on."""
        response = super().prot_p()
        self._protects_data = True
        return response

    def prot_c(self) -> str:
        """Do not protect the data connections with TLS from now on."""
        response = super().prot_c()
        self._protects_data = False
        return response

    def ntransfercmd(
        self, cmd: str, rest: int | str | None = None
    ) -> tuple[socket.socket, int | None]:
        """Begin a transfer, as `FTP.ntransfercmd` does, with TLS after `prot_p`."""
        # The errors of ftplib.FTP_TLS.ntransfercmd would not say which connection failed.
        conn, size = _Proxied.ntransfercmd(self, cmd, rest)
        if self._protects_data:
            with _data_connection():
                tls = start_tls(conn, self.context, server_name(self.host))
            conn = cast("ssl.SSLSocket", tls)
        return conn, size
