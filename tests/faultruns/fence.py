"""A resource outside the store that heeds fencing tokens: rows of a SQLite file that all workers share."""

from __future__ import annotations

import sqlite3
from pathlib import Path

_WAIT_S = 30.0


class Register:
    """Takes a write iff its token is at least the highest that was ever taken for that name."""

    def __init__(self, path: Path) -> None:
        self._base = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
        # It is to survive no power loss, and the disk is busy with the members.
        self._base.execute("PRAGMA synchronous = OFF")
        self._base.execute(
            "CREATE TABLE IF NOT EXISTS fence (name TEXT PRIMARY KEY, token INTEGER)"
        )

    def write(self, name: str, token: int) -> bool:
        """Say whether the write was taken."""
        done = self._base.execute(
            "INSERT INTO fence VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET token = excluded.token"
            " WHERE excluded.token >= token",
            (name, token),
        )
        return done.rowcount > 0

    def close(self) -> None:
        self._base.close()
