"""Left sides of comparisons, for ``when()`` of a transaction.

    compare.version("k") == 0
    compare.create_revision("jobs/", prefix=True) < 100
    compare.missing("k")

See :mod:`coord.store.comparing` for what missing keys and ranges mean.
"""

from coord.store.comparing import (
    create_revision,
    exists,
    lease,
    missing,
    mod_revision,
    value,
    version,
)

__all__ = ["create_revision", "exists", "lease", "missing", "mod_revision", "value", "version"]
