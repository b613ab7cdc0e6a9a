"""The Huffman code of HPACK against its published table, by way of another implementation."""

from __future__ import annotations

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from coord.rpc import huffman

ORACLE = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


@given(st.binary(max_size=200))
def test_what_is_encoded_comes_back(data: bytes) -> None:
    assert huffman.decode(huffman.encode(data)) == data


@given(st.binary(max_size=200))
def test_encodes_as_the_published_table_says(data: bytes) -> None:
    assert huffman.encode(data) == ORACLE.encode(data)


def test_every_symbol_has_its_published_code() -> None:
    for symbol in range(256):
        assert huffman.encode(bytes((symbol,))) == ORACLE.encode(bytes((symbol,)))


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        (b"", ""),
        (b"www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
        (b"no-cache", "a8eb10649cbf"),
        (b"302", "6402"),
        (b"Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
    ],
)
def test_examples_of_rfc_7541_appendix_c(text: bytes, packed: str) -> None:
    assert huffman.encode(text) == bytes.fromhex(packed)
    assert huffman.decode(bytes.fromhex(packed)) == text


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param("ff", id="eight bits of padding"),
        pytest.param("1fff", id="a symbol and eleven bits of padding"),
        pytest.param("18", id="padding of zeros"),
        pytest.param("fffffffc", id="the end-of-string symbol, then zeros"),
        pytest.param("ffffffff", id="the end-of-string symbol, then ones"),
        pytest.param("1fffffffff", id="the end-of-string symbol after a letter"),
        pytest.param("fe", id="half a symbol"),
    ],
)
def test_refuses_what_no_encoder_may_write(packed: str) -> None:
    with pytest.raises(ValueError, match=r"padding|end-of-string"):
        huffman.decode(bytes.fromhex(packed))


@given(st.binary(max_size=64))
def test_each_string_has_one_encoding_only(packed: bytes) -> None:
    try:
        text = huffman.decode(packed)
    except ValueError:
        return
    assert huffman.encode(text) == packed
