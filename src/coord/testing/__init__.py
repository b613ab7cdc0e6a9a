"""What proves the rest right, importable so that users can prove their own programs.

The problem: a coordination system is trusted for what happens in the rare schedules, and those are
neither found by example tests nor judged by eye. So this room holds the judges.

Vocabulary: a *model* is the store said as simply as possible, one request after the other, without
speed, disk or network; whatever the server answers must be what the model answers. A *history*
(``history``) is what clients of a run sent and received, a *recorded client* (``recording``) writes it,
and a *checker* (``check``) tells whether it keeps what the store promises:

    recorder = Recorder()
    async with coord.connect() as client:
        main = RecordedClient(client, recorder, "main")
        async with main.witness() as witness:
            await program(client, recorder)  # with a RecordedClient for each of its tasks
            last = await main.put("end", "")
            await witness.read_to(last.revision, timeout=10)
    for verdict in judge(recorder.records).values():
        verdict.raise_if_bad()

Invariants: nothing here is imported by the product but ``chaos``, by ``coord cluster``, and a model shares no code with what it judges
beyond the wire messages.
"""
