"""How much memory a process holds."""

from __future__ import annotations

import re
from pathlib import Path


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process in bytes (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s*(\d+) kB$", status, re.MULTILINE)
    assert found is not None, "the process has ended"
    return int(found[1]) * 1024
