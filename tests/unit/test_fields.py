"""The fields of a `Proxy`: how user names and passwords are encoded."""

from __future__ import annotations

import pytest

from socksclient.protocol.fields import encode_credential


def test_encode_credential_of_http_has_any_length() -> None:
    assert encode_credential("password", "ü" * 500, None) == b"\xc3\xbc" * 500
    with pytest.raises(
        ValueError, match=r"^password is 11 octets long in UTF-8; SOCKS carries at most 10$"
    ):
        encode_credential("password", "x" * 11, 10)


def test_encode_credential_refuses_a_surrogate_and_shows_no_password() -> None:
    with pytest.raises(ValueError, match="password cannot be encoded as UTF-8") as caught:
        encode_credential("password", "secret\ud800")
    # A UnicodeEncodeError would have the password in it.
    assert type(caught.value) is ValueError
    assert caught.value.__context__ is None
