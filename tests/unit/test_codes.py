"""The codes of replies: those that are assigned, and all other numbers."""

from __future__ import annotations

import copy
import pickle

import pytest

from socksclient.protocol.codes import Command, HTTPReply, Reply, ReplyCode, Socks4Reply


def test_command_texts_are_those_of_the_rfc_and_of_tor() -> None:
    assert [*Command] == [0x01, 0x02, 0x03, 0xF0, 0xF1]
    texts = ["CONNECT", "BIND", "UDP ASSOCIATE", "RESOLVE", "RESOLVE_PTR"]
    assert [command.text for command in Command] == texts


@pytest.mark.parametrize("kind", [Reply, Socks4Reply, HTTPReply])
def test_reply_code_is_the_base_of_three_enums(kind: type[ReplyCode]) -> None:
    for code in kind:
        assert isinstance(code, ReplyCode)
        assert kind(int(code)) is code
        assert code.text.startswith(f"{code.meaning} (")


def test_reply_codes_overlap_and_their_classes_do_not() -> None:
    codes = {Reply(0x5B): "SOCKS5", Socks4Reply(0x5B): "SOCKS4"}
    # Members of two IntEnums with one number are equal.
    assert len(codes) == 1
    assert not isinstance(Socks4Reply(0x5B), Reply | HTTPReply)


@pytest.mark.parametrize(
    ("kind", "numbers", "name"),
    [
        (Socks4Reply, [*range(0x5A), *range(0x5E, 0x100)], "UNASSIGNED_{:02X}"),
        (HTTPReply, [100, 200, 300, 302, 401, 407, 418, 599, 600, 999], "UNASSIGNED_{}"),
    ],
)
def test_socks4_and_http_reply_keep_an_unassigned_number(
    kind: type[Socks4Reply | HTTPReply], numbers: list[int], name: str
) -> None:
    members = len(kind)
    for number in numbers:
        reply = kind(number)
        assert (type(reply), reply.value, reply.name) == (kind, number, name.format(number))
        assert reply == number
        assert {reply: "found"}[kind(number)] == "found"
        for double in (pickle.loads(pickle.dumps(reply)), copy.copy(reply), copy.deepcopy(reply)):
            assert (type(double), double, double.name) == (kind, number, reply.name)
    assert len(kind) == members


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        *((Socks4Reply, number) for number in (-1, 0x100, "x", None, 90.5)),
        *((HTTPReply, number) for number in (-1, 0, 99, 1000, "x", None)),
    ],
)
def test_socks4_and_http_reply_refuse_a_number_out_of_range(
    kind: type[Socks4Reply | HTTPReply], number: int
) -> None:
    with pytest.raises(ValueError, match=f"is not a valid {kind.__name__}"):
        kind(number)


def test_socks5_reply_keeps_an_unassigned_number() -> None:
    for number in (*range(0x09, 0xF0), *range(0xF8, 0x100)):
        reply = Reply(number)
        assert isinstance(reply, Reply)
        assert reply == reply.value == number
        assert reply.name == f"UNASSIGNED_{number:02X}"
        assert {reply: "found"}[Reply(number)] == "found"
        for double in (pickle.loads(pickle.dumps(reply)), copy.copy(reply), copy.deepcopy(reply)):
            assert (type(double), double, double.name) == (Reply, number, reply.name)
    assert Reply(0x5A) != Reply(0x5B)
    assert len(Reply) == 17


@pytest.mark.parametrize("number", [-1, 256, "x", None])
def test_socks5_reply_refuses_a_number_out_of_range(number: int) -> None:
    with pytest.raises(ValueError, match="is not a valid Reply"):
        Reply(number)
