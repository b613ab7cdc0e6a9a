"""The etcd v3 services: what a request must look like, and who answers it.

The problem: every RPC has an order of checks that clients can observe (metadata, quota, shape of the
request, then execution), and most RPCs are hot. So each service is one module of plain synchronous
functions that take request bytes and answer bytes, or hand the request to the replica and are done.

Vocabulary: a *request* is checked by ``validate`` from its shape alone, without the state of the
store; a *write* goes to the replica's batch and is answered when its entry is applied; a *read* is
served from the store once it may be linearizable. The state-dependent checks live in ``apply`` and
``mvcc``, because only they see the state at the point of the log where the operation takes effect.

Invariant: a refusal carries one of the texts of ``coord_server.errors``, the first that applies in
the API's order.

Left out: transport (``coord.rpc``), the meaning of revisions (``mvcc``), and time (``lease``).
"""
