"""A client whose every call is written down: put it where a program takes a client, then judge the run.

    recorder = Recorder()
    async with coord.connect() as client:
        recorded = RecordedClient(client, recorder, "c1")
        await recorded.put("k", "v")

Invariants: what is recorded is what the program was told, no more. An outcome is ``ok`` only with an answer,
``fail`` only if the call certainly changed nothing, and ``info`` whenever there is doubt.

Left out: what the client does by itself (renewals, entering a line). Its traces in the store are found
through a recorded watch of everything, ``RecordedClient.witness``.
"""

from coord.testing.recording.client import RecordedClient, RecordedTxn
from coord.testing.recording.lists import ListClient
from coord.testing.recording.outcome import outcome_of, record_call
from coord.testing.recording.tenure import RecordedElection, RecordedMutex, RecordedTenure
from coord.testing.recording.watch import RecordedWatch

__all__ = [
    "ListClient",
    "RecordedClient",
    "RecordedElection",
    "RecordedMutex",
    "RecordedTenure",
    "RecordedTxn",
    "RecordedWatch",
    "outcome_of",
    "record_call",
]
