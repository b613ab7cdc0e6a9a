"""The message classes of ``proto/election.proto``. Written by ``tools/proto.py``: do not edit."""

from coord.wire._pool import publish

publish("coord/wire/election.proto", globals())
