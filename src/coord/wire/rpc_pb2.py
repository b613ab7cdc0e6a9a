"""The message classes of ``proto/rpc.proto``. Written by ``tools/proto.py``: do not edit."""

from coord.wire._pool import publish

publish("coord/wire/rpc.proto", globals())
