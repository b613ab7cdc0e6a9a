"""Statuses of calls: codes, messages, and what HTTP's own failures mean."""

from __future__ import annotations

import copy
import pickle

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.rpc.frames import ErrorCode
from coord.rpc.status import (
    RpcError,
    StatusCode,
    decode_message,
    encode_message,
    http_status_to_grpc,
    parse_status,
    reset_to_grpc,
)


def test_codes_are_those_of_grpc() -> None:
    assert {c.name: c.value for c in StatusCode} == {c.name: c.value[0] for c in grpc.StatusCode}


@given(st.text())
def test_any_message_comes_back(text: str) -> None:
    value = encode_message(text)
    assert decode_message(value) == text
    assert all(0x20 <= byte < 0x7F for byte in value)
    assert value == value.strip()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", b""),
        ("etcdserver: key not found", b"etcdserver: key not found"),
        ("100 %", b"100 %25"),
        ("zwei\nZeilen", b"zwei%0AZeilen"),
        ("größer", b"gr%C3%B6%C3%9Fer"),
        (" padded  ", b"%20padded%20%20"),
        ("  ", b"%20%20"),
    ],
)
def test_message_examples(text: str, value: bytes) -> None:
    assert encode_message(text) == value
    assert decode_message(value) == text


def test_message_with_a_lone_surrogate_is_still_sent() -> None:
    assert encode_message("a\ud800b") == b"a?b"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"%", "%"),
        (b"50%", "50%"),
        (b"%4", "%4"),
        (b"%zz%41", "%zzA"),
        (b"%c3%b6", "ö"),
        (b"%C3", "\ufffd"),
        (b"\xff raw", "\ufffd raw"),
        (b"%2541", "%41"),
    ],
)
def test_message_decoding_never_fails(value: bytes, text: str) -> None:
    assert decode_message(value) == text


@given(st.binary())
def test_message_decoding_takes_anything(value: bytes) -> None:
    assert isinstance(decode_message(value), str)


@pytest.mark.parametrize("code", StatusCode)
def test_status_numbers(code: StatusCode) -> None:
    assert parse_status(b"%d" % code) is code


@pytest.mark.parametrize("value", [b"", b"17", b"-1", b"+1", b"1_0", b" 1", b"99999999999", b"OK"])
def test_other_status_values_are_unknown(value: bytes) -> None:
    assert parse_status(value) is StatusCode.UNKNOWN


@pytest.mark.parametrize(
    ("http", "code"),
    [
        (400, StatusCode.INTERNAL),
        (401, StatusCode.UNAUTHENTICATED),
        (403, StatusCode.PERMISSION_DENIED),
        (404, StatusCode.UNIMPLEMENTED),
        (429, StatusCode.UNAVAILABLE),
        (502, StatusCode.UNAVAILABLE),
        (503, StatusCode.UNAVAILABLE),
        (504, StatusCode.UNAVAILABLE),
        (200, StatusCode.UNKNOWN),
        (418, StatusCode.UNKNOWN),
        (500, StatusCode.UNKNOWN),
    ],
)
def test_http_statuses(http: int, code: StatusCode) -> None:
    assert http_status_to_grpc(http) is code


def test_resets() -> None:
    special = {
        ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
        ErrorCode.CANCEL: StatusCode.CANCELLED,
        ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
        ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
        ErrorCode.STREAM_CLOSED: StatusCode.UNKNOWN,
        ErrorCode.HTTP_1_1_REQUIRED: StatusCode.UNKNOWN,
    }
    for code in ErrorCode:
        assert reset_to_grpc(code) is special.get(code, StatusCode.INTERNAL)
    assert reset_to_grpc(0xDEADBEEF) is StatusCode.UNKNOWN


def test_error_reads_well_and_keeps_its_fields() -> None:
    error = RpcError(
        StatusCode.UNAVAILABLE, "no leader", trailers=(("a-bin", b"\0"), ("b", "c")), sent=False
    )
    assert str(error) == "UNAVAILABLE: no leader"
    assert str(RpcError(StatusCode.CANCELLED)) == "CANCELLED"
    assert repr(error) == "RpcError(UNAVAILABLE, 'no leader', sent=False)"
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (twin.code, twin.message, twin.trailers, twin.sent) == (
            StatusCode.UNAVAILABLE,
            "no leader",
            (("a-bin", b"\0"), ("b", "c")),
            False,
        )


def test_error_counts_as_sent_unless_proven_otherwise() -> None:
    assert RpcError(StatusCode.INTERNAL, "x").sent
    assert RpcError(StatusCode.INTERNAL, "x").trailers == ()
