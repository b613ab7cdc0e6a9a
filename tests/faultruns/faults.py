"""What is done to the cluster: whom it hits, and how it is healed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coord.testing.chaos import Cluster, Links, Rule
from coord.testing.chaos.links import CLIENTS
from tests.faultruns.lines import Notes, now

HELD = Rule(held=True)
_LEADER_S = 60.0


@dataclass(frozen=True, slots=True)
class Ground:
    """The cluster, and what is between each worker and the members."""

    cluster: Cluster
    lines: list[Links]


@dataclass(frozen=True, slots=True)
class Fault:
    """Begin it: who is hit, and what heals it."""

    text: str
    heal: Callable[[], Awaitable[None]]


async def leader_kill(ground: Ground, rng: random.Random) -> Fault:
    """Kill -9 to the leader; it is started again."""
    cluster = ground.cluster
    leader = await cluster.leader(within=_LEADER_S)
    await leader.kill()
    return Fault(f"kill {leader.name}, the leader", lambda: cluster.start(leader.name))


async def freeze(ground: Ground, rng: random.Random) -> Fault:
    """SIGSTOP to a member, most often to the leader."""
    cluster = ground.cluster
    leader = await cluster.leader(within=_LEADER_S)
    member = leader if rng.random() < 0.6 else rng.choice(cluster.others(leader))
    role = "the leader" if member is leader else "a follower"
    member.pause()

    async def heal() -> None:
        member.resume()

    return Fault(f"freeze {member.name}, {role}", heal)


async def partition(ground: Ground, rng: random.Random) -> Fault:
    """Hold back the bytes of one direction.

    Between the leader and a follower; between all workers and a member; or between a worker and all members, whose
    sessions may then end while it cannot know.
    """
    cluster = ground.cluster
    leader = await cluster.leader(within=_LEADER_S)
    follower = rng.choice(cluster.others(leader))
    turned = rng.random() < 0.5
    kind = rng.choice(["peers", "member", "worker"])
    member = rng.choice([leader, follower])
    number = rng.randrange(len(ground.lines))
    if kind == "peers":
        _hold(cluster.links, leader.name, follower.name, turned=turned)
        ends = (f"{leader.name} (leader)", follower.name)
    elif kind == "member":
        for links in ground.lines:
            _hold(links, CLIENTS, member.name, turned=turned)
        ends = ("all workers", f"{member.name} ({'leader' if member is leader else 'follower'})")
    else:
        for each in cluster.members:
            _hold(ground.lines[number], CLIENTS, each, turned=turned)
        ends = (f"worker {number}", "all members")

    async def heal() -> None:
        for links in (cluster.links, *ground.lines):
            links.heal()

    source, target = reversed(ends) if turned else ends
    return Fault(f"nothing from {source} to {target}", heal)


def _hold(links: Links, source: str, target: str, *, turned: bool) -> None:
    links.set(*((target, source) if turned else (source, target)), HELD)


async def restart(ground: Ground, rng: random.Random) -> Fault:
    """End all members, by SIGTERM or by kill -9; they are started again together."""
    cluster = ground.cluster
    await cluster.leader(within=_LEADER_S)
    if rng.random() < 0.5:
        await cluster.kill()
        text = "kill all"
    else:
        await cluster.stop()
        text = "stop all"
    return Fault(text, cluster.start)


FAULTS: dict[str, Callable[[Ground, random.Random], Awaitable[Fault]]] = {
    "leader-kill": leader_kill,
    "freeze": freeze,
    "partition": partition,
    "restart": restart,
}


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault: how long after the one before was healed, of which kind, and how long it lasts."""

    after_s: float
    kind: str
    lasts_s: float


def plan(kind: str, seconds: float, rng: random.Random) -> list[Planned]:
    """Return faults for a run: one every 10 to 20 s, each healed after 2 to 6 s."""
    planned: list[Planned] = []
    at = 0.0
    while True:
        lasts = rng.uniform(2, 6)
        after = rng.uniform(10, 20) - (planned[-1].lasts_s if planned else 0)
        at += after + lasts
        if at > seconds:
            return planned
        planned.append(Planned(after, kind, lasts))


async def inflict(
    ground: Ground, planned: list[Planned], rng: random.Random, notes: Notes, *, seconds: float
) -> None:
    """Do all of it, and note when each fault began, when it was healed, and who leads then.

    Healing may take a while; what would begin after ``seconds`` is left out.
    """
    end = now() + seconds
    for number, each in enumerate(planned):
        await asyncio.sleep(each.after_s)
        if now() > end:
            break
        began = now()
        fault = await FAULTS[each.kind](ground, rng)
        # Whom it hits is found out first, and a member takes a while to end in order.
        notes.note("fault", "begin", number=number, fault=each.kind, text=fault.text, asked=began)
        await asyncio.sleep(each.lasts_s)
        notes.note("fault", "heal", number=number, fault=each.kind)
        await fault.heal()
        notes.note("fault", "healed", number=number, fault=each.kind)
    leader = await ground.cluster.leader(within=_LEADER_S)
    notes.note("fault", "end", leader=leader.name)
