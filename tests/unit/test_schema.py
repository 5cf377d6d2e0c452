"""`Proxy` as the type of a field in pydantic's models, in dataclasses and in attrs."""

from __future__ import annotations

import copy
import json
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import attrs
import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_settings import BaseSettings, NoDecode

from socksclient import Proxy, ProxyLike

URL = "socks5h://us3r:s3cret@proxy.test:1081"
PROXY = Proxy("proxy.test", 1081, username="us3r", password="s3cret")
WITH_CONTEXT = replace(PROXY, tls=ssl.create_default_context())
BAD = [
    ("socks5h://us3r:s3cret@h:x", "proxy port is not a number"),
    ("us3r:s3cret@h:1", "proxy URL has no scheme"),
    ("s3cret://h", "proxy scheme"),
    ({"host": "h", "password": "s3cret"}, "proxy must be a str or a socksclient.Proxy, not dict"),
    (["s3cret"], "proxy must be a str or a socksclient.Proxy, not list"),
    (1080, "proxy must be a str or a socksclient.Proxy, not int"),
    (None, "proxy must be a str or a socksclient.Proxy, not NoneType"),
]


class Model(BaseModel):
    proxy: Proxy
    other: Proxy | None = None
    chain: list[Proxy] = []
    any_proxy: ProxyLike = PROXY


class TestPydantic:
    @pytest.mark.parametrize("value", [URL, PROXY])
    def test_pydantic_field_takes_a_url_or_a_proxy(self, value: Any) -> None:
        model = Model(proxy=value, other=value, chain=[value, value])
        assert model.proxy == model.other == PROXY
        assert model.chain == [PROXY, PROXY]
        assert Model.model_validate({"proxy": value}, strict=True).proxy == PROXY
        assert TypeAdapter(Proxy).validate_python(value) == PROXY
        assert model.model_dump()["proxy"] == PROXY
        with pytest.raises(ValidationError):
            Model()  # type: ignore[call-arg]

    def test_pydantic_field_keeps_the_very_proxy(self) -> None:
        model = Model(proxy=WITH_CONTEXT)
        assert model.proxy is WITH_CONTEXT
        assert model.model_copy(deep=True).proxy == WITH_CONTEXT
        assert Model(proxy=PROXY, any_proxy=WITH_CONTEXT).any_proxy is WITH_CONTEXT

    def test_pydantic_json_has_no_secret_and_is_no_proxy_again(self) -> None:
        model = Model(proxy=PROXY, chain=[WITH_CONTEXT])
        text = model.model_dump_json()
        assert json.loads(text)["proxy"] == "socks5h://***@proxy.test:1081"
        assert json.loads(text)["chain"] == ["socks5h+tls://***@proxy.test:1081"]
        assert model.model_dump(mode="json")["proxy"] == str(PROXY)
        assert "s3cret" not in f"{model} {model!r} {text}"
        with pytest.raises(ValidationError, match="it is the text of a Proxy, which hides them"):
            Model.model_validate_json(text)
        plain = Model(proxy=Proxy("h"))
        assert Model.model_validate_json(plain.model_dump_json(exclude={"any_proxy"})) == plain

    @pytest.mark.parametrize("mode", ["validation", "serialization"])
    def test_pydantic_json_schema_is_that_of_a_url(self, mode: Any) -> None:
        schema = Model.model_json_schema(mode=mode)["properties"]
        assert schema["proxy"] == {"title": "Proxy", "type": "string", "format": "uri"}
        assert schema["chain"]["items"] == {"type": "string", "format": "uri"}

    @pytest.mark.parametrize(("value", "text"), BAD)
    def test_pydantic_errors_say_what_is_wrong_and_hide_the_input(
        self, value: Any, text: str
    ) -> None:
        validations: list[Callable[[], object]] = [
            lambda: Model(proxy=value),
            lambda: Model.model_validate({"proxy": value}, strict=True),
            lambda: Model.model_validate_json(json.dumps({"proxy": value})),
            lambda: TypeAdapter(list[Proxy]).validate_python([value]),
            lambda: Data(proxy=value),
        ]
        for validate in validations:
            with pytest.raises(ValidationError) as caught:
                validate()
            error = caught.value
            [details] = error.errors()
            assert details["type"] == "proxy"
            assert details["msg"].startswith(text)
            assert details["loc"] in [("proxy",), (0,)]
            assert details["input"] == "(hidden)"
            assert error.__cause__ is error.__context__ is None
            if value != "s3cret://h":
                assert "s3cret" not in f"{error} {error!r} {error.errors()} {error.json()}"

    def test_pydantic_settings_read_a_proxy_from_the_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Settings(BaseSettings):
            proxy: Annotated[Proxy, NoDecode]
            other: Proxy | None = None

        monkeypatch.setenv("PROXY", URL)
        monkeypatch.setenv("OTHER", URL)
        settings = Settings()  # type: ignore[call-arg]
        assert settings.proxy == settings.other == PROXY
        assert "s3cret" not in repr(settings)

    def test_pydantic_field_drops_a_password_of_socks4_with_a_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = Model.model_validate({"proxy": "socks4a://us3r:s3cret@h"})
        assert model.proxy == Proxy("h", scheme="socks4a", username="us3r")
        assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pydantic_dataclass
class Data:
    proxy: Proxy


@dataclass(frozen=True)
class Plain:
    proxy: Proxy = PROXY


@attrs.frozen
class WithAttrs:
    proxy: Proxy = attrs.field(validator=attrs.validators.instance_of(Proxy), default=PROXY)
    other: Proxy | None = None


def test_proxy_in_a_dataclass() -> None:
    assert Plain() == Plain(Proxy.from_url(URL))
    assert len({Plain(), Plain(WITH_CONTEXT), Plain(replace(WITH_CONTEXT))}) == 2
    held = copy.deepcopy(Plain(WITH_CONTEXT))
    assert held.proxy.tls is WITH_CONTEXT.tls
    assert "s3cret" not in f"{Plain()} {Data(PROXY)}"


def test_proxy_in_a_class_of_attrs() -> None:
    held = WithAttrs(other=WITH_CONTEXT)
    assert held.proxy == PROXY
    assert attrs.asdict(held) == {"proxy": PROXY, "other": WITH_CONTEXT}
    assert copy.deepcopy(held) == attrs.evolve(held) == held
    assert "s3cret" not in repr(held)
