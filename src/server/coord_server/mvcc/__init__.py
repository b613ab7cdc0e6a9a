"""The state machine's memory: every key at every revision that has not been compacted away.

The problem. Coordination needs more than a map: a reader must be able to ask for the state as of a
moment, a watcher for every change since one, and both must get exact answers while writers go on. So
nothing is overwritten. Each change is a record under its revision, and the map of today is only the
newest record of each key (Bernstein and Goodman, "Multiversion Concurrency Control", 1983; etcd API:
KV).

Vocabulary. A *revision* numbers the requests that changed something; a *sub revision* numbers the
changes inside one. A *record* is a KeyValue message stored under (revision, sub revision); a
*tombstone* is the record of a delete. A *history* is what the index knows of one key: its counters
and the revisions of its records. A *field* is a record as it stands inside a RangeResponse, tag and
length included; the very same bytes are the body of a PUT event, so one encoding serves the answer
of a read, the watchers and the disk. A *compaction* gives up all revisions below one; its *sweep*
then removes, in small steps, the records that nobody can ask for any more.

The modules, from the bottom up: ``revision`` and ``fields`` (keys and bytes of records), ``events``
(changes, and the recent ones in memory), ``index`` (keys to histories), ``records`` (fields: cached,
unflushed, or in the backend), ``load`` (both again after a start), ``ranges`` (Range with every
option), ``past`` (changes of a span of revisions), ``compact`` (the sweep), ``store`` (all of them as
one state), ``writes`` and ``txn`` (check, then change; ``key_set`` for what a transaction deletes),
``hub`` (who hears of which change).

Invariants. The index is complete: a record that it does not name does not exist. Every record that
the backend does not have yet is in memory. Between two changes of one request no reader runs. What a
request would refuse, it refuses before its first change. The revision never goes back, not even when
everything was compacted away and the process has restarted.

Left out: when to write to the backend and when to sweep (the replica decides), who may see what, and
time: leases appear here only as a number in a record and as something that keys hang on.
"""
