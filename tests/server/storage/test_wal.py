"""The write-ahead log: what is appended comes back, whatever a crash leaves; damage never passes."""

from __future__ import annotations

import itertools
import random
import threading
from typing import TYPE_CHECKING

import pytest

from coord_server.raft.types import Entry, EntryKind, HardState, Index, NodeId, Term
from coord_server.storage import wal as wal_module
from coord_server.storage.disk import Disk, OpenMode, RealDisk
from coord_server.storage.memory_disk import CrashMode, MemoryDisk
from coord_server.storage.wal import Wal
from coord_server.storage.wal_record import HEADER, encode_frame, entry_head, read_header
from coord_server.storage.wal_recovery import CorruptLog, Recovered

if TYPE_CHECKING:
    from pathlib import Path

SEGMENT = 8192
STATE = HardState(Term(3), NodeId(9), Index(2))


def entry(index: int, data: bytes = b"data", term: int = 3) -> Entry:
    return Entry(Term(term), Index(index), EntryKind.NORMAL, data)


def reopened(disk: Disk, directory: str = "/wal") -> tuple[Wal, Recovered]:
    wal = Wal.open(disk, directory, segment_bytes=SEGMENT)
    return wal, wal.recover()


def outcome_of(disk: Disk) -> Recovered | CorruptLog:
    try:
        return reopened(disk)[1]
    except CorruptLog as error:
        return error


def filled(disk: MemoryDisk, sizes: list[int]) -> Wal:
    wal = Wal.create(disk, "/wal", b"member", segment_bytes=SEGMENT)
    for number, size in enumerate(sizes, 1):
        data = random.Random(number).randbytes(size)
        wal.append(HardState(Term(3), NodeId(9), Index(number - 1)), [entry(number, data)])
    return wal


def newest(disk: Disk, directory: str = "/wal") -> str:
    return f"{directory}/{[n for n in disk.listdir(directory) if n.endswith('.wal')][-1]}"


def overwrite(disk: Disk, path: str, offset: int, data: bytes) -> None:
    file = disk.open(path, OpenMode.WRITE)
    file.pwrite_sync(data, offset)
    file.close()


def last_frame(disk: MemoryDisk) -> tuple[str, int, int]:
    """Return (path, start, end) of the newest frame."""
    path = newest(disk)
    data = disk.read_file(path)
    starts = [i for i in range(0, len(data), 8) if data[i : i + 4] == b"cWAL"]
    return path, starts[-1], len(data.rstrip(b"\0"))


@pytest.fixture(params=["memory", "real"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, str]:
    return (MemoryDisk(), "/wal") if request.param == "memory" else (RealDisk(), f"{tmp_path}/wal")


def test_everything_appended_comes_back(place: tuple[Disk, str]) -> None:
    disk, directory = place
    assert not Wal.exists(disk, directory)
    wal = Wal.create(disk, directory, b"member 7", segment_bytes=SEGMENT)
    wal.append(STATE, [entry(1), entry(2, b"")])
    wal.append(None, [entry(3, b"x" * 700)])
    wal.append(HardState(Term(4), NodeId(9), Index(3)), [])
    wal.close()
    again, recovered = reopened(disk, directory)
    assert recovered.metadata == b"member 7"
    assert recovered.hard_state == HardState(Term(4), NodeId(9), Index(3))
    assert recovered.entries == [entry(1), entry(2, b""), entry(3, b"x" * 700)]
    assert recovered.torn is None
    again.append(None, [entry(4)])
    again.close()
    assert [e.index for e in reopened(disk, directory)[1].entries] == [1, 2, 3, 4]


def test_a_new_leader_replaces_the_end(place: tuple[Disk, str]) -> None:
    disk, directory = place
    wal = Wal.create(disk, directory, b"m", segment_bytes=SEGMENT)
    wal.append(STATE, [entry(1), entry(2), entry(3)])
    wal.append(None, [entry(2, b"other", term=4)])
    assert wal.last_index == 2
    wal.close()
    assert reopened(disk, directory)[1].entries == [entry(1), entry(2, b"other", term=4)]


def test_opening_nothing_says_so(place: tuple[Disk, str]) -> None:
    disk, directory = place
    with pytest.raises(FileNotFoundError, match="no write-ahead log"):
        Wal.open(disk, directory)


@pytest.mark.parametrize("prepared", [False, True])
def test_segments_roll_and_released_ones_go(place: tuple[Disk, str], *, prepared: bool) -> None:
    disk, directory = place
    wal = Wal.create(disk, directory, b"m", segment_bytes=SEGMENT)
    asked = 0
    for index in range(1, 41):
        wal.append(None, [entry(index, bytes([index]) * 900)])
        if prepared and wal.wants_next_segment():
            asked += 1
            wal.prepare_next_segment()
    count = len([n for n in disk.listdir(directory) if n.endswith(".wal")])
    assert count >= 4
    assert not prepared or asked >= count - 1
    wal.release(25, 3)
    assert wal.droppable() == []  # the log does not say so yet
    wal.append(None, [entry(41)])
    paths = wal.droppable()
    assert paths
    for path in paths:
        disk.unlink(path)
    wal.close()
    again, recovered = reopened(disk, directory)
    assert (recovered.released_index, recovered.released_term) == (25, 3)
    assert [e.index for e in recovered.entries] == list(range(26, 42))
    again.close()


def test_unlinks_may_come_back_in_any_selection() -> None:
    disk = MemoryDisk()
    wal = filled(disk, [900] * 40)
    wal.release(38, 3)
    wal.append(None, [entry(41)])
    paths = wal.droppable()
    assert len(paths) >= 3
    for path in paths:
        disk.unlink(path)
    for seed in range(30):
        image = disk.crash_image(CrashMode.SUBSET, random.Random(seed))
        again, recovered = reopened(image)
        assert [e.index for e in recovered.entries] == [39, 40, 41]
        for path in again.droppable():
            image.unlink(path)
        reopened(image)


def test_a_missing_segment_is_noticed() -> None:
    disk = MemoryDisk()
    filled(disk, [900] * 30)
    first, second, *_ = disk.listdir("/wal")
    disk.unlink(f"/wal/{first}")
    with pytest.raises(CorruptLog, match="missing"):
        reopened(disk)
    disk = MemoryDisk()
    filled(disk, [900] * 30)
    disk.unlink(f"/wal/{second}")
    with pytest.raises(CorruptLog, match="missing"):
        reopened(disk)


@pytest.mark.parametrize(
    "fill", ["truncate", "zeros", "garbage in the sector", "garbage to the end"]
)
@pytest.mark.parametrize("size", [60, 1500])
def test_every_cut_of_the_last_write_recovers(fill: str, size: int) -> None:
    base = MemoryDisk()
    filled(base, [100, 300, size])
    path, start, end = last_frame(base)
    header = read_header(base.read_file(path), start)
    assert header is not None
    assert start + header.total == end
    content_end = start + HEADER.size + header.length
    garbage = random.Random(1)
    for cut in range(start, end):
        disk = base.crash_image(CrashMode.ALL, garbage)
        if fill == "truncate":
            file = disk.open(path, OpenMode.WRITE)
            file.truncate(cut)
            file.fsync()
        else:
            rest = bytearray(end - cut)
            if fill == "garbage in the sector":
                stop = min(-cut % 512, end - cut)
                rest[:stop] = garbage.randbytes(stop)
            elif fill == "garbage to the end":
                rest[:] = garbage.randbytes(end - cut)
            overwrite(disk, path, cut, bytes(rest))
        wal, recovered = reopened(disk)
        whole = cut >= content_end  # what is missing is padding and trailer: no content
        assert [e.index for e in recovered.entries] == ([1, 2, 3] if whole else [1, 2]), cut
        if cut > start and not whole and fill != "truncate":
            assert recovered.torn is not None
            kept = disk.read_file(recovered.torn.copy)
            assert base.read_file(path)[start:end].startswith(kept[: cut - start])
        wal.append(None, [entry(len(recovered.entries) + 1, b"after")])
        wal.close()
        assert reopened(disk)[1].entries[-1].data == b"after"


def test_every_selection_of_sectors_recovers() -> None:
    base = MemoryDisk()
    filled(base, [100, 300, 1500])
    path, start, end = last_frame(base)
    whole = base.read_file(path)[start:end]
    bounds = [start, *range((start // 512 + 1) * 512, end, 512), end]
    pieces = list(itertools.pairwise(bounds))
    for chosen in range(1 << len(pieces)):
        disk = base.crash_image(CrashMode.ALL, random.Random(0))
        overwrite(disk, path, start, bytes(end - start))
        for bit, (low, high) in enumerate(pieces):
            if chosen >> bit & 1:
                overwrite(disk, path, low, whole[low - start : high - start])
        recovered = reopened(disk)[1]
        complete = chosen == (1 << len(pieces)) - 1
        assert len(recovered.entries) == (3 if complete else 2)


def test_a_rotten_bit_anywhere_is_refused_or_harmless() -> None:
    base = MemoryDisk()
    filled(base, [100, 300, 200])
    path, _, end = last_frame(base)
    whole = base.read_file(path)
    expected = reopened(base)[1].entries
    random_bits = random.Random(7)
    refused = 0
    for offset in range(end):
        disk = base.crash_image(CrashMode.ALL, random_bits)
        overwrite(disk, path, offset, bytes([whole[offset] ^ 1 << random_bits.randrange(8)]))
        outcome = outcome_of(disk)
        if isinstance(outcome, CorruptLog):
            refused += 1
            assert outcome.path == path
            assert 0 <= outcome.offset <= offset
            assert "restore" in str(outcome)
        else:
            assert outcome.entries == expected, offset  # padding and trailers carry nothing
    assert refused > end * 0.9


def test_damage_in_an_older_segment_is_refused() -> None:
    disk = MemoryDisk()
    filled(disk, [900] * 30)
    first = f"/wal/{disk.listdir('/wal')[0]}"
    end = len(disk.read_file(first).rstrip(b"\0"))
    overwrite(disk, first, end - 400, bytes(400))  # would pass for a torn tail in the last segment
    with pytest.raises(CorruptLog, match="damaged"):
        reopened(disk)


def test_bytes_after_the_end_are_refused() -> None:
    disk = MemoryDisk()
    filled(disk, [100])
    path, start, end = last_frame(disk)
    overwrite(disk, path, start + 40, b"\xff")
    overwrite(disk, path, end + 64, b"strange")
    with pytest.raises(CorruptLog, match="unknown bytes"):
        reopened(disk)


def test_an_old_frame_inside_a_value_does_not_look_like_a_later_one() -> None:
    disk = MemoryDisk()
    payload = entry_head(entry(1)) + b"data"
    old = encode_frame(payload, 2, 0)[0]
    wal = Wal.create(disk, "/wal", b"m", segment_bytes=SEGMENT)
    wal.append(STATE, [entry(1)])
    wal.append(None, [entry(2, bytes(8) + old * 3 + b"z" * 100)])
    path, _, end = last_frame(disk)
    overwrite(disk, path, end - 40, bytes(40))
    _, recovered = reopened(disk)
    assert recovered.torn is not None
    assert [e.index for e in recovered.entries] == [1]


def test_a_log_of_another_member_is_refused() -> None:
    ours, theirs = MemoryDisk(), MemoryDisk()
    filled(ours, [900] * 12)
    wal = Wal.create(theirs, "/wal", b"somebody else", segment_bytes=SEGMENT)
    wal.append(None, [entry(n, b"x" * 900) for n in range(1, 10)])
    wal.append(None, [entry(10)])
    names = ours.listdir("/wal")
    overwrite(ours, f"/wal/{names[1]}", 0, theirs.read_file(f"/wal/{theirs.listdir('/wal')[1]}"))
    with pytest.raises(CorruptLog, match="does not follow"):
        reopened(ours)


def test_a_log_starts_where_a_restored_backend_ends() -> None:
    disk = MemoryDisk()
    wal = Wal.create(disk, "/wal", b"m", segment_bytes=SEGMENT, start=(100, 5))
    wal.append(None, [entry(101, term=6)])
    recovered = reopened(disk)[1]
    assert (recovered.released_index, recovered.released_term) == (100, 5)
    assert [e.index for e in recovered.entries] == [101]


def test_creation_is_all_or_nothing() -> None:
    for step in range(40):
        disk = MemoryDisk()
        left = step

        def die(operation: str, path: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise RuntimeError(f"power lost before {operation} {path}")

        disk.on_step = die
        try:
            Wal.create(disk, "/wal", b"m", segment_bytes=SEGMENT)
        except RuntimeError:
            for mode in CrashMode:
                image = disk.crash_image(mode, random.Random(step))
                if Wal.exists(image, "/wal"):
                    assert reopened(image)[1].metadata == b"m"
                else:
                    Wal.create(image, "/wal", b"m", segment_bytes=SEGMENT)
        else:
            assert step > 4
            return
    pytest.fail("creation never ended")


def test_a_crash_while_rolling_loses_nothing() -> None:
    for step in range(200):
        disk = MemoryDisk()
        wal = filled(disk, [900] * 9)
        assert wal.wants_next_segment()
        if step % 2:
            wal.prepare_next_segment()
        left = step // 2

        def die(operation: str, path: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise RuntimeError(f"power lost before {operation} {path}")

        disk.on_step = die
        done = False
        try:
            wal.append(None, [entry(10, b"ten")])
            done = True
        except RuntimeError:
            pass
        for mode in CrashMode:
            image = disk.crash_image(mode, random.Random(step))
            again, recovered = reopened(image)
            indexes = [e.index for e in recovered.entries]
            assert indexes in ([*range(1, 11)], [*range(1, 10)] if not done else [])
            again.append(None, [entry(len(indexes) + 1)])
        if done and step % 2:
            return
    pytest.fail("rolling never ended")


def test_a_failed_sync_is_reported_and_not_hidden() -> None:
    disk = MemoryDisk()
    wal = filled(disk, [100])
    disk.fail_next_sync()
    with pytest.raises(OSError, match="Input/output"):
        wal.append(None, [entry(2)])
    assert [e.index for e in reopened(disk)[1].entries] == [1]


def test_zeros_run_ahead_of_the_log_and_stay_clear_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_module, "_FIRST_ZEROS_BYTES", 512)
    monkeypatch.setattr(wal_module, "_ZEROS_BYTES", 1024)
    monkeypatch.setattr(wal_module, "_CLEAR_BYTES", 256)
    disk = MemoryDisk()
    wal = Wal.create(disk, "/wal", b"me", segment_bytes=8192)
    pieces = 0
    for index in range(1, 41):
        if wal.wants_zeros():
            wal.write_zeros()
            pieces += 1
        wal.append(None, [entry(index, bytes([index]) * 90)])
    wal.close()
    assert pieces >= 3
    recovered = Wal.open(disk, "/wal", segment_bytes=8192).recover()
    assert [e.data for e in recovered.entries] == [bytes([i]) * 90 for i in range(1, 41)]


def test_an_append_that_meets_the_zeros_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_module, "_FIRST_ZEROS_BYTES", 512)
    monkeypatch.setattr(wal_module, "_ZEROS_BYTES", 2048)
    monkeypatch.setattr(wal_module, "_CLEAR_BYTES", 128)
    monkeypatch.setattr(wal_module, "_PIECE", bytes(256))
    disk = MemoryDisk()
    wal = Wal.create(disk, "/wal", b"me", segment_bytes=8192)
    appended = threading.Event()

    def append() -> None:
        wal.append(None, [entry(1, b"a" * 600)])
        appended.set()

    # As soon as zeros are being written, somebody appends right into them.
    helper = threading.Thread(target=append)

    def on_step(operation: str, path: str) -> None:
        del path
        if operation == "write" and not helper.ident:
            helper.start()
            helper.join(0.2)
            assert not appended.is_set()

    disk.on_step = on_step
    wal.write_zeros()
    disk.on_step = None
    helper.join()
    assert appended.is_set()
    wal.append(None, [entry(2, b"b")])
    wal.close()
    recovered = Wal.open(disk, "/wal", segment_bytes=8192).recover()
    assert [e.data for e in recovered.entries] == [b"a" * 600, b"b"]
