"""Who a client is to the store: a user with a password, or a token that somebody else obtained.

What is secret here appears in no ``repr`` and in no message: objects that hold a :class:`Credentials` may be shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import unquote

from coord.errors import InvalidArgument

USER_VARIABLE = "COORD_USER"
PASSWORD_VARIABLE = "COORD_PASSWORD"  # noqa: S105 - the name of a variable

Password: TypeAlias = str | Callable[[], str]
"""A password, or a function that returns the present one: called off the loop, before each login."""

# What travels in a header: printable ASCII without outer blanks.
_TOKEN = re.compile(r"[!-~](?:[ -~]*[!-~])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user with a password, or a fixed ``token``; one of both. Secrets never appear in ``repr``.

    A fixed token is sent as it is, and never renewed.
    """

    user: str = ""
    password: Password | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


def credentials(
    *,
    user: str | None = None,
    password: Password | None = None,
    token: str | None = None,
    url: Credentials | None = None,
    environment: bool = True,
) -> Credentials | None:
    """Put together what ``connect()`` was given, what its URL says, and the environment; None: nobody in particular.

    Arguments and the URL exclude each other, except that ``password`` completes a URL without one.
    ``COORD_USER`` counts when neither names anybody, ``COORD_PASSWORD`` when the user comes without a password;
    ``environment=False`` leaves both alone.
    Raises :class:`InvalidArgument` for what does not fit together.
    """
    if url is not None:
        second = None if url.password is None else password
        if (user, second, token) != (None, None, None):
            raise InvalidArgument("the user stands in the URL and in arguments: give it once")
    if token is not None:
        if user is not None or password is not None:
            raise InvalidArgument("token= does not go together with user= and password=")
        if not _TOKEN.fullmatch(_text(token, "token=")):
            raise InvalidArgument("token= is not printable ASCII without outer blanks")
        return Credentials(token=token)
    if url is not None:
        user, password = url.user, url.password or password
    source = "user="
    if user is None and password is not None:
        raise InvalidArgument("password= is given without user=")
    if environment:
        if user is None:
            user, source = os.environ.get(USER_VARIABLE) or None, USER_VARIABLE
            if user is None and os.environ.get(PASSWORD_VARIABLE):
                raise InvalidArgument(f"{PASSWORD_VARIABLE} is set without {USER_VARIABLE}")
        if user is not None and password is None:
            password = os.environ.get(PASSWORD_VARIABLE) or None
    if user is None:
        return None
    return _named(user, password, source)


def _named(user: str, password: Password | None, source: str) -> Credentials:
    _text(user, "user=")
    if password is None:
        raise InvalidArgument(
            f"{source} is given without a password: use password= or {PASSWORD_VARIABLE}"
        )
    if not callable(password):
        _text(password, "password=")
    return Credentials(user=user, password=password)


def _text(value: object, what: str) -> str:
    """Return ``value`` if it is text. Never shows it."""
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{what} must be text that is not empty")
    return value


def parse_userinfo(text: str) -> Credentials:
    """Parse ``user`` or ``user:password`` of a URL, percent-encoded. Raises :class:`InvalidArgument`."""
    user, colon, password = text.partition(":")
    try:
        parts = unquote(user, errors="strict"), unquote(password, errors="strict")
    except UnicodeDecodeError:
        raise InvalidArgument(
            "user and password of the URL are not percent-encoded UTF-8"
        ) from None
    if not parts[0]:
        raise InvalidArgument("the URL names no user in front of the @")
    if colon and not parts[1]:
        raise InvalidArgument("the password in the URL is empty")
    return Credentials(user=parts[0], password=parts[1] if colon else None)
