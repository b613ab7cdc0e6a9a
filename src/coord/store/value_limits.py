"""How large what recipes write may be, asked before anything is sent (spec recipes C16).

Smaller than what a server takes (1.5 MiB a request, unless ``--max-request-bytes`` says otherwise): several of these
share a request or an answer, such as the values of all candidates of an election.
"""

from __future__ import annotations

from coord.errors import PayloadTooLarge
from coord.store.keys import to_bytes

DEFAULT_MAX_VALUE_BYTES = 512 * 1024
"""What one value of a recipe may have, unless ``connect(max_value_bytes=...)`` says otherwise."""


def to_value(value: str | bytes, what: str, allowed: int) -> bytes:
    """Return the value that ``what`` writes, as bytes. Raises :class:`PayloadTooLarge` above ``allowed`` bytes."""
    raw = to_bytes(value, "value")
    if len(raw) > allowed:
        raise PayloadTooLarge(what, size_bytes=len(raw), limit_bytes=allowed)
    return raw
