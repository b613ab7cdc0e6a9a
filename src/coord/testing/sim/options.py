"""What a seed decides before anything runs: the size of the world, its speeds, and which faults it has.

Swarm testing (Groce et al., 2012): each seed switches each class of faults on or off, and draws its
strength, so that rare combinations come about and a fault that hides others is often absent.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from coord.testing.sim.chance import Chance

FAULT_CLASSES: Final = (
    "crash", "partition", "pause", "slow", "connection", "clog", "disk", "wall", "loss", "buggify",
    "admin",
)  # fmt: skip
_SIZES: Final = (1, 3, 3, 3, 5)
STRANGER: Final = "stranger"
"""A class with a draw of its own: somebody pretends to be a member."""
_STRANGE: Final = 0.3
GUISES: Final = ("cluster", "target", "life", "removed")
POST: Final = "post"
"""A class of its own: of what members send to each other most comes late, twice, or cut in two."""
BRIEF: Final = "brief"
"""No class: half as long, with half as many operations."""
RESIZE: Final = "resize"
"""A class of its own: the cluster grows and shrinks."""
_RESIZED: Final = 0.2
MOST_MEMBERS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything about a run but its plan. Units as the names say."""

    seed: int
    members: int = 1
    depth: str = "direct"
    """``direct``: whole messages between client and server; ``full``: HTTP/2."""
    clients: int = 3
    ops_per_client: int = 60
    burst: float = 1.0
    """How many operations a client makes in a row on average, almost without a pause."""
    keys: int = 6
    chaos_s: float = 40.0
    delay_mean_ms: float = 1.0
    loss: float = 0.0
    duplication: float = 0.0
    sync_mean_ms: float = 0.3
    segment_bytes: int = 64 * 1024
    flush_ops: int = 10_000
    compaction_batch: int = 1000
    catchup: int = 5000
    """How many applied entries members keep for those who lag; the others get a snapshot."""
    pre_vote: bool = True
    lease_ttl_s: int = 5
    drift: float = 0.0
    """Clocks run up to so much faster or slower."""
    faults: tuple[str, ...] = ()
    crash_mode: str = "subset"
    buggify: float = 0.0
    """How probably something happens at each visit of a failpoint; 0 for never."""
    lying_disks: bool = False
    watchers: int = 0
    spares: int = 0
    """Hosts beside those of the first members that may join."""
    committed_bytes: int = 256 * 1024
    """How much of the log a member applies in one go."""
    checkpoint_s: float = 0.0
    """How often the remaining time of leases goes through the log; 0 for never."""
    aim: float = 0.0
    """How many of the faults that strike one member strike whoever leads then."""
    rushes: int = 0
    """Around how many moments faults come together; 0: at any time."""
    focus: float = 1.0
    """At how many of the failpoints anything happens."""
    deaths: float = 0.1
    """How often what happens at a failpoint is the process's death."""
    wake_ms: float = 0.03
    """How long a thread takes to begin on average."""
    shuffled: float = 0.0
    """How much of what members send to each other comes late, and half as much a second time."""
    parts: float = 0.0
    """How many of the appends with entries are cut in two, of which the second may be lost."""
    tinkerers: int = 0
    """How many programs put changes of membership through the log that change nothing."""
    moves_s: float = 0.0
    """How long leadership stays where it is, on average, before it is moved on; 0: for good."""
    append_bytes: int = 1024 * 1024
    """How much of the log a message between members holds."""

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON takes them."""
        return {**asdict(self), "faults": list(self.faults)}

    @staticmethod
    def from_json(made: dict[str, Any]) -> Options:
        """Return what ``to_json`` returned. Raises TypeError for a name that is no option."""
        values: dict[str, Any] = dict(made)
        values["faults"] = tuple(made.get("faults", ()))
        return Options(**values)


def draw_options(
    seed: int,
    *,
    members: int | None = None,
    depth: str | None = None,
    also: tuple[str, ...] = (),
) -> Options:
    """Return the options of a seed. ``members`` and ``depth`` replace what it would draw.

    ``also`` may name RESIZE, which is drawn only where the number of members is, STRANGER, POST and BRIEF.
    """
    chance = Chance(seed, "options")
    faults = tuple(name for name in FAULT_CLASSES if chance.below(0.5))
    drawn = Options(
        seed=seed,
        members=_SIZES[chance.randrange(len(_SIZES))],
        depth="full" if chance.below(0.1) else "direct",
        clients=2 + chance.randrange(4),
        ops_per_client=30 + chance.randrange(60),
        burst=chance.choice((1.0, 4.0, 12.0)),
        keys=2 + chance.randrange(8),
        chaos_s=chance.uniform(20.0, 36.0),
        delay_mean_ms=chance.log_uniform(0.2, 100.0) if "loss" in faults else 0.5,
        loss=chance.uniform(0.0, 0.3) if "loss" in faults else 0.0,
        duplication=chance.uniform(0.0, 0.3) if "loss" in faults else 0.0,
        sync_mean_ms=chance.log_uniform(0.1, 100.0),
        segment_bytes=chance.choice((1024, 4096, 16 * 1024, 256 * 1024)),
        flush_ops=chance.choice((5, 100, 10_000)),
        compaction_batch=chance.choice((5, 50, 1000)),
        catchup=chance.choice((5, 40, 5000)),
        pre_vote=chance.below(0.8),
        lease_ttl_s=2 + chance.randrange(10),
        drift=0.1 if chance.below(0.5) else 0.0,
        faults=faults,
        crash_mode=chance.choice(("prefix", "subset", "torn", "torn", "none", "all")),
        buggify=chance.log_uniform(0.01, 0.25) if "buggify" in faults else 0.0,
        watchers=chance.randrange(4),
        aim=chance.choice((0.0, 0.5, 0.9)),
        rushes=chance.choice((0, 2, 3, 4)),
        focus=chance.choice((0.3, 0.3, 1.0)),
        deaths=chance.choice((0.1, 0.1, 0.5, 1.0)),
        wake_ms=chance.choice((0.03, 0.3, 3.0, 20.0)),
    )
    # These have draws of their own, so that what others draw stays what it was.
    drawn = replace(
        drawn,
        committed_bytes=Chance(seed, "options", "parts").choice((1, 300, 256 * 1024)),
        checkpoint_s=Chance(seed, "options", "checkpoints").choice((0.0, 0.0, 0.8, 1.5, 4.0)),
        shuffled=Chance(seed, "options", "mail").choice((0.0, 0.0, 0.03, 0.2)),
        parts=Chance(seed, "options", "parts of appends").choice((0.0, 0.0, 0.1, 0.8)),
        tinkerers=Chance(seed, "options", "tinkerers").choice((0, 0, 0, 2)),
        moves_s=Chance(seed, "options", "moves").choice((0.0, 0.0, 0.0, 0.3, 2.0)),
        append_bytes=Chance(seed, "options", "appends").choice((1, 300, 1024 * 1024)),
    )
    if BRIEF in also:
        drawn = replace(drawn, chaos_s=drawn.chaos_s / 2, ops_per_client=drawn.ops_per_client // 2)
    if POST in also:
        drawn = replace(drawn, shuffled=0.2, parts=0.8, append_bytes=1)
    if Chance(seed, "options", STRANGER).below(_STRANGE) or STRANGER in also:
        drawn = replace(drawn, faults=(*drawn.faults, STRANGER))
    resized = members is None and Chance(seed, "options", RESIZE).below(_RESIZED)
    if members is not None:
        drawn = replace(drawn, members=members)
    if resized or RESIZE in also:
        spares = max(0, MOST_MEMBERS - drawn.members)
        drawn = replace(drawn, faults=(*drawn.faults, RESIZE), spares=spares)
    return drawn if depth is None else replace(drawn, depth=depth)
