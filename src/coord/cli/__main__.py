"""``python -m coord.cli``: the command ``coord`` where its script is not on the path."""

from __future__ import annotations

from coord.cli import main

if __name__ == "__main__":
    main()
