"""What survives a crash: the log, the backend and the directory that holds both.

The problem. An answer may leave only when its operation can no longer be lost, and a disk is slow,
reorders what it was not told to order, and may stop in the middle of a write. So the room keeps two
files with two different bargains:

* the *write-ahead log* (``wal.py``) takes one write per group of operations and is durable when
  ``append`` returns. It is the only thing an answer waits for.
* the *backend* (``backend.py``) is the ordered store of MVCC records. It is written in the
  background, a batch at a time, and each batch names the log index that it contains. After a crash
  the log replays what the backend lacks, so the backend may lag but may never be torn.

Vocabulary. A *batch* is what one call writes atomically. A *segment* is one preallocated file of the
log. To *release* an index is to say that the backend holds everything up to it, so that older
segments may go. A *torn tail* is the last write of a crashed process, of which only some bytes
arrived.

Invariants.

1. ``Wal.append`` and ``Backend.write`` are durable on return, or raise and the node stops. A failed
   sync is never tried again: the kernel may have dropped the pages and marked them clean.
2. The log never has two writes under way. Hence a valid frame proves that all frames before it had
   been synced, and a bad frame may be cut only if nothing follows it.
3. A backend batch holds changes and the index they stand for, or neither.
4. Nothing is created under its final name before its content is on disk.

Two more ways lead out of the backend. A *view* is its content at one moment, held while batches go on; a
*snapshot file* (``snapshot_file.py``) is a view written down for somebody else, with a hash behind it.

Every file is reached through ``Disk`` (``disk.py``); LMDB alone maps its own file. The twin
``MemoryDisk`` keeps what was synced apart from what was not and can show the disk as a crash would
have left it. Left out: any knowledge of keys, revisions, terms beyond the numbers that the log needs.
"""
