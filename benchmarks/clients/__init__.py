"""Load generators, each a process of its own that prints one JSON line: ops, seconds, p50_us."""
