"""A plan: everything that is done to a world, item by item, as JSON.

An item is an operation of a client's script or a fault. Taking one away leaves all others as they are,
which is what the shrinker does. Items are drawn from the seed once; a pinned plan needs no drawing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from coord.testing.sim.chance import Chance
from coord.testing.sim.options import GUISES, MOST_MEMBERS, RESIZE, STRANGER, Options
from coord.testing.sim.scripts import Op, draw_script

# How long a sync may still take when all faults are over.
_SLOW_TAIL_S: Final = 3.0
# In a rush of faults: how long after its beginning on average, and how many faults stay out of it.
_RUSH_S: Final = 0.7
_OUT_OF_RUSH: Final = 0.25
# What can happen to whoever leads at that moment. Disks that fail are a minority's, and stay that.
_AIMED: Final = frozenset(("crash", "partition", "pause", "slow", "slow_disk", "reset", "forget"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong ``at`` a moment of the chaos phase, on some members, ``lasts`` seconds."""

    id: int
    at: float
    kind: str
    on: tuple[str, ...]
    lasts: float = 0.0
    args: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Options, scripts and faults: enough to run a world again."""

    options: Options
    ops: tuple[Op, ...]
    faults: tuple[Fault, ...]

    def to_json(self) -> str:
        """Return the plan as a JSON text, an item per line."""
        lines = ['{"options": ' + json.dumps(self.options.to_json()) + ",", '"ops": [']
        lines.append(",\n".join(json.dumps(asdict(op)) for op in self.ops))
        lines += ["],", '"faults": [']
        lines.append(",\n".join(json.dumps(asdict(fault)) for fault in self.faults))
        lines.append("]}")
        return "\n".join(lines) + "\n"

    @staticmethod
    def from_json(text: str) -> Plan:
        """Return what ``to_json`` returned. Raises ValueError or TypeError for anything else."""
        made = json.loads(text)
        faults: list[Fault] = []
        for item in made["faults"]:
            values: dict[str, Any] = dict(item)
            values["on"] = tuple(item["on"])
            faults.append(Fault(**values))
        return Plan(
            options=Options.from_json(made["options"]),
            ops=tuple(Op(**op) for op in made["ops"]),
            faults=tuple(faults),
        )

    def __len__(self) -> int:
        return len(self.ops) + len(self.faults)


def member_names(options: Options) -> tuple[str, ...]:
    """Return the hosts of the members, those included that are none at first."""
    return tuple(f"10.0.0.{number + 1}" for number in range(options.members + options.spares))


def founder_names(options: Options) -> tuple[str, ...]:
    """Return the hosts of those who are members from the beginning."""
    return member_names(options)[: options.members]


def client_names(options: Options) -> tuple[str, ...]:
    """Return the hosts of the client programs."""
    return tuple(f"10.0.1.{number + 1}" for number in range(options.clients))


def draw_plan(options: Options) -> Plan:
    """Return the plan of a seed."""
    ops: list[Op] = []
    for name in client_names(options):
        ops += draw_script(options, name, first=len(ops))
    drawn: list[Fault] = []
    for kind in options.faults:
        if kind in _DRAWERS:
            drawn += _DRAWERS[kind](options, Chance(options.seed, "faults", kind))
    if RESIZE in options.faults:
        # A member that refuses to start costs a cluster of two for good.
        drawn = [fault for fault in drawn if fault.kind != "rot"]
    ordered = sorted(_aimed(options, drawn), key=lambda fault: (fault.at, fault.kind))
    faults = tuple(
        Fault(id=number, at=f.at, kind=f.kind, on=f.on, lasts=f.lasts, args=f.args)
        for number, f in enumerate(ordered)
    )
    return Plan(options=options, ops=tuple(ops), faults=faults)


def _aimed(options: Options, faults: list[Fault]) -> list[Fault]:
    """Let some of the faults that were to strike one member strike the leader instead."""
    chance = Chance(options.seed, "aim")
    members = member_names(options)
    return [
        replace(fault, args={**fault.args, "leader": True})
        if chance.below(options.aim)
        and fault.kind in _AIMED
        and len(fault.on) == 1
        and fault.on[0] in members
        else fault
        for fault in faults
    ]


def _moment(options: Options, chance: Chance) -> float:
    """Return when a fault happens: at any time, or where faults come together."""
    at = chance.uniform(0.0, options.chaos_s)
    if not options.rushes or chance.below(_OUT_OF_RUSH):
        return at
    rush = Chance(options.seed, "rush", str(chance.randrange(options.rushes)))
    begins = rush.uniform(0.0, options.chaos_s)
    return min(begins + chance.exponential(_RUSH_S), options.chaos_s)


def _fault(at: float, kind: str, on: tuple[str, ...], lasts: float = 0.0, **args: object) -> Fault:
    return Fault(id=0, at=round(at, 3), kind=kind, on=on, lasts=round(lasts, 3), args=args)


def _crashes(options: Options, chance: Chance) -> list[Fault]:
    names = member_names(options)
    faults: list[Fault] = []
    for _ in range(chance.randrange(21)):
        on = names if chance.below(0.2) else (chance.choice(names),)
        down_s = chance.log_uniform(0.05, 30.0 if options.members > 1 else 3.0)
        faults.append(
            _fault(
                _moment(options, chance),
                "crash",
                on,
                down_s,
                power=chance.below(0.7),
                # At once, or when the disk begins its n-th next operation.
                operations=0 if chance.below(0.3) else 1 + chance.randrange(40),
            )
        )
    return faults


def _partitions(options: Options, chance: Chance) -> list[Fault]:
    names = member_names(options)
    # The first two weigh most: they depose a leader, who may be slow to notice.
    kinds: tuple[str, ...] = (
        "isolate", "isolate", "split", "split", "split", "ring", "bridge", "clients", "swizzle",
    )  # fmt: skip
    if options.members == 1:
        kinds = ("isolate", "clients", "swizzle")
    faults: list[Fault] = []
    for _ in range(chance.randrange(13)):
        lasts = chance.log_uniform(0.2, 20.0)
        shape = chance.choice(kinds)
        on: tuple[str, ...] = (chance.choice(names),)
        if shape == "split":
            on = tuple(chance.some(names, 1 + chance.randrange(len(names) // 2)))
        one_way = chance.below(0.3) and shape in {"isolate", "clients"}
        # A firewall that refuses tells both ends at once; one that drops leaves them to find out.
        refuses = chance.below(0.6) and not one_way and shape != "swizzle"
        at = _moment(options, chance)
        faults.append(
            _fault(at, "partition", on, lasts, shape=shape, one_way=one_way, refuses=refuses)
        )
    return faults


def _pauses(options: Options, chance: Chance) -> list[Fault]:
    names = member_names(options) + client_names(options)
    return [
        _fault(
            _moment(options, chance),
            "pause",
            (chance.choice(names),),
            chance.log_uniform(0.1, 30.0),
        )
        for _ in range(chance.randrange(9))
    ]


def _slowness(options: Options, chance: Chance) -> list[Fault]:
    names = member_names(options) + client_names(options)
    return [
        _fault(
            _moment(options, chance),
            "slow",
            (chance.choice(names),),
            chance.log_uniform(0.1, 30.0),
            factor=round(chance.log_uniform(10.0, 1000.0)),
        )
        for _ in range(chance.randrange(5))
    ]


def _connections(options: Options, chance: Chance) -> list[Fault]:
    names = member_names(options)
    return [
        _fault(
            _moment(options, chance),
            chance.choice(("reset", "forget")),
            (chance.choice(names),),
        )
        for _ in range(chance.randrange(20))
    ]


def _clogs(options: Options, chance: Chance) -> list[Fault]:
    names = member_names(options)
    others = names + client_names(options)
    faults: list[Fault] = []
    for _ in range(chance.randrange(20)):
        pair = (chance.choice(names), chance.choice(others))
        if pair[0] != pair[1]:
            on = pair if chance.below(0.5) else (pair[1], pair[0])
            lasts = chance.log_uniform(0.05, 5.0)
            faults.append(_fault(_moment(options, chance), "clog", on, lasts))
    return faults


def _disks(options: Options, chance: Chance) -> list[Fault]:
    # A majority keeps good disks; a single member's may fail and fill up too, but not rot. Any may be slow.
    names = member_names(options)
    minority = chance.some(names, max(1, (len(names) - 1) // 2))
    faults: list[Fault] = []
    for _ in range(chance.randrange(10)):
        at = _moment(options, chance)
        kind = chance.choice(("eio", "full", "slow_disk", "slow_disk", "slow_disk", "slow_disk"))
        on = (chance.choice(names if kind == "slow_disk" else minority),)
        if kind == "eio":
            faults.append(_fault(at, kind, on))
        elif kind == "full":
            left = chance.randrange(options.segment_bytes)
            faults.append(_fault(at, kind, on, chance.log_uniform(0.2, 10.0), left=left))
        else:
            # What began before the end must not take much longer than the end.
            longest = min(30.0, options.chaos_s - at + _SLOW_TAIL_S)
            sync_s = round(chance.log_uniform(0.03, longest), 4)
            lasts = chance.log_uniform(0.5, 10.0)
            faults.append(_fault(at, kind, on, lasts, sync_s=sync_s))
    if options.members > 1 and chance.below(0.3):
        faults.append(_fault(_moment(options, chance), "rot", (minority[0],)))
    return faults


def _walls(options: Options, chance: Chance) -> list[Fault]:
    # The members' clocks are the ones that could matter.
    names = member_names(options) * 2 + client_names(options)
    return [
        _fault(
            _moment(options, chance),
            "wall",
            (chance.choice(names),),
            seconds=round(chance.uniform(-3600.0, 3600.0)),
        )
        for _ in range(chance.randrange(9))
    ]


def _admins(options: Options, chance: Chance) -> list[Fault]:
    names = member_names(options)
    if len(names) == 1:
        return []
    faults: list[Fault] = []
    # Who has a bad disk is who gets replaced: two of three may not be gone at once.
    bad = Chance(options.seed, "faults", "disk").some(names, max(1, (len(names) - 1) // 2))
    for _ in range(chance.randrange(12)):
        at = _moment(options, chance)
        if chance.below(0.8):
            faults.append(_fault(at, "admin", (chance.choice(names),), action="move"))
        else:
            learner = chance.below(0.6)
            faults.append(_fault(at, "admin", (bad[0],), action="replace", learner=learner))
    return faults


def _resizes(options: Options, chance: Chance) -> list[Fault]:
    """Draw a walk between one member and the most; which host comes or goes is a wish."""
    names = member_names(options)
    faults: list[Fault] = []
    size = options.members
    at = chance.uniform(0.0, options.chaos_s / 4)
    while at < options.chaos_s:
        target = 1 + chance.randrange(MOST_MEMBERS)
        while size != target:
            action = "add" if target > size else "remove"
            learner = chance.below(0.5)
            on = (chance.choice(names),)
            faults.append(_fault(at, "admin", on, action=action, learner=learner))
            size += 1 if target > size else -1
            at += chance.exponential(1.0)
        at += chance.uniform(1.0, 8.0)
    return faults


def _strangers(options: Options, chance: Chance) -> list[Fault]:
    names = member_names(options)
    return [
        _fault(
            chance.uniform(0.0, options.chaos_s),
            STRANGER,
            (chance.choice(names),),
            guise=chance.choice(GUISES),
        )
        for _ in range(2 + chance.randrange(8))
    ]


_DRAWERS: Final = {
    "crash": _crashes,
    "partition": _partitions,
    "pause": _pauses,
    "slow": _slowness,
    "connection": _connections,
    "clog": _clogs,
    "disk": _disks,
    "wall": _walls,
    "admin": _admins,
    RESIZE: _resizes,
    STRANGER: _strangers,
}
