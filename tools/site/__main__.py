"""Build the documentation site: ``python -m tools.site [DIRECTORY]``, by default into ``site/``."""

# ruff: noqa: INP001 - a script, in a folder that is no package.

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from tools.site.stage import ROOT, stage


def build(site: Path, staged: Path) -> int:
    """Put the pages together below ``staged``, make the site from them, and move it to ``site``."""
    config = stage(staged)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    command += ["--config-file", config.name]
    done = subprocess.run(command, cwd=staged, check=False)  # noqa: S603 - words of our own
    if done.returncode == 0:
        shutil.rmtree(site, ignore_errors=True)
        site.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(staged / "site", site)
    return done.returncode


def main() -> int:
    """Build, and return zensical's exit code: not 0 when a link or a page of the navigation is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", nargs="?", type=Path, default=ROOT / "site")
    parser.add_argument("--staged", type=Path, default=ROOT / "build" / "docs")
    given = parser.parse_args()
    return build(given.site.resolve(), given.staged.resolve())


if __name__ == "__main__":
    sys.exit(main())
