"""What a simulated member may log as an error: what a fault of its disk explains."""

from __future__ import annotations

import errno

from coord.testing.sim.server_node import _named_codes


def test_codes_are_read_from_a_line_of_the_log() -> None:
    assert _named_codes("[Errno 28] No space left on device") == {errno.ENOSPC}
    assert _named_codes("write: [Errno 5] x; [Errno 28] y") == {errno.EIO, errno.ENOSPC}
    assert _named_codes("no space left") == set()
    assert _named_codes(None) == set()
