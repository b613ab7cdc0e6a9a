"""Configuration that changes while programs run (spec recipes 18).

* A *source* (:mod:`.sources`) keeps what the store holds, as one JSON document: a single key, or a tree of keys.
* A *reader* (:mod:`.reader`) decodes and validates each new document, and keeps the last good one.
* The *config* (:mod:`.config`) is what applications hold: it reads, publishes and rolls back.
* A *snapshot file* (:mod:`.snapshot`) lets a program start while the store is away.

A canary is a second document beside the first. It counts as long as it is the newer of the two, so publishing ends it
without touching it, and no reader ever needs both keys at one revision.
"""

from coord.recipes.config.config import Config
from coord.recipes.config.errors import ConfigInvalid, ConfigUnavailable
from coord.recipes.config.reader import ConfigState

__all__ = ["Config", "ConfigInvalid", "ConfigState", "ConfigUnavailable"]
