"""Many thousand generated scripts, without pytest: ``python -m tests.compat.longrun --scripts 20000``.

Prints each unexplained difference with what led to it, then how many there were; exit status 1 if any.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.compat.differences import is_explained
from tests.compat.generator import MAX_TXN_OPS, Script, wants_hashes
from tests.compat.pair import Pair, pair_of_servers
from tests.support.peers import RELEASES
from tests.support.servers import etcd_versions

_TOLD_STEPS = 15
_PROGRESS_S = 60.0


@dataclass(slots=True)
class Tally:
    """What came of it, over all lanes."""

    scripts: int = 0
    requests: Counter[str] = field(default_factory=Counter[str])
    refused: int = 0
    different: list[int] = field(default_factory=list[int])

    def add(self, other: Tally) -> None:
        """Take in what another lane found."""
        self.scripts += other.scripts
        self.requests += other.requests
        self.refused += other.refused
        self.different += other.different


def compare(pair: Pair, seed: int, tally: Tally | None = None) -> str:
    """Run one script; return what happened up to the first unexplained difference, "" if none."""
    script = Script(seed, pair.reset(forget=wants_hashes(seed)))
    told: list[str] = []
    for number, step in enumerate(script.steps):
        ours, theirs = pair.ask(step)
        told.append(f"{number:3} {step}\n    -> {ours}")
        if tally is not None:
            tally.requests[step.rpc.path] += 1
            tally.refused += bool(theirs.code)
        if not is_explained(step, ours, theirs, release=pair.version):
            return "\n".join([*told[-_TOLD_STEPS:], f"etcd {theirs}"])
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Run them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.compat.longrun", description=__doc__)
    parser.add_argument("--scripts", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first script")
    parser.add_argument("--version", choices=etcd_versions(), default=RELEASES[0], help="of etcd")
    parser.add_argument("--lanes", type=int, default=2, help="pairs of servers side by side")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    seeds = iter(range(options.seed, options.seed + options.scripts))
    lock = threading.Lock()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.lanes) as pool:
        lanes = [
            pool.submit(_lane, Path(scratch) / str(number), options.version, _shared(seeds, lock))
            for number in range(options.lanes)
        ]
        tally = Tally()
        for lane in lanes:
            tally.add(lane.result())
    seconds = time.monotonic() - begun
    for path, count in sorted(tally.requests.items()):
        print(f"{count:9} {path}")
    print(
        f"{tally.scripts} scripts from seed {options.seed} against etcd {options.version}: "
        f"{tally.requests.total()} requests, {tally.refused} of them refused, "
        f"{len(tally.different)} scripts with a difference {sorted(tally.different)}, {seconds:.0f} s"
    )
    return 1 if tally.different else 0


def _shared(seeds: Iterator[int], lock: threading.Lock) -> Iterator[int]:
    while True:
        with lock:
            seed = next(seeds, None)
        if seed is None:
            return
        yield seed


def _lane(directory: Path, version: str, seeds: Iterator[int]) -> Tally:
    tally = Tally()
    flag = f"--max-txn-ops={MAX_TXN_OPS}"
    next_line = time.monotonic() + _PROGRESS_S
    with pair_of_servers(directory, flag, version=version, carrier="native") as pair:
        for seed in seeds:
            story = compare(pair, seed, tally)
            tally.scripts += 1
            if story:
                tally.different.append(seed)
                print(f"seed {seed}, etcd {version}:\n{story}\n", flush=True)
            if time.monotonic() > next_line:
                next_line += _PROGRESS_S
                print(f"{directory.name}: {tally.scripts} scripts, at seed {seed}", flush=True)
    return tally


if __name__ == "__main__":
    sys.exit(main())
