"""What a flag's text may be: one ``Kind`` per type of value, with the words that a refusal shows.

The notations are those of Go's flag package, since etcd's users and scripts write them: ``1h30m``,
``true``/``T``/``1``, ``0x10``.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of flag value.

    ``allowed`` ends the sentence "must be ..."; ``parse`` raises ValueError for anything else.
    A switch may stand without a value.
    """

    label: str
    allowed: str
    parse: Callable[[str], object]
    is_switch: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """One endpoint URL: http and https have host and port, unix and unixs a socket path."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_secure(self) -> bool:
        """Tell whether the scheme asks for TLS."""
        return self.scheme in {"https", "unixs"}

    @property
    def is_unix(self) -> bool:
        """Tell whether this names a socket file."""
        return self.scheme in {"unix", "unixs"}

    @override
    def __str__(self) -> str:
        if self.is_unix:
            return f"{self.scheme}://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


_TRUE: Final = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE: Final = frozenset(("0", "f", "F", "false", "FALSE", "False"))

_UNITS_S: Final = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0,
}  # fmt: skip
_DURATION: Final = re.compile(r"([+-]?)((?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)")
_DURATION_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def parse_bool(text: str) -> bool:
    """Return the truth value of ``text``; ValueError unless it is one of Go's twelve words."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(text)


def parse_int(text: str) -> int:
    """Return the signed 64-bit number ``text``, decimal or with a 0x, 0o, 0b prefix."""
    number = int(text, 0)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(text)
    return number


def parse_count(text: str) -> int:
    """Return the number ``text``, at least 0."""
    number = parse_int(text)
    if number < 0:
        raise ValueError(text)
    return number


def parse_duration(text: str) -> float:
    """Return a Go duration (``300ms``, ``1h30m``, ``0``) in seconds."""
    if text in {"0", "+0", "-0"}:
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(text)
    seconds = sum(
        float(part) * _UNITS_S[unit] for part, unit in _DURATION_PART.findall(match.group(2))
    )
    return -seconds if match.group(1) == "-" else seconds


def parse_wait(text: str) -> float:
    """Return a duration that is not negative, in seconds."""
    seconds = parse_duration(text)
    if seconds < 0:
        raise ValueError(text)
    return seconds


def parse_words(text: str) -> tuple[str, ...]:
    """Return the parts between commas, without blanks and empty ones."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def parse_url(text: str) -> Url:
    """Return one URL; ValueError unless it is scheme://host:port or unix://path."""
    parts = urlsplit(text)
    if parts.scheme in {"unix", "unixs"}:
        path = parts.netloc + parts.path
        if not path:
            raise ValueError(text)
        return Url(scheme=parts.scheme, path=path)
    if parts.scheme not in {"http", "https"}:
        raise ValueError(text)
    if parts.path not in {"", "/"} or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(text)
    if parts.hostname is None or parts.port is None:
        raise ValueError(text)
    return Url(scheme=parts.scheme, host=parts.hostname, port=parts.port)


def parse_urls(text: str) -> tuple[Url, ...]:
    """Return the URLs between commas."""
    return tuple(parse_url(word) for word in parse_words(text))


def is_bindable(url: Url) -> bool:
    """Tell whether one can listen there without asking DNS: an IP address, localhost or a path."""
    if url.is_unix or url.host == "localhost":
        return True
    try:
        ipaddress.ip_address(url.host)
    except ValueError:
        return False
    return True


def one_of(*words: str) -> Kind:
    """Return the kind of a value that is one of ``words``."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return Kind("word", "one of " + ", ".join(words), parse)


TEXT: Final = Kind("text", "text", str)
SWITCH: Final = Kind("bool", "true or false", parse_bool, is_switch=True)
INT: Final = Kind("int", "a whole number", parse_int)
COUNT: Final = Kind("int", "a whole number of at least 0", parse_count)
NUMBER: Final = Kind("number", "a number", float)
DURATION: Final = Kind("duration", 'a duration such as "300ms", "5s" or "1h30m"', parse_wait)
WORDS: Final = Kind("list", "a list with commas", parse_words)
URLS: Final = Kind(
    "urls", "URLs such as http://127.0.0.1:2379, https://..., unix:///path, with commas", parse_urls
)
