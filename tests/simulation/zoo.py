"""The zoo: every planted bug, and how many seeds the simulator needs to notice it.

``python -m tests.simulation.zoo --seeds 60 [--only NAME,...] [--json FILE]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
from typing_extensions import override

from coord.testing.sim import draw_options, draw_plan, run
from coord.testing.sim.options import POST, RESIZE, STRANGER
from tests.server.raft.mutants import MUTANTS as RAFT_MUTANTS
from tests.simulation.cluster_mutants import CLUSTER_MUTANTS
from tests.simulation.mutants import MUTANTS

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Animal:
    """A planted bug, how large a cluster it needs, and which faults."""

    name: str
    plant: Plant
    members: int
    also: tuple[str, ...] = ()
    calm: bool = False
    """Whether ``also`` is all that happens: other faults would keep what the bug needs from happening."""


# Found only where clusters grow and shrink, where somebody pretends to be a member, or where the post is
# at its worst.
_ALSO = {
    "overtaken_by_a_smaller_quorum": (RESIZE,),
    "leaves_without_a_word": (RESIZE,),
    "strangers_are_heard": (STRANGER,),
    "earlier_lives_are_heard": (STRANGER,),
    "notice commits any entry": (POST,),
    "any question vouches": ("partition",),
}

# In a cluster of three what the one does is right, and the other needs a leader who leaves one of two behind.
_MEMBERS = {"any question vouches": 5, "leaves_without_a_word": 2}

_CALM = {"leaves_without_a_word", "any question vouches"}


ANIMALS: dict[str, Animal] = {
    animal.name: animal
    for animal in (
        *(Animal(name, plant, 1) for name, plant in MUTANTS.items()),
        *(
            Animal(name, plant, _MEMBERS.get(name, 3), _ALSO.get(name, ()), name in _CALM)
            for name, plant in CLUSTER_MUTANTS.items()
        ),
        *(
            Animal(
                m.name.replace(" ", "_"),
                m.plant,
                _MEMBERS.get(m.name, 3),
                _ALSO.get(m.name, ()),
                m.name in _CALM,
            )
            for m in RAFT_MUTANTS
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunt:
    """What became of the search for one bug: by which rule it was noticed, empty if by none."""

    seeds: int
    """How many seeds it took, or how many were tried in vain."""
    rule: str
    cpu_s: float = 0.0

    @override
    def __str__(self) -> str:
        if not self.rule:
            return f"not found in {self.seeds}"
        return f"{self.seeds:4} seeds  {self.rule}"


def seeds_to_find(animal: Animal, seeds: Sequence[int]) -> tuple[int, str]:
    """Return how many seeds it took to notice the bug, and the rule that did; 0 if none did.

    A seed that fails without the bug as well proves nothing, and is told of.
    """
    for count, seed in enumerate(seeds, 1):
        options = draw_options(seed, members=animal.members, depth="direct", also=animal.also)
        if animal.calm:
            options = replace(options, faults=animal.also)
        plan = draw_plan(options)
        with pytest.MonkeyPatch.context() as patch:
            animal.plant(patch)
            verdict = run(plan).verdict
        if not verdict:
            continue
        alone = run(plan).verdict
        if not alone:
            return count, verdict
        sys.stderr.write(f"seed {seed} with {animal.members} members fails by itself: {alone}\n")
    return 0, ""


def hunt(animal: Animal, *, first: int, most: int) -> Hunt:
    """Look for a bug in seeds from ``first`` on; those before it were tried in vain."""
    began = time.process_time()
    count, rule = seeds_to_find(animal, range(first, first + most))
    return Hunt(
        seeds=first + (count or most), rule=rule, cpu_s=round(time.process_time() - began, 1)
    )


def summary(hunts: Mapping[str, Hunt]) -> str:
    """Return how many were found, and how quickly."""
    counts = [each.seeds for each in hunts.values() if each.rule]
    median = statistics.median(counts) if counts else 0
    return f"found {len(counts)} of {len(hunts)}, median {median:g} seeds"


def kept(path: Path) -> dict[str, Hunt]:
    """Return the figures of earlier hunts."""
    if not path.exists():
        return {}
    return {name: Hunt(**figures) for name, figures in json.loads(path.read_text()).items()}


def keep(path: Path, hunts: Mapping[str, Hunt]) -> None:
    """Write figures down, in the order of the zoo."""
    made = {name: asdict(hunts[name]) for name in ANIMALS if name in hunts}
    path.write_text(json.dumps(made, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Go through the zoo; 0 if every animal was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.zoo")
    parser.add_argument("--seeds", type=int, default=60, help="how many to try at most")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", default="", help="names, with commas between")
    parser.add_argument("--json", default="", help="a file for the figures; others in it stay")
    given = parser.parse_args(arguments)
    names = given.only.split(",") if given.only else list(ANIMALS)
    hunts: dict[str, Hunt] = {}
    for name in names:
        hunts[name] = hunt(ANIMALS[name], first=given.first, most=given.seeds)
        sys.stdout.write(f"{name:45} {hunts[name]}  {hunts[name].cpu_s:.1f} s\n")
        sys.stdout.flush()
        if given.json:
            path = Path(given.json)
            keep(path, {**kept(path), name: hunts[name]})
    sys.stdout.write(f"{summary(hunts)}\n")
    return int(not all(each.rule for each in hunts.values()))


if __name__ == "__main__":
    sys.exit(main())
