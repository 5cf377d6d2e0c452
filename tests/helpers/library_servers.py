"""Servers for the clients of other libraries: IMAP, SMTP, Redis, SSH and WebSocket.

Two proxies are libraries too: asyncssh for SOCKS, and tiny-proxy for HTTP. All servers are context
managers like those of `real_servers`, and promise the same.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import ssl
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio
import asyncssh
import tiny_proxy  # type: ignore[import-untyped]
import trustme
import websockets.asyncio.server
from anyio.abc import SocketAttribute
from anyio.from_thread import start_blocking_portal

from helpers import real_servers
from helpers.real_servers.process import Address, path_of, running

PASSWORD = "password"
"""The password of every user of IMAP."""

# Without root, all processes of Dovecot run as one user, and without a chroot. By default there are
# two listeners, and the test has reserved only one port.
_DOVECOT_CONFIG = """\
base_dir = {home}/run
state_dir = {home}/state
log_path = /dev/stderr
listen = {host}
protocols = imap
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {mail_user}
ssl = yes
ssl_cert = <{home}/certificate.pem
ssl_key = <{home}/certificate.pem
mail_location = maildir:{home}/mail
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={mail_user} gid={mail_group} home={home}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {port}
  }}
}}
service anvil {{
  chroot =
}}
"""

_REDIS_CONFIG = """\
bind {host}
port {port}
tls-port {tls_port}
tls-cert-file certificate.pem
tls-key-file certificate.pem
tls-ca-cert-file certificate.pem
tls-auth-clients no
save ""
"""


def missing() -> list[str]:
    """Return which of the programs of these servers this machine does not have."""
    return real_servers.missing(["dovecot", "redis-server"])


@contextmanager
def dovecot(certificate: trustme.LeafCert, host: str = "127.0.0.1") -> Iterator[Address]:
    """Run Dovecot, with IMAP over TLS.

    Dovecot never serves mail as root. As the user nobody, it cannot read the directories of pytest,
    so its files are elsewhere.
    """
    me = pwd.getpwuid(os.geteuid())
    mail_user = me if me.pw_uid else pwd.getpwnam("nobody")

    def prepare(home: Path, port: int) -> list[str]:
        os.chown(home, mail_user.pw_uid, mail_user.pw_gid)
        home.chmod(0o755)
        _write_certificate(certificate, home)
        config = _DOVECOT_CONFIG.format(
            home=home,
            host=host,
            user=me.pw_name,
            group=grp.getgrgid(me.pw_gid).gr_name,
            mail_user=mail_user.pw_name,
            mail_group=mail_user.pw_gid,
            password=PASSWORD,
            port=port,
        )
        (home / "dovecot.conf").write_text(config)
        return [path_of("dovecot"), "-F", "-c", "dovecot.conf"]

    with tempfile.TemporaryDirectory(prefix="dovecot-") as directory:
        os.chmod(directory, 0o755)
        with running(Path(directory), "dovecot", host, prepare) as address:
            yield address


@contextmanager
def aiosmtpd(
    maildir: Path, certificate: trustme.LeafCert, host: str = "127.0.0.1", *, tls: bool
) -> Iterator[Address]:
    """Run aiosmtpd, which stores mail in `maildir`. Without `tls`, it insists on STARTTLS."""

    def prepare(home: Path, port: int) -> list[str]:
        _write_certificate(certificate, home)
        way = "smtps" if tls else "tls"
        command = [sys.executable, "-m", "aiosmtpd", "--nosetuid", "-l", f"{host}:{port}"]
        command += [f"--{way}cert=certificate.pem", f"--{way}key=certificate.pem"]
        return [*command, "-c", "aiosmtpd.handlers.Mailbox", str(maildir)]

    with running(maildir.parent, "aiosmtpd", host, prepare) as address:
        yield address


@contextmanager
def redis_server(
    directory: Path, certificate: trustme.LeafCert, host: str = "127.0.0.1", *, tls: bool
) -> Iterator[Address]:
    """Run Redis, with TLS or without."""

    def prepare(home: Path, port: int) -> list[str]:
        _write_certificate(certificate, home)
        ports = {"port": 0, "tls_port": port} if tls else {"port": port, "tls_port": 0}
        (home / "redis.conf").write_text(_REDIS_CONFIG.format(host=host, **ports))
        return [path_of("redis-server"), "redis.conf"]

    with running(directory, "redis", host, prepare) as address:
        yield address


@contextmanager
def ssh_server(host_key: asyncssh.SSHKey, user_key: asyncssh.SSHKey) -> Iterator[Address]:
    """Run the SSH server of asyncssh, which answers every command with "done"."""

    def run(process: asyncssh.SSHServerProcess[str]) -> None:
        process.stdout.write("done\n")
        process.exit(0)

    async def listen() -> _Listener:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(
                user_key.export_public_key().decode()
            ),
            process_factory=run,
        )

    with _serving(listen) as address:
        yield address


class _ForwardsAll(asyncssh.SSHServer):
    """A server without authentication, which connects to every destination of a request."""

    def begin_auth(self, username: str) -> bool:
        return False

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        return True


@contextmanager
def ssh_gateway(host_key: asyncssh.SSHKey) -> Iterator[Address]:
    """Run an SSH server that forwards connections, to users with any key or none."""

    async def listen() -> _Listener:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[host_key], server_factory=_ForwardsAll
        )

    with _serving(listen) as address:
        yield address


@contextmanager
def asyncssh_socks() -> Iterator[str]:
    """Run asyncssh's counterpart of `ssh -D`, and yield the URL of that proxy."""

    @asynccontextmanager
    async def serve() -> AsyncIterator[int]:
        host_key = asyncssh.generate_private_key("ssh-ed25519")
        async with await asyncssh.listen(
            "127.0.0.1", 0, server_factory=_ForwardsAll, server_host_keys=[host_key]
        ) as server:
            address = server.sockets[0].getsockname()
            async with await asyncssh.connect(
                *address, known_hosts=None, client_keys=None, config=None
            ) as client:
                async with await client.forward_socks("127.0.0.1", 0) as listener:
                    yield listener.get_port()

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serve()) as port:
        yield f"socks5h://127.0.0.1:{port}"


@contextmanager
def tiny_proxy_http(account: tuple[str, str]) -> Iterator[str]:
    """Run tiny-proxy for HTTP. It accepts only `account`, which is in the URL."""

    @asynccontextmanager
    async def serve() -> AsyncIterator[int]:
        handler = tiny_proxy.HttpProxyHandler(*account)
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, handler.handle)
            yield listener.extra(SocketAttribute.local_port)
            tasks.cancel_scope.cancel()

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serve()) as port:
        yield "http://{}:{}@127.0.0.1:{}".format(*account, port)


@contextmanager
def websocket_server(certificate: trustme.LeafCert) -> Iterator[Address]:
    """Run the server of websockets, over TLS, which sends every message back."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    async def echo(connection: websockets.asyncio.server.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def listen() -> _Listener:
        return await websockets.asyncio.server.serve(echo, "127.0.0.1", 0, ssl=context)

    with _serving(listen) as address:
        yield address


class _Listener(Protocol):
    @property
    def sockets(self) -> Any: ...
    def close(self) -> None: ...
    async def wait_closed(self) -> None: ...


@contextmanager
def _serving(listen: Callable[[], Coroutine[Any, Any, _Listener]]) -> Iterator[Address]:
    """Serve what `listen` returns in a thread of its own, and yield its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(listen(), loop).result()
        host, port = server.sockets[0].getsockname()
        yield host, port

        async def stop() -> None:
            server.close()
            await server.wait_closed()

        asyncio.run_coroutine_threadsafe(stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _write_certificate(certificate: trustme.LeafCert, home: Path) -> None:
    certificate.private_key_and_cert_chain_pem.write_to_path(home / "certificate.pem")
