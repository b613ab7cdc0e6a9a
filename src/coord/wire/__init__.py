"""The words spoken on the wire: the etcd v3 messages, their RPCs, and fast codecs for the hot few.

The problem. Every etcd client ships generated protobuf code. Such code pins the protobuf runtime of
its users, and it registers files called ``kv.proto`` or ``rpc.proto`` in one process-wide pool, where
the second package to arrive breaks. This room does neither: descriptors written by us are package
data, and classes are built from them in a private pool (``_pool``).

The vocabulary. ``kv_pb2``, ``auth_pb2``, ``rpc_pb2``, ``lock_pb2``, ``election_pb2`` and
``health_pb2`` hold message classes under the names that the API gives them, upper-case ``ID`` and
``TTL`` included; the ``.pyi`` beside each tells the type checkers. ``methods`` has one ``Rpc`` record
per call: path, request, response, who streams. ``fast`` encodes and decodes the few messages that
dominate a profile without protobuf.

The invariants. Field numbers, names and types are those of the API and never change. What ``fast``
encodes equals protobuf's own output byte for byte, and what it decodes it decodes to the same values;
when a message is anything but plain it answers None and the caller asks protobuf. Nothing here does
I/O beyond reading the package's own data, and nothing touches the default descriptor pool.

Left out: gRPC itself (framing, status, metadata: ``coord.rpc``) and the meaning of the messages.

The sources are ``proto/*.proto``; ``tools/proto.py`` writes ``descriptors.bin`` and the ``*_pb2``
modules from them.
"""
