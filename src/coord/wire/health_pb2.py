"""The message classes of ``proto/health.proto``. Written by ``tools/proto.py``: do not edit."""

from coord.wire._pool import publish

publish("coord/wire/health.proto", globals())
