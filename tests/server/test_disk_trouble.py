"""What the log says of a disk that is at fault."""

from __future__ import annotations

import errno
import os

import pytest

from coord_server import disk_trouble
from coord_server.bootstrap import DataDirError
from coord_server.storage.disk import system_error


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_what_to_do(code: int) -> None:
    assert disk_trouble.reason(system_error(code, "/wal"), "/data") == {
        "reason": "no space left in /wal: make room there and start this member again; "
        "it has everything that was acknowledged"
    }


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS])
def test_a_broken_disk_is_named_and_what_to_do(code: int) -> None:
    fields = disk_trouble.reason(OSError(code, os.strerror(code)), "/data")
    assert fields["reason"].startswith("the disk that holds /data fails: nothing is written")


def test_the_cause_of_another_error_counts() -> None:
    error = DataDirError("cannot use data directory /data")
    error.__cause__ = system_error(errno.ENOSPC, "/data/member")
    assert "no space left in /data/member" in disk_trouble.reason(error, "/data")["reason"]


def test_other_errors_are_no_matter_of_disks() -> None:
    assert disk_trouble.reason(ValueError("no"), "/data") == {}
    assert disk_trouble.reason(system_error(errno.EADDRINUSE, "/data"), "/data") == {}
