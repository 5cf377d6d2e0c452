"""What the README says about gevent and eventlet; each test patches a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from socksclient.testing import Faults, SocksServer

from helpers.support import Address

PROLOGUES = {
    "gevent": """
from gevent import monkey
monkey.patch_all()
import gevent
spawn, sleep = gevent.spawn, gevent.sleep
""",
    "eventlet": """
import warnings
warnings.simplefilter("ignore")  # it says that it is deprecated
import eventlet
eventlet.monkey_patch()
spawn, sleep = eventlet.spawn, eventlet.sleep
""",
}

COMMON = """
import errno, os, select, socket, sys
import socksclient

URL, ECHO, TCP_ECHO = sys.argv[1], ("127.0.0.1", int(sys.argv[2])), ("127.0.0.1", int(sys.argv[3]))
assert not hasattr(select, "epoll")  # or else an association would hold up all green threads

def others_run():
    for _ in range(5):
        sleep(0)

def join(results, count):
    while len(results) < count:
        sleep(0.001)

def receive(udp, results, times=1):
    try:
        for _ in range(times):
            results.append(udp.recvfrom(100))
    except OSError as error:
        results.append(error)
"""

Run = Callable[[str], None]


@pytest.fixture(params=PROLOGUES)
def green(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[Faults()], ids=[""])
def server(request: pytest.FixtureRequest) -> Iterator[SocksServer]:
    with SocksServer(faults=request.param) as server:
        yield server


@pytest.fixture
def run(green: str, server: SocksServer, udp_echo: Address, echo_server: Address) -> Run:
    """Run a program with gevent or eventlet, through a server in this process."""

    def run(program: str) -> None:
        environment = {key: value for key, value in os.environ.items() if "COVERAGE" not in key}
        code = PROLOGUES[green] + COMMON + program
        arguments = [server.url, str(udp_echo[1]), str(echo_server[1])]
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            # eventlet would patch dnspython, and with it httpx2 and trio, and would fail there.
            env={**environment, "EVENTLET_NO_GREENDNS": "yes"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")

    return run


def test_one_closes_while_another_receives(run: Run) -> None:
    run("""
counts = []
for _ in range(3):
    udp, results = socksclient.udp_associate(None, proxy=URL), []
    spawn(receive, udp, results)
    others_run()
    assert results == []
    udp.close()
    assert udp.fileno() == -1
    join(results, 1)
    assert [error.errno for error in results] == [errno.EBADF], results
    counts.append(len(os.listdir("/proc/self/fd")))
    receive(udp, results)
    assert results[1].errno == errno.EBADF, results
assert counts == counts[:1] * 3, counts
""")


@pytest.mark.parametrize("green", ["gevent"], indirect=True)
def test_one_closes_while_several_receive(run: Run) -> None:
    run("""
udp, results = socksclient.udp_associate(None, proxy=URL), []
for _ in range(4):
    spawn(receive, udp, results)
others_run()
udp.close()
join(results, 4)
assert [error.errno for error in results] == [errno.EBADF] * 4, results
""")


def test_one_receives_while_another_sends(run: Run) -> None:
    run("""
with socksclient.udp_associate(20, proxy=URL) as udp:
    results = []
    spawn(receive, udp, results, 100)
    for number in range(100):
        others_run()
        udp.sendto(b"%d" % number, ECHO)
    join(results, 100)
    assert results == [(b"%d" % number, ECHO) for number in range(100)], results
""")


@pytest.mark.parametrize("server", [Faults(end_after=1, garbage=[b"garbage"])], indirect=True)
def test_the_end_of_the_association_wakes_who_receives(run: Run, server: SocksServer) -> None:
    run("""
with socksclient.udp_associate(None, proxy=URL) as udp:
    results = []
    spawn(receive, udp, results, 2)
    others_run()
    udp.sendto(b"last", ECHO)
    while not results or isinstance(results[-1], tuple):
        sleep(0.001)
    assert isinstance(results[-1], socksclient.AssociationClosed), results
    receive(udp, results)
    assert isinstance(results[-1], socksclient.AssociationClosed), results
""")


def test_others_run_while_one_waits_for_its_timeout(run: Run) -> None:
    run("""
with socksclient.udp_associate(0.2, proxy=URL) as udp:
    results, turns = [], 0
    spawn(receive, udp, results)
    while not results:
        sleep(0.001)
        turns += 1
    assert type(results[0]) is TimeoutError, results
    assert turns > 1
""")


def test_a_connection(run: Run) -> None:
    run("""
with socksclient.create_connection(TCP_ECHO, 20, proxy=URL) as sock:
    sock.sendall(b"there and back")
    assert sock.recv(100) == b"there and back"
""")


@pytest.mark.parametrize("green", ["gevent"], indirect=True)
def test_a_socks_socket_with_gevent(run: Run, server: SocksServer) -> None:
    run("""
with socksclient.SocksSocket(URL) as sock:
    sock.settimeout(20)
    sock.connect(TCP_ECHO)
    sock.sendall(b"there and back")
    assert sock.recv(100) == b"there and back"
with socksclient.SocksSocket(URL) as sock:
    sock.bind(("", 0))
    sock.listen()
    assert sock.getsockname()[1] != 0
""")
    assert len(server.requests) == 2


@pytest.mark.parametrize("green", ["eventlet"], indirect=True)
def test_a_socks_socket_with_eventlet_says_that_it_cannot_be(run: Run, server: SocksServer) -> None:
    run("""
try:
    socksclient.SocksSocket(URL)
except NotImplementedError as error:
    assert "eventlet's sockets; socksclient.create_connection works with them" in str(error)
else:
    raise AssertionError("made")
""")
    assert server.connections == []
