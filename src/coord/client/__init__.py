"""The one way in: :func:`connect` gives a :class:`Client`.

A client is one class made of parts, a file each: what it does with keys, with leases, with sessions and recipes, and
with the cluster. All of them work on the same :class:`coord.core.Core`.
"""

from coord.client.client import Client
from coord.client.connecting import Connecting, connect

__all__ = ["Client", "Connecting", "connect"]
