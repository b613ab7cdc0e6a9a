"""The grpc-timeout header."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.rpc.timeout import format_timeout, parse_timeout

UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@given(st.integers(0, 99_999_999), st.sampled_from(sorted(UNITS)))
def test_digits_and_unit(count: int, unit: str) -> None:
    assert parse_timeout(f"{count}{unit}".encode()) == count * UNITS[unit]


def test_leading_zeros_count_as_digits() -> None:
    assert parse_timeout(b"00000005S") == 5.0


def test_no_header_means_no_timeout() -> None:
    assert parse_timeout(None) is None


@pytest.mark.parametrize(
    "value",
    [b"", b"S", b"5", b"5s", b"5 S", b" 5S", b"-5S", b"+5S", b"5.0S", b"1_0S", b"123456789n",
     b"000000005S", b"\xb2S", b"5SS", b"0x5S"],
)  # fmt: skip
def test_malformed(value: bytes) -> None:
    with pytest.raises(ValueError, match="malformed grpc-timeout"):
        parse_timeout(value)


@given(st.binary(max_size=12))
def test_any_bytes_give_seconds_or_a_value_error(value: bytes) -> None:
    try:
        seconds = parse_timeout(value)
    except ValueError:
        return
    assert 0 <= seconds <= 99_999_999 * 3600


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (0.1, b"100000u"),
        (5, b"5000000u"),
        (0.05, b"50000000n"),
        (1e-9, b"1n"),
        (0, b"1n"),
        (-3, b"1n"),
        (-math.inf, b"1n"),
        (3600, b"3600000m"),
        (99.9999991, b"100000m"),
        (1e6, b"1000000S"),
        (1e9, b"16666667M"),
        (1e11, b"27777778H"),
        (1e30, b"99999999H"),
        (math.inf, b"99999999H"),
        (99_999_999 * 3600, b"99999999H"),
    ],
)
def test_format(seconds: float, value: bytes) -> None:
    assert format_timeout(seconds) == value


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        format_timeout(math.nan)


@given(st.floats(1e-9, 99_999_999 * 3600))
def test_rounds_up_by_less_than_its_unit(seconds: float) -> None:
    value = format_timeout(seconds)
    back = parse_timeout(value)
    tolerance = 0.5e-9 + seconds * 1e-12
    assert back >= seconds - tolerance
    assert back - seconds < UNITS[chr(value[-1])] + tolerance
    # And no finer unit could have held it.
    finer = {"H": 60, "M": 60, "S": 1000, "m": 1000, "u": 1000, "n": 10**9}[chr(value[-1])]
    assert value[-1:] == b"n" or int(value[:-1]) * finer > 99_999_999 - finer
