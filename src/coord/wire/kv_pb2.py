"""The message classes of ``proto/kv.proto``. Written by ``tools/proto.py``: do not edit."""

from coord.wire._pool import publish

publish("coord/wire/kv.proto", globals())
