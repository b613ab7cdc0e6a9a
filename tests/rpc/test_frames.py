"""Frames packed here, read by hyperframe, and the reverse."""

from __future__ import annotations

import struct

import hyperframe.frame as hf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.rpc import frames

stream_ids = st.integers(1, frames.MAX_STREAM_ID)
uint32 = st.integers(0, 2**32 - 1)


def parse(data: bytes) -> hf.Frame:
    frame, length = hf.Frame.parse_frame_header(memoryview(data[:9]))
    assert len(data) == 9 + length
    frame.parse_body(memoryview(data[9:]))
    return frame


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=50))
def test_header_comes_back(kind: int, flags: int, stream_id: int, payload: bytes) -> None:
    data = b"before" + frames.pack_frame(kind, flags, stream_id, payload) + b"after"
    assert frames.unpack_header(data, 6) == (len(payload), kind, flags, stream_id)
    assert data[15 : 15 + len(payload)] == payload


def test_header_drops_the_reserved_bit() -> None:
    assert frames.unpack_header(b"\0\0\0\x06\0\xff\xff\xff\xff") == (0, 6, 0, 2**31 - 1)


@given(st.integers(0, 8))
def test_header_needs_nine_bytes(size: int) -> None:
    with pytest.raises(struct.error):
        frames.unpack_header(bytes(size))


@given(st.dictionaries(st.integers(0, 0xFFFF), uint32, max_size=10))
def test_settings(settings: dict[int, int]) -> None:
    data = frames.pack_settings(settings)
    frame = parse(data)
    assert isinstance(frame, hf.SettingsFrame)
    assert frame.settings == settings
    assert frames.unpack_settings(data[9:]) == list(settings.items())
    assert frames.unpack_header(data) == (6 * len(settings), frames.SETTINGS, 0, 0)


def test_settings_repeated_are_all_returned_in_order() -> None:
    payload = struct.pack(">HIHI", 4, 1, 4, 2)
    assert frames.unpack_settings(payload) == [(4, 1), (4, 2)]


@pytest.mark.parametrize("size", [1, 5, 7, 13])
def test_settings_come_in_sixes(size: int) -> None:
    with pytest.raises(ValueError, match="multiple of six"):
        frames.unpack_settings(bytes(size))


def test_settings_ack() -> None:
    assert hf.SettingsFrame(0, flags=["ACK"]).serialize() == frames.SETTINGS_ACK


@given(st.integers(0, 2**31 - 1), st.integers(1, frames.MAX_WINDOW))
def test_window_update(stream_id: int, increment: int) -> None:
    data = frames.pack_window_update(stream_id, increment)
    assert data == hf.WindowUpdateFrame(stream_id, window_increment=increment).serialize()


@given(stream_ids, uint32)
def test_rst_stream(stream_id: int, code: int) -> None:
    data = frames.pack_rst_stream(stream_id, code)
    assert data == hf.RstStreamFrame(stream_id, error_code=code).serialize()


@given(st.integers(0, 2**31 - 1), uint32, st.binary(max_size=30))
def test_goaway(last: int, code: int, debug: bytes) -> None:
    expected = hf.GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=debug)
    assert frames.pack_goaway(last, code, debug) == expected.serialize()


@given(st.booleans(), st.binary(min_size=8, max_size=8))
def test_ping(ack: bool, data8: bytes) -> None:
    expected = hf.PingFrame(0, opaque_data=data8, flags=["ACK"] if ack else [])
    assert frames.pack_ping(ack, data8) == expected.serialize()


@given(stream_ids, st.binary(max_size=100), st.integers(1, 40), st.booleans())
def test_split_data(stream_id: int, body: bytes, max_frame: int, end: bool) -> None:
    parts: list[hf.DataFrame] = []
    for packed in frames.split_data(stream_id, body, max_frame, end_stream=end):
        part = parse(packed)
        assert isinstance(part, hf.DataFrame)
        assert part.stream_id == stream_id
        parts.append(part)
    assert b"".join(part.data for part in parts) == body
    assert all(len(part.data) <= max_frame for part in parts)
    assert len(parts) == max(-(-len(body) // max_frame), int(end))
    assert [("END_STREAM" in part.flags) for part in parts[:-1]] == [False] * (len(parts) - 1)
    assert not parts or ("END_STREAM" in parts[-1].flags) == end


@given(stream_ids, st.binary(max_size=100), st.integers(1, 40), st.booleans())
def test_split_headers(stream_id: int, block: bytes, max_frame: int, end: bool) -> None:
    data = frames.split_headers(stream_id, block, max_frame, end_stream=end)
    collected = b""
    pos = 0
    while pos < len(data):
        length, kind, flags, stream = frames.unpack_header(data, pos)
        assert kind == (frames.CONTINUATION if pos else frames.HEADERS)
        assert stream == stream_id
        assert length <= max_frame
        assert bool(flags & frames.FLAG_END_STREAM) == (end and pos == 0)
        collected += data[pos + 9 : pos + 9 + length]
        pos += 9 + length
        assert bool(flags & frames.FLAG_END_HEADERS) == (pos == len(data))
    assert collected == block


def test_numbers_are_those_of_the_rfc() -> None:
    types: dict[int, type[hf.Frame]] = {
        frames.DATA: hf.DataFrame,
        frames.HEADERS: hf.HeadersFrame,
        frames.PRIORITY: hf.PriorityFrame,
        frames.RST_STREAM: hf.RstStreamFrame,
        frames.SETTINGS: hf.SettingsFrame,
        frames.PUSH_PROMISE: hf.PushPromiseFrame,
        frames.PING: hf.PingFrame,
        frames.GOAWAY: hf.GoAwayFrame,
        frames.WINDOW_UPDATE: hf.WindowUpdateFrame,
        frames.CONTINUATION: hf.ContinuationFrame,
    }
    assert {number: kind.type for number, kind in types.items()} == {n: n for n in types}
    assert [code.value for code in frames.ErrorCode] == list(range(14))
    assert frames.Setting.INITIAL_WINDOW_SIZE == hf.SettingsFrame.INITIAL_WINDOW_SIZE
    assert frames.Setting.MAX_HEADER_LIST_SIZE == hf.SettingsFrame.MAX_HEADER_LIST_SIZE
    assert frames.PREFACE.hex() == "505249202a20485454502f322e300d0a0d0a534d0d0a0d0a"
