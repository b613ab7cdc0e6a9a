"""What an operator is told when the disk is at fault: it is full, it fails, or it was made read-only."""

from __future__ import annotations

import errno

from coord_server.storage.disk import is_full

# What a device, or the system that has given up on one, says.
_BROKEN = frozenset({errno.EIO, errno.EROFS})


def reason(error: BaseException, data_dir: str) -> dict[str, str]:
    """Return the field ``reason`` for the log line of a failure; nothing if no disk is behind it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            where = cause.filename if isinstance(cause.filename, str) else data_dir
            if is_full(cause):
                return {
                    "reason": f"no space left in {where}: make room there and start this member again;"
                    " it has everything that was acknowledged"
                }
            if cause.errno in _BROKEN:
                return {
                    "reason": f"the disk that holds {where} fails: nothing is written to it any more;"
                    " start this member again when the disk is sound, or replace the member"
                }
        cause = cause.__cause__
    return {}
