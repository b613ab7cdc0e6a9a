"""Frames and records of the log, and payloads whose checksum is right but whose content is not."""

from __future__ import annotations

import random

import pytest

from coord_server.raft.types import Entry, EntryKind, HardState, Index, NodeId, Term
from coord_server.storage import wal_record
from coord_server.storage.disk import OpenMode
from coord_server.storage.memory_disk import MemoryDisk
from coord_server.storage.wal import Wal
from coord_server.storage.wal_recovery import CorruptLog

STATE = HardState(Term(3), NodeId((1 << 64) - 5), Index(8))


def entry_record(index: int, term: int = 1, data: bytes = b"") -> bytes:
    entry = Entry(Term(term), Index(index), EntryKind.NORMAL, data)
    return wal_record.entry_head(entry) + data


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000])
def test_a_frame_proves_itself(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    frame, after = wal_record.encode_frame(payload, 12, 0x1234)
    assert len(frame) % 8 == 0
    data = bytes(16) + frame
    header = wal_record.read_header(data, 16)
    assert header is not None
    assert (header.total, header.sequence, header.chain_before) == (len(frame), 12, 0x1234)
    assert header.chain_after == after
    assert wal_record.payload_of(data, 16, header) == payload
    assert data.endswith(wal_record.trailer_of(12))
    assert wal_record.read_header(data, 8) is None
    assert wal_record.read_header(data[:40], 16) is None
    if size:
        assert wal_record.payload_of(data[: 16 + 32 + size - 1], 16, header) is None


def test_records_come_back() -> None:
    payload = b"".join(
        (
            wal_record.segment_record(3, 77),
            wal_record.metadata_record(b"who"),
            wal_record.hard_state_record(STATE),
            entry_record(9, 3, b"data"),
            wal_record.release_record(5, 2),
        )
    )
    found = list(wal_record.records(payload))
    types = wal_record.RecordType
    assert found[0] == (types.SEGMENT, 0, 3, 77, b"")
    assert found[1] == (types.METADATA, 0, 0, 0, b"who")
    assert wal_record.decode_hard_state(*found[2][2:]) == STATE
    assert wal_record.decode_entry(*found[3][1:]) == Entry(
        Term(3), Index(9), EntryKind.NORMAL, b"data"
    )
    assert found[4] == (types.RELEASE, 0, 5, 2, b"")


STRANGE = {
    "record type 99": bytes([99]) + bytes(23),
    "head is cut off": bytes(10),
    "data is cut off": entry_record(1, data=b"1234")[:-1],
    "entry kind 9": bytes([4, 9]) + entry_record(1)[2:],
    "odd size": bytes([3]) + bytes(23),
    "wrong name": wal_record.segment_record(9, 9),
    "another member": wal_record.metadata_record(b"somebody else"),
    "entry 2 is missing": entry_record(1) + entry_record(3),
}


@pytest.mark.parametrize("reason", STRANGE)
def test_content_that_makes_no_sense_is_refused(reason: str) -> None:
    disk = MemoryDisk()
    wal = Wal.create(disk, "/wal", b"m", segment_bytes=4096)
    wal._write(STRANGE[reason])
    with pytest.raises(CorruptLog, match=reason):
        Wal.open(disk, "/wal", segment_bytes=4096).recover()


def test_a_hole_before_the_first_entry_is_refused() -> None:
    disk = MemoryDisk()
    wal = Wal.create(disk, "/wal", b"m", segment_bytes=4096)
    wal._write(entry_record(2))
    with pytest.raises(CorruptLog, match="entry 1 is missing"):
        Wal.open(disk, "/wal", segment_bytes=4096).recover()


def test_a_log_that_a_snapshot_moved_on_is_read_from_there() -> None:
    disk = MemoryDisk()
    wal = Wal.create(disk, "/wal", b"m", segment_bytes=4096)
    wal._write(entry_record(1) + entry_record(2))
    wal._write(wal_record.release_record(50, 1))
    wal._write(entry_record(51))
    recovered = Wal.open(disk, "/wal", segment_bytes=4096).recover()
    assert [e.index for e in recovered.entries] == [51]


def test_a_newer_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = MemoryDisk()
    with monkeypatch.context() as patch:
        patch.setattr(wal_record, "FORMAT_VERSION", 2)
        Wal.create(disk, "/wal", b"m", segment_bytes=4096)
    with pytest.raises(CorruptLog, match="newer version"):
        Wal.open(disk, "/wal", segment_bytes=4096).recover()


def test_empty_and_damaged_first_frames_are_refused() -> None:
    for data in (bytes(4096), b"\xff" * 100):
        disk = MemoryDisk()
        disk.mkdir("/wal")
        file = disk.open(f"/wal/{1:016x}-{1:016x}.wal", OpenMode.CREATE)
        file.pwrite_sync(data, 0)
        with pytest.raises(CorruptLog, match=r"empty segment|first frame"):
            Wal.open(disk, "/wal", segment_bytes=4096).recover()
