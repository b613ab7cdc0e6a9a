"""Custom metadata: what may be sent, and how it comes back."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.rpc import metadata as metadata_module
from coord.rpc.metadata import Metadata, from_headers, to_headers

keys = st.text("0123456789abcdefghijklmnopqrstuvwxyz_.-", min_size=1, max_size=20).filter(
    lambda key: (
        key not in metadata_module._RESERVED
        and not key.startswith("grpc-")
        and not key.endswith("-bin")
    )
)
texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30).map(str.strip)
pairs = st.one_of(
    st.tuples(keys, texts), st.tuples(keys.map(lambda key: key + "-bin"), st.binary(max_size=30))
)


@given(st.lists(pairs, max_size=8).map(tuple))
def test_metadata_comes_back_in_order(metadata: Metadata) -> None:
    headers = to_headers(metadata)
    assert from_headers(headers) == metadata
    assert all(b"=" not in value for name, value in headers if name.endswith(b"-bin"))


@pytest.mark.parametrize(
    "key",
    ["", "Upper", "with space", "colon:", ":path", "ümlaut", "new\nline", "ends\n", "a/b", "a=b"],
)
def test_keys_that_cannot_be_sent(key: str) -> None:
    with pytest.raises(ValueError, match="metadata key"):
        to_headers([(key, "x")])


@pytest.mark.parametrize(
    "key",
    ["grpc-timeout", "grpc-status-details-bin", "grpc-x", "content-type", "te", "user-agent",
     "host", "connection", "transfer-encoding", "content-length"],
)  # fmt: skip
def test_keys_of_the_protocol(key: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        to_headers([(key, "x")])


@pytest.mark.parametrize("value", ["new\nline", "nul\0", "grün", " leading", "trailing ", "\x7f"])
def test_texts_that_cannot_be_sent(value: str) -> None:
    with pytest.raises(ValueError, match="metadata value of 'k'"):
        to_headers([("k", value)])


def test_kind_of_value_follows_the_key() -> None:
    with pytest.raises(ValueError, match="must be bytes"):
        to_headers([("k-bin", "text")])
    with pytest.raises(ValueError, match="must be str"):
        to_headers([("k", b"bytes")])


def test_headers_of_the_protocol_are_not_metadata() -> None:
    headers = [
        (b":path", b"/a/b"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"grpc-timeout", b"1S"),
        (b"grpc-accept-encoding", b"gzip"),
        (b"grpc-status", b"0"),
        (b"grpc-message", b"x"),
        (b"user-agent", b"grpc-go/1.26.0"),
        (b"token", b"abc"),
    ]
    assert from_headers(headers) == (("user-agent", "grpc-go/1.26.0"), ("token", "abc"))


@given(st.lists(st.binary(max_size=10), min_size=1, max_size=4), st.booleans())
def test_joined_binary_values_are_split(values: list[bytes], padded: bool) -> None:
    encoded = [base64.b64encode(value) for value in values]
    joined = b", ".join(encoded if padded else [text.rstrip(b"=") for text in encoded])
    assert from_headers([(b"k-bin", joined)]) == tuple(("k-bin", value) for value in values)


@pytest.mark.parametrize("value", [b"a", b"ab$d", b"YW Jj", b"YQ=E", b"\xff\xff"])
def test_what_is_not_base64(value: bytes) -> None:
    with pytest.raises(ValueError, match="'k-bin' is not base64"):
        from_headers([(b"k-bin", value)])


def test_texts_beyond_ascii_are_escaped() -> None:
    assert from_headers([(b"k", b"a\xff\xc3")]) == (("k", "a\\xff\\xc3"),)


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=20)), max_size=6))
def test_any_headers_give_metadata_or_a_value_error(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        metadata = from_headers(headers)
    except ValueError:
        return
    for key, value in metadata:
        assert isinstance(value, bytes) == key.endswith("-bin")
