"""Left sides of comparisons, for ``when()`` of a transaction.

    compare.version("k") == 0
    compare.create_revision("jobs/", prefix=True) < 100
    compare.missing("k")

See :mod:`coord.store.comparing` for what missing keys and ranges mean.
"""

from coord.store.comparing import compare as _compare

create_revision = _compare.create_revision
exists = _compare.exists
lease = _compare.lease
missing = _compare.missing
mod_revision = _compare.mod_revision
value = _compare.value
version = _compare.version

__all__ = ["create_revision", "exists", "lease", "missing", "mod_revision", "value", "version"]
