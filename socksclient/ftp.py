"""FTP with `ftplib` through a SOCKS proxy, in passive and in active mode.

The proxy makes the control connection, and in passive mode also the data connections (CONNECT). In
active mode (``set_pasv(False)``), the server connects to a port at which the proxy listens (BIND).
Few proxies offer BIND; Dante does.
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
from socksclient._net.tls import server_name
from socksclient._sync.connect import create_connection
from socksclient._sync.listener import Listener, bind
from socksclient._sync.timeouts import DEFAULT_TIMEOUT
from socksclient._sync.tls import start_tls
from socksclient.protocol.address import HostPort, is_address
from socksclient.protocol.exceptions import ProtocolError, SocksError
from socksclient.protocol.proxy import Chain, ProxyLike, as_chain

__all__ = ["FTP", "FTP_TLS"]


class _Proxied(ftplib.FTP):
    """The connections of `ftplib.FTP`, made through a proxy.

    Attributes:
        proxy: The chain: a tuple of `Proxy`.
        trust_server_pasv_ipv4_address: Whether data connections go to the host in the server's
            answer to PASV, as in ftplib.
    """

    proxy: Chain
    # The type stubs of ftplib lack this attribute.
    trust_server_pasv_ipv4_address: bool
    # False once PASV has had to take the place of EPSV on this control connection.
    _epsv_works = True

    def connect(
        self,
        host: str = "",
        port: int = 0,
        timeout: float | None = -999,
        source_address: HostPort | None = None,
    ) -> str:
        """Connect to the server, as `ftplib.FTP.connect` does.

        Args:
            host: The server; without it, the one given before.
            port: The port of the server; with 0, the one given before, or 21.
            timeout: Seconds for the connection through the proxy, and for each operation on a
                connection. None waits without end; -999 stands for the timeout given before.
            source_address: The (IP address, port) of this machine to connect to the proxy from.

        Returns:
            The greeting of the server.

        Raises:
            ValueError: An argument is not valid. Nothing has been sent.
            SocksError: The proxy cannot be reached, refuses the request, or breaks the protocol.
            ftplib.Error: The server does not greet.
        """
        if host:
            self.host = host
        if port > 0:
            self.port = port
        # -999 is ftplib's own value for a timeout that has not been given.
        if timeout != -999:
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

    def makepasv(self) -> HostPort:
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

    def _ask_by_epsv(self) -> HostPort:
        response = self.sendcmd("EPSV")
        try:
            _, port = ftplib.parse229(response, (self.host, self.port))
        except ValueError as error:
            # parse229 raises this if the port is no number.
            raise ftplib.error_proto(response) from error
        return self.host, _good_port(port, response)

    def _ask_by_pasv(self) -> HostPort:
        response = self.sendcmd("PASV")
        host, port = ftplib.parse227(response)
        _good_port(port, response)
        # EPSV is given up only now: over IPv6, many servers have no good answer to PASV, and must
        # be asked by EPSV again.
        self._epsv_works = False
        return (host if self.trust_server_pasv_ipv4_address else self.host), port

    # ftplib returns a socket here, and uses only methods that a `Listener` has too.
    def makeport(self) -> Listener:  # type: ignore[override]
        """Ask the proxy to listen for the server, and tell the server where, by PORT or EPRT.

        Returns:
            The listener, whose `accept` returns the data connection.

        Raises:
            ReplyError: The proxy does not offer BIND (REP 07), or refuses it.
            ProtocolError: The proxy listens at an address that FTP cannot tell to the server.
            SocksError: The proxy cannot be reached, or breaks the protocol.
            ftplib.Error: The server refuses to connect to that address.
        """
        # The proxy is to let in only the host that the control connection goes to.
        server = (self.host, self.port)
        with _data_connection():
            listener = bind(server, self.timeout, self.source_address, proxy=self.proxy)
        host, port = listener.address
        try:
            if not is_address(host):
                raise ProtocolError(
                    f"the proxy listens at the name {host!r}, but FTP tells a server an IP address;"
                    " use passive mode: set_pasv(True)"
                )
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
        """Abort a transfer, and return the response of the server.

        ftplib sends the command as out-of-band data, which proxies do not pass on as such. So this
        sends the command in the ordinary way. A server that does not read commands during a
        transfer, such as vsftpd, answers only when the transfer has ended; so close the data
        connection first.

        Raises:
            ftplib.error_proto: The server answers with another code than 225, 226 or 426.
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
        """Send the command of a transfer, and return the first response to it that counts."""
        if rest is not None:
            self.sendcmd(f"REST {rest}")
        response = self.sendcmd(cmd)
        # Some servers say 200 before the response that counts, as the source of ftplib says.
        if response.startswith("2"):
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
    """An `ftplib.FTP` whose connections go through a SOCKS proxy.

    If `host` is given, the constructor connects to the server. If `user` is given as well, it logs
    in. With ``socks5h``, the proxy resolves the name of the server.

    Args:
        host: The name or the IP address of the server.
        user: The user name for the server.
        passwd: The password for the server.
        acct: The account for the server.
        timeout: Seconds for each connection through the proxy, and for each operation on a
            connection. None waits without end. Without it, the default of
            `socket.setdefaulttimeout` holds.
        source_address: The (IP address, port) of this machine to connect to the proxy from.
        encoding: The encoding of the names of files and directories.
        proxy: The URL of the proxy, or a `Proxy`, or a sequence of these: a chain, the nearest hop
            first.

    Raises:
        ValueError: An argument is not valid.
        SocksError: The proxy cannot be reached, refuses the request, or breaks the protocol.
        ftplib.Error: The server refuses the connection or the login.
    """

    def __init__(
        self,
        host: str = "",
        user: str = "",
        passwd: str = "",
        acct: str = "",
        timeout: float | None = DEFAULT_TIMEOUT,
        source_address: HostPort | None = None,
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
    """An `ftplib.FTP_TLS` whose connections go through a SOCKS proxy: `FTP` with TLS.

    As in ftplib, data connections have TLS only after `prot_p`, and the certificate of the server
    is verified only by a `context` that does so (`ssl.create_default_context`).

    Args:
        host: The name or the IP address of the server.
        user: The user name for the server.
        passwd: The password for the server.
        acct: The account for the server.
        context: The `ssl.SSLContext` for all connections to the server.
        timeout: Seconds for each connection through the proxy, and for each operation on a
            connection. None waits without end. Without it, the default of
            `socket.setdefaulttimeout` holds.
        source_address: The (IP address, port) of this machine to connect to the proxy from.
        encoding: The encoding of the names of files and directories.
        proxy: The URL of the proxy, or a `Proxy`, or a sequence of these: a chain, the nearest hop
            first.

    Raises:
        ValueError: An argument is not valid, or a hop speaks TLS.
        SocksError: The proxy cannot be reached, refuses the request, or breaks the protocol.
        ftplib.Error: The server refuses the connection, TLS or the login.
        OSError: TLS with the server failed.
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
        source_address: HostPort | None = None,
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
        # ftplib takes the name for TLS from `host`. There it may end with a dot, which is for the
        # proxy, and which TLS does not have.
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
