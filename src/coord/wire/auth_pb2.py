"""The message classes of ``proto/auth.proto``. Written by ``tools/proto.py``: do not edit."""

from coord.wire._pool import publish

publish("coord/wire/auth.proto", globals())
