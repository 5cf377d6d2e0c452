"""Programs that replace `socket.getaddrinfo`, and processes that can start no thread."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import anyio
import dns.exception
import dns.message
import dns.nameserver
import dns.resolver
import dns.rrset
import pytest
import trio

import socksclient.anyio
from socksclient import (
    Proxy,
    ProxyConnectError,
    ProxyTimeout,
    ResolveError,
    create_connection,
    udp_associate,
)
from socksclient._cli.stdio import Connection, CopyError, copy_both_ways
from socksclient.testing import SocksServer

from helpers.support import Address, Dial, assert_echoes, nothing_left_open, run_every_event_loop

# Seconds of a timeout that must not pass.
LONG = 10.0
PROXY = "proxy.test"
ORIGIN = "origin.test"
TABLE = {PROXY: "127.0.0.1", ORIGIN: "127.0.0.1"}

real = socket.getaddrinfo

Replace = Callable[[Callable[..., Any]], None]


@pytest.fixture
def replace(monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Replace `socket.getaddrinfo` by a function, as programs do."""
    return lambda function: monkeypatch.setattr(socket, "getaddrinfo", function)


@pytest.fixture
def server(echo_server: Address) -> Iterator[SocksServer]:
    with SocksServer(routes={("far.test", 80): echo_server}) as server:
        yield server


def by_name(server: SocksServer) -> str:
    """Return the URL of the proxy, with its name as the host."""
    return f"socks5h://{PROXY}:{server.address[1]}"


def resolving_here(server: SocksServer) -> str:
    """Return the URL with which this process resolves the destination's name."""
    return server.url_as("socks5")


def assert_reached(dial: Dial, server: SocksServer, echo_server: Address) -> None:
    """Check that the proxy's name and the destination's name are resolved in this process."""
    with dial(("far.test", 80), proxy=by_name(server)) as sock:
        assert_echoes(sock)
    with dial((ORIGIN, echo_server[1]), proxy=resolving_here(server)) as sock:
        assert_echoes(sock)
    assert [seen.destination for seen in server.requests] == [("far.test", 80), echo_server]


class TestResolverArguments:
    @pytest.mark.parametrize("timeout", [LONG, None])
    def test_resolver_gets_arguments_of_standard_library(
        self, replace: Replace, server: SocksServer, echo_server: Address, timeout: float | None
    ) -> None:
        asked: list[tuple[object, ...]] = []

        def four(host: str, port: int, family: int, kind: int) -> object:
            asked.append((host, port, family, kind))
            return real(TABLE[host], port, family, kind)

        replace(four)
        _, port = server.address
        with socket.create_connection((PROXY, port), timeout):
            pass

        def dial(address: Address, *, proxy: socksclient.ProxyLike, timeout: float = 0) -> Any:
            return create_connection(address, limit, proxy=proxy)

        limit = timeout
        assert_reached(dial, server, echo_server)
        as_asked = (PROXY, port, 0, socket.SOCK_STREAM)
        assert asked == [as_asked, as_asked, (ORIGIN, echo_server[1], 0, socket.SOCK_STREAM)]

    def test_resolver_gets_str(
        self, replace: Replace, dial: Dial, server: SocksServer, echo_server: Address
    ) -> None:
        def table(host: str, port: int, *args: int, **options: int) -> object:
            return real(TABLE[host], port, *args, **options)

        replace(table)
        assert_reached(dial, server, echo_server)

    @pytest.mark.parametrize("host", ["l" * 64 + ".test", "two..dots.test"])
    def test_resolver_gets_octets_of_name_that_python_cannot_encode(
        self, replace: Replace, dial: Dial, server: SocksServer, host: str
    ) -> None:
        with pytest.raises(UnicodeError):
            real(host, 80)

        def table(name: bytes, port: int, *args: int, **options: int) -> object:
            assert name == host.encode()
            return real("127.0.0.1", port, *args, **options)

        replace(table)
        proxy = Proxy(host, server.address[1])
        with dial(("far.test", 80), proxy=proxy) as sock:
            assert_echoes(sock)

    def test_resolver_gets_xn_form_of_name(
        self, replace: Replace, dial: Dial, server: SocksServer
    ) -> None:
        def table(name: str, port: int, *args: int, **options: int) -> object:
            assert name == "foo_bar.xn--bcher-kva.test"
            return real("127.0.0.1", port, *args, **options)

        replace(table)
        with dial(("far.test", 80), proxy=Proxy("foo_bar.bücher.test", server.address[1])) as sock:
            assert_echoes(sock)

    def test_resolver_asked_by_udp(
        self, replace: Replace, server: SocksServer, udp_echo: Address
    ) -> None:
        replace(lambda host, port, family, kind: real(TABLE[host], port, family, kind))
        with udp_associate(LONG, proxy=resolving_here(server)) as udp:
            udp.sendto(b"token", (ORIGIN, udp_echo[1]))
            assert udp.recvfrom() == (b"token", udp_echo)

    def test_resolver_of_dnspython(
        self, dial: Dial, server: SocksServer, echo_server: Address
    ) -> None:
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = [Known()]  # type: ignore[no-untyped-call]
        dns.resolver.override_system_resolver(resolver)
        try:
            assert_reached(dial, server, echo_server)
        finally:
            dns.resolver.restore_system_resolver()


class Known(dns.nameserver.Nameserver):
    """A name server that answers from the table, without a socket."""

    def __str__(self) -> str:
        return "the table"

    def kind(self) -> str:
        return "table"

    def is_always_max_size(self) -> bool:
        return True

    def answer_nameserver(self) -> str:
        return "the table"

    def answer_port(self) -> int:
        return 53

    def query(self, request: dns.message.QueryMessage, *_args: Any, **_options: Any) -> Any:
        answer = dns.message.make_response(request)
        [question] = request.question
        address = TABLE[str(question.name).rstrip(".")]
        if question.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", address))
        return dns.message.from_wire(answer.to_wire())


@pytest.mark.anyio
async def test_resolver_of_event_loop(
    anyio_backend: tuple[str, dict[str, Any]], server: SocksServer
) -> None:
    """A program may replace the resolver of its event loop. The driver asks that resolver."""
    asked: list[object] = []

    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host: Any, port: Any, *args: Any, **_options: Any) -> Any:
            asked.append(host.decode() if isinstance(host, bytes) else host)
            return real("127.0.0.1", port, 0, socket.SOCK_STREAM)

        async def getnameinfo(self, _sockaddr: Any, _flags: int) -> NoReturn:
            raise NotImplementedError

    if anyio_backend[0] == "trio":
        trio.socket.set_custom_hostname_resolver(Resolver())
    else:
        loop = anyio.lowlevel.current_token().native_token
        loop.getaddrinfo = Resolver().getaddrinfo  # type: ignore[attr-defined]
    sock = await socksclient.anyio.connect_socket("far.test", 80, proxy=by_name(server))
    sock.close()
    assert asked == [PROXY]


def raises(error: BaseException) -> Callable[..., NoReturn]:
    def getaddrinfo(*_args: object, **_options: object) -> NoReturn:
        raise error

    return getaddrinfo


def returns(found: object) -> Callable[..., object]:
    return lambda *_args, **_options: found


class TestResolverFailures:
    @pytest.mark.parametrize(
        "error",
        [
            KeyError(PROXY),
            TypeError("getaddrinfo() takes 2 positional arguments"),
            UnicodeError("label too long"),
            RuntimeError("no network in tests"),
            dns.exception.Timeout(),  # type: ignore[no-untyped-call]
            AssertionError(),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_resolver_raises_foreign_exception(
        self, replace: Replace, dial: Dial, server: SocksServer, error: Exception
    ) -> None:
        replace(raises(error))
        with pytest.raises(
            ProxyConnectError, match="cannot resolve the proxy's name: "
        ) as for_proxy:
            dial(("far.test", 80), proxy=by_name(server))
        with pytest.raises(ResolveError, match=r"cannot resolve origin\.test: ") as for_origin:
            dial((ORIGIN, 80), proxy=resolving_here(server))
        for caught in (for_proxy, for_origin):
            told = caught.value
            assert f"the resolver failed with {type(error).__name__}: {error}" in str(told)
            assert told.phase == "resolve"
            assert told.errno == socket.EAI_FAIL
            assert isinstance(told.__cause__, socket.gaierror)
            assert told.__cause__.__cause__ is error
        assert server.connections == []

    @pytest.mark.parametrize("timeout", [LONG, None])
    def test_resolver_raises_base_exception(
        self, replace: Replace, server: SocksServer, timeout: float | None
    ) -> None:
        """Some exceptions of pytest and gevent are of this kind."""

        class Stop(BaseException):
            pass

        replace(raises(Stop()))
        with pytest.raises(Stop):
            create_connection(("far.test", 80), timeout, proxy=by_name(server))

    def test_resolver_raises_os_error(
        self, replace: Replace, dial: Dial, server: SocksServer
    ) -> None:
        replace(raises(OSError(errno.EMFILE, "Too many open files")))
        with pytest.raises(ProxyConnectError, match="the proxy's name: Too many open") as for_proxy:
            dial(("far.test", 80), proxy=by_name(server))
        with pytest.raises(ResolveError, match=r"origin\.test: Too many open") as for_origin:
            dial((ORIGIN, 80), proxy=resolving_here(server))
        assert for_proxy.value.errno == for_origin.value.errno == errno.EMFILE

    def test_resolver_raises_error_without_number(
        self, replace: Replace, dial: Dial, server: SocksServer
    ) -> None:
        replace(raises(OSError("the cable is unplugged")))
        with pytest.raises(ResolveError, match=r"cannot resolve origin\.test: the cable") as caught:
            dial((ORIGIN, 80), proxy=resolving_here(server))
        assert caught.value.errno is None

    def test_resolver_raises_timeout_of_its_own(
        self, replace: Replace, dial: Dial, server: SocksServer
    ) -> None:
        replace(raises(TimeoutError("no name server answers")))
        for address, proxy in [
            (("far.test", 80), by_name(server)),
            ((ORIGIN, 80), resolving_here(server)),
        ]:
            with pytest.raises(ProxyTimeout) as caught:
                dial(address, proxy=proxy)
            assert caught.value.phase == "resolve"


class TestResolverAnswers:
    @pytest.mark.parametrize(
        ("found", "text"),
        [
            ([], "the resolver found no address"),
            ((), "the resolver found no address"),
            ([(socket.AF_INET6, 1, 6, "", (10, b"\0" * 26))], "the resolver found no address"),
            ([(socket.AF_UNIX, 1, 0, "", "/run/proxy")], "the resolver found no address"),
            (None, "the resolver failed with TypeError"),
            ([("127.0.0.1", 80)], "the resolver failed with ValueError"),
            ([(socket.AF_INET, 1, 6, "", ())], "the resolver failed with IndexError"),
            ([(socket.AF_INET, 1, 6, "", ("127.0.0.1",))], "the resolver failed with TypeError"),
            ([(socket.AF_INET, 1, 6, "", ("127.0.0.1", "x"))], "the resolver failed with Value"),
            ([(socket.AF_INET, 1, 6, "", ("other.test", 80))], "'other.test', which is not an IP"),
            ([(socket.AF_INET, 1, 6, "", ("127.0.0.1", 65536))], "port 65536 is not in the range"),
            ([(socket.AF_INET6, 1, 6, "", ("::1", 80, 0, 0, 0))], "failed with TypeError"),
            ([(socket.AF_INET6, 1, 6, "", ("::1", 80, 0, None))], "failed with TypeError"),
        ],
    )
    def test_resolver_returns_nothing_of_use(
        self, replace: Replace, dial: Dial, server: SocksServer, found: object, text: str
    ) -> None:
        replace(returns(found))
        with pytest.raises(ProxyConnectError, match=text):
            dial(("far.test", 80), proxy=by_name(server))
        with pytest.raises(ResolveError, match=text):
            dial((ORIGIN, 80), proxy=resolving_here(server))
        assert server.connections == []

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    @pytest.mark.parametrize("kind", [int, str])
    def test_resolver_returns_answer_of_other_form(
        self, replace: Replace, dial: Dial, echo_server: Address, host: str, kind: type
    ) -> None:
        """The port may be text, and an IPv6 address may have only two parts."""
        routes = {("far.test", 80): echo_server, (host, 4711): echo_server}
        with SocksServer(host=host, routes=routes) as server:
            family = socket.AF_INET6 if host == "::1" else socket.AF_INET
            answer = (int(family), 1, 6, None, [host, kind(server.address[1])])
            replace(returns((answer,)))
            with dial(("far.test", 80), proxy=by_name(server)) as sock:
                assert_echoes(sock)
            replace(returns(iter([answer])))
            with dial((ORIGIN, 4711), proxy=resolving_here(server)) as sock:
                assert_echoes(sock)
            assert server.requests[-1].destination == (host, 4711)


class TestNoThread:
    """Each Python raises a different RuntimeError if no more threads can be started."""

    @pytest.fixture
    def no_thread(self, server: SocksServer, monkeypatch: pytest.MonkeyPatch) -> None:
        # `nothing_left_open` does this in a thread, unless it has been done before.
        run_every_event_loop()
        monkeypatch.setattr(
            threading.Thread, "start", raises(RuntimeError("can't start new thread"))
        )

    # uvloop's own resolver has threads of its own.
    @pytest.mark.usefixtures("no_thread")
    @pytest.mark.parametrize("dial", ["blocking", "asyncio", "trio"], indirect=True)
    def test_no_thread_resolves_name_in_caller(
        self, replace: Replace, dial: Dial, server: SocksServer, echo_server: Address
    ) -> None:
        replace(lambda host, *args, **options: real(TABLE[host], *args, **options))
        assert_reached(dial, server, echo_server)

    @pytest.mark.usefixtures("no_thread")
    @pytest.mark.parametrize("dial", ["blocking", "asyncio", "trio"], indirect=True)
    def test_no_thread_keeps_error_of_resolver(
        self, replace: Replace, dial: Dial, server: SocksServer
    ) -> None:
        replace(raises(socket.gaierror(socket.EAI_NONAME, "Name or service not known")))
        with pytest.raises(ProxyConnectError, match="Name or service not known"):
            dial(("far.test", 80), proxy=by_name(server))
        with pytest.raises(ResolveError, match="Name or service not known"):
            dial((ORIGIN, 80), proxy=resolving_here(server))

    def test_copy_both_ways_raises_copy_error(self, no_thread: None) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(CopyError, match="cannot start the thread that reads"):
            copy_both_ways(Connection(ours), None, 1)

    @pytest.mark.parametrize("at", ["a port", "a path"])
    def test_socks_server_raises_os_error_and_leaves_nothing_open(
        self, no_thread: None, at: str, tmp_path: Any
    ) -> None:
        path = tmp_path / "proxy"
        with nothing_left_open():
            server = SocksServer(path=str(path) if at == "a path" else None)
            with pytest.raises(OSError, match="cannot start the server's thread") as held:
                server.__enter__()
            assert held.value.errno == errno.EAGAIN
        assert not path.exists()


# Each of the following tests runs in a process of its own. The limit is simulated only where the
# Python does not have it.

PRELUDE = """
import socket, sys, threading
import anyio, anyio.to_thread, trio
import socksclient, socksclient.anyio
port = int(sys.argv[1])
proxy = f"socks5h://localhost:{port}"
destination = ("far.test", 80)
def blocking():
    socksclient.create_connection(destination, 10, proxy=proxy).close()
def awaited(backend):
    async def main():
        (await socksclient.anyio.connect_socket(*destination, proxy=proxy)).close()
    anyio.run(main, backend=backend)
def all_drivers():
    blocking()
    awaited("asyncio")
    awaited("trio")
def pretend(name, text):
    def refuse(*_args, **_options):
        raise RuntimeError(text)
    setattr(threading.Thread, name, refuse)
"""

LIMIT = """
import os, resource
all_drivers()  # so that all is imported
if os.geteuid() == 0:  # whom the limit does not bind
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
try:
    threading.Thread(target=int).start()
except RuntimeError:
    pass
else:
    sys.exit("the limit does not hold")
all_drivers()
"""

AT_EXIT = """
import atexit
@atexit.register
def bye():
    if sys.version_info[:2] == (3, 12):
        try:
            threading.Thread(target=int).start()
        except RuntimeError:
            pass
        else:
            print("a thread was started")
    else:
        pretend("start", "can't create new thread at interpreter shutdown")
    all_drivers()
    print("done")
"""

ISOLATED = """
code = f"import sys; sys.path[:] = {sys.path!r}; sys.argv[1:] = ['{port}']\\n" + PRELUDE + '''
if pretended:
    class Thread(threading.Thread):
        def __init__(self, *args, daemon=None, **options):
            if daemon:
                raise RuntimeError("daemon threads are disabled in this (sub)interpreter")
            super().__init__(*args, **options)
    threading.Thread = Thread
try:
    threading.Thread(target=int, daemon=True)
except RuntimeError:
    blocking()
    print("done", flush=True)
'''
if sys.version_info >= (3, 13):
    import _interpreters
    failed = _interpreters.exec(_interpreters.create(), "pretended = False\\n" + code)
    if failed:
        sys.exit(failed.formatted)
    import os
    os._exit(0)  # without waiting for the subinterpreter
exec("pretended = True\\n" + code)
"""


def run(code: str, server: SocksServer) -> str:
    _, port = server.address
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(port)],
        capture_output=True,
        text=True,
        timeout=60,
        # The process changes its user, who could not write the files of coverage.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def test_no_thread_at_limit_of_process(server: SocksServer) -> None:
    run(PRELUDE + LIMIT, server)
    assert len(server.requests) == 6


def test_no_thread_in_atexit_handler(server: SocksServer) -> None:
    """There, CPython 3.12 starts no thread, and in every Python asyncio's own threads are gone."""
    assert run(PRELUDE + AT_EXIT, server) == "done\n"
    assert len(server.requests) == 3


def test_no_thread_in_isolated_subinterpreter(server: SocksServer) -> None:
    """An isolated subinterpreter starts no daemon thread. CPython has them since 3.13."""
    code = PRELUDE + f"PRELUDE = {PRELUDE.replace('import anyio', 'pass #')!r}\n" + ISOLATED
    assert run(code, server) == "done\n"
    assert len(server.requests) == 1
