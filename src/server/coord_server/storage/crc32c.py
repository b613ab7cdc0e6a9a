"""CRC-32C (Castagnoli), the checksum of log frames and snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import google_crc32c as _google_crc32c

if TYPE_CHECKING:
    from collections.abc import Callable

# The package ships no types. It is C; without a compiled wheel it falls back to Python by itself.
_library: Any = _google_crc32c

value: Callable[[bytes], int] = _library.value
extend: Callable[[int, bytes], int] = _library.extend
