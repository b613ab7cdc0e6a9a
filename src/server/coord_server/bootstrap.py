"""Who this member is, and where its data lies.

Identity is computed once, from the peer URLs and the cluster token as etcd does it (etcd ops: "IDs"),
and from then on read back: the log's metadata holds the ids, the backend the member's record. Flags
that would give another identity are then ignored, as etcd ignores them on a restart.

Layout under the data directory::

    member/LOCK      held for as long as the process lives
    member/FORMAT    what wrote this directory, and which format
    member/wal/      the write-ahead log, unless --wal-dir moves it
    member/store/    the backend (storage/store_place.py)
    member/snapshot-N.tmp   a snapshot on its way to a client
    fixtures/        certificates that the server made for itself (auto_tls.py)
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coord_server.member_ids import cluster_id, member_id
from coord_server.storage.store_place import StorePlace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord_server.config import Config
    from coord_server.storage.disk import Disk, DiskLock

FORMAT: Final = 1
SNAPSHOT_PREFIX: Final = "snapshot-"
SNAPSHOT_SUFFIX: Final = ".tmp"
_PROGRAM: Final = "coord-server"
_METADATA: Final = struct.Struct(">8sQQ")
_MAGIC: Final = b"coordid1"
_OWN_NAMES: Final = frozenset(("member", "fixtures"))


class DataDirError(Exception):
    """The data directory cannot be used; the text names it and says why."""


class BootstrapError(Exception):
    """The cluster that the flags describe cannot be made or joined; one line that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The ids of a member and of its cluster."""

    member_id: int
    cluster_id: int

    def to_metadata(self) -> bytes:
        """Return what the log keeps at its head."""
        return _METADATA.pack(_MAGIC, self.member_id, self.cluster_id)


def identity_from_metadata(metadata: bytes) -> Identity:
    """Return the ids that a log was made with. Raises DataDirError for anything else."""
    if len(metadata) != _METADATA.size or not metadata.startswith(_MAGIC):
        raise DataDirError("the write-ahead log was not written by coord-server")
    _, member_id, cluster_id = _METADATA.unpack(metadata)
    return Identity(member_id=member_id, cluster_id=cluster_id)


def new_identity(peer_urls: Iterable[str], token: str) -> Identity:
    """Return the ids of the only member of a new cluster."""
    own = member_id(peer_urls, token)
    return Identity(member_id=own, cluster_id=cluster_id([own]))


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDir:
    """The opened data directory; closing releases its lock."""

    root: str
    wal: str
    place: StorePlace
    scratch: str
    lock: DiskLock

    @property
    def store(self) -> str:
        """The directory of the backend in use."""
        return self.place.current

    def close(self) -> None:
        """Let another process have the directory."""
        self.lock.release()


def open_data_dir(disk: Disk, config: Config) -> tuple[DataDir, tuple[str, ...]]:
    """Lock the data directory, making it if it is new, and return it with names it should not hold.

    Raises DataDirError or AlreadyLocked; nothing was changed then.
    """
    root = config.data_path.rstrip("/") or "/"
    member = f"{root}/member"
    try:
        strangers = _look_around(disk, root, member)
        disk.mkdir(member, 0o700)
        lock = disk.lock(f"{member}/LOCK")
    except OSError as error:
        raise DataDirError(
            f"cannot use data directory {root}: {error.strerror or error}"
        ) from error
    try:
        format_file = f"{member}/FORMAT"
        if not disk.exists(format_file):
            text = json.dumps({"program": _PROGRAM, "format": FORMAT}) + "\n"
            disk.write_file_atomic(format_file, text.encode())
        else:
            # Whoever wrote it may have been killed before its name was durable.
            disk.fsync_dir(member)
        wal = config.wal_dir or f"{member}/wal"
        disk.mkdir(wal, 0o700)
        place = StorePlace(disk, member)
        _clear_scratch(disk, member)
    except OSError as error:
        lock.release()
        raise DataDirError(
            f"cannot use data directory {root}: {error.strerror or error}"
        ) from error
    return DataDir(root=root, wal=wal, place=place, scratch=member, lock=lock), strangers


def _clear_scratch(disk: Disk, scratch: str) -> None:
    """Remove snapshots that were on their way when the process was killed."""
    for name in disk.listdir(scratch):
        if name.startswith(SNAPSHOT_PREFIX) and name.endswith(SNAPSHOT_SUFFIX):
            disk.unlink(f"{scratch}/{name}")


def _look_around(disk: Disk, root: str, member: str) -> tuple[str, ...]:
    """Return foreign names in ``root``; raise if another program's data is there."""
    if not disk.exists(root):
        return ()
    if disk.exists(f"{member}/snap/db"):
        raise DataDirError(
            f"data directory {root} belongs to etcd (it has member/snap/db): give coord-server its own, "
            "and copy the keys through the API"
        )
    if disk.exists(f"{member}/FORMAT"):
        _check_format(root, disk.read_file(f"{member}/FORMAT"))
    elif disk.exists(f"{member}/wal") and disk.listdir(f"{member}/wal"):
        raise DataDirError(
            f"data directory {root} was not made by coord-server (member/FORMAT is missing)"
        )
    return tuple(name for name in disk.listdir(root) if name not in _OWN_NAMES)


def _check_format(root: str, raw: bytes) -> None:
    try:
        content = json.loads(raw)
        program, version = content["program"], int(content["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataDirError(f"data directory {root}: member/FORMAT is damaged") from error
    if program != _PROGRAM or version > FORMAT:
        raise DataDirError(
            f"data directory {root} is of {program} format {version}; "
            f"this program reads up to {_PROGRAM} format {FORMAT}"
        )
