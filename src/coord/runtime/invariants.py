"""Checks against our own mistakes that stay on in production."""

from __future__ import annotations


class InvariantViolation(RuntimeError):
    """A condition that our own code promises does not hold; the component that noticed must stop."""


def invariant(condition: object, text: str) -> None:
    """Raise :class:`InvariantViolation` with ``text`` unless ``condition`` is true.

    Used instead of ``assert``, which ``python -O`` removes.
    """
    if not condition:
        raise InvariantViolation(text)
