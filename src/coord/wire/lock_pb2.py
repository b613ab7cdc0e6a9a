"""The message classes of ``proto/lock.proto``. Written by ``tools/proto.py``: do not edit."""

from coord.wire._pool import publish

publish("coord/wire/lock.proto", globals())
