"""`socksclient.requests` through Dante."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from requests.exceptions import ProxyError

from socksclient import AuthenticationError, Reply, ReplyError
from socksclient.requests import Session

from helpers import real_servers
from helpers.http_clients import ACCOUNTS
from helpers.origin import Origin, content, digest, digest_of
from helpers.requests_clients import SIZE, client_of
from helpers.support import REFUSED_PORT, needs, resolved_names

pytest_plugins = ["helpers.http_fixtures", "helpers.requests_fixtures"]
pytestmark = pytest.mark.usefixtures("requests_environment")

needs_dante = needs(real_servers.missing(["danted"]))


@pytest.fixture(scope="module")
def dante(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_servers.dante(tmp_path_factory.mktemp("dante"), accounts=ACCOUNTS) as url:
        yield url


@needs_dante
class TestDante:
    @pytest.fixture(params=["http", "https"])
    def url(self, request: pytest.FixtureRequest, origin: Origin) -> str:
        port = origin.http_port if request.param == "http" else origin.https_port
        return f"{request.param}://localhost:{port}/"

    def test_session_through_dante(self, dante: str, url: str) -> None:
        with resolved_names() as names, Session(dante) as session:
            first = session.get(url, timeout=10)
            assert first.json()["scheme"] == url.partition(":")[0]
            assert client_of(session.get(url, timeout=10)) == client_of(first)
            response = session.get(f"{url}download?octets={SIZE}", stream=True, timeout=10)
            assert digest_of(response.iter_content(65536)) == digest(SIZE)
            response = session.post(f"{url}upload", data=content(SIZE), timeout=10)
            assert response.json() == {"sha256": digest(SIZE), "octets": SIZE}
        assert names == []

    def test_session_through_dante_with_socks5(self, dante: str, url: str) -> None:
        with resolved_names() as names, Session(dante.replace("socks5h", "socks5")) as session:
            assert session.get(url, timeout=10).status_code == 200
        assert names == ["localhost"]

    def test_session_through_dante_to_refusing_destination(self, dante: str) -> None:
        with Session(dante, max_retries=1) as session, pytest.raises(ProxyError) as caught:
            session.get(f"http://127.0.0.1:{REFUSED_PORT}/", timeout=10)
        assert isinstance(caught.value.__cause__, ReplyError)
        assert caught.value.__cause__.reply == Reply.CONNECTION_REFUSED

    def test_session_through_dante_with_refused_login(self, dante: str, url: str) -> None:
        with (
            Session(dante.replace(ACCOUNTS["user"], "nobody", 1)) as session,
            pytest.raises(ProxyError) as caught,
        ):
            session.get(url, timeout=10)
        assert isinstance(caught.value.__cause__, AuthenticationError)
