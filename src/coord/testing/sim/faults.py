"""Doing what a plan says: each kind of fault as a function of a world."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from coord.testing.sim.chance import Chance
from coord.testing.sim.server_node import ServerNode
from coord_server.storage.memory_disk import CrashMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.testing.sim.admin import Admin
    from coord.testing.sim.machine import Machine
    from coord.testing.sim.net import SimNet
    from coord.testing.sim.options import Options
    from coord.testing.sim.plan import Fault
    from coord.testing.sim.scheduler import Scheduler
    from coord.testing.sim.stranger import Stranger


class Field(Protocol):
    """What faults need of a world."""

    options: Options
    scheduler: Scheduler
    net: SimNet
    admin: Admin
    stranger: Stranger
    is_healed: bool
    """Whether all faults are over, those too that are still to begin."""

    def machine(self, name: str) -> Machine:
        """Return a machine by its name."""
        ...

    @property
    def member_names(self) -> tuple[str, ...]:
        """The hosts of the members."""
        ...

    @property
    def client_names(self) -> tuple[str, ...]:
        """The hosts of the clients."""
        ...

    @property
    def leader_name(self) -> str | None:
        """The host of the member that leads, if any does."""
        ...

    def until_healed(self, seconds: float, undo: Callable[[], None]) -> None:
        """Call ``undo`` after ``seconds``, or when all faults end, whichever is first; once."""
        ...


Pairs = list[tuple[str, str]]


def strike(world: Field, fault: Fault) -> None:
    """Let a fault happen now, unless all are over."""
    if world.is_healed:
        return
    leader = world.leader_name if fault.args.get("leader") else None
    if leader is not None:
        fault = replace(fault, on=(leader,))
    world.scheduler.trace.say(world.scheduler.now, ",".join(fault.on), f"FAULT {fault}")
    _KINDS[fault.kind](world, fault)


def _crash(world: Field, fault: Fault) -> None:
    mode = CrashMode(world.options.crash_mode)
    for name in fault.on:
        node = world.machine(name)
        if isinstance(node, ServerNode):
            power = bool(fault.args.get("power", True))
            operations = int(fault.args.get("operations", 0))
            if operations and node.is_up:
                node.crash_in(operations, down_s=fault.lasts, power=power, mode=mode)
            else:
                node.crash(down_s=fault.lasts, power=power, mode=mode)


def _partition(world: Field, fault: Fault) -> None:
    shape = str(fault.args.get("shape", "isolate"))
    pairs = blocked_pairs(
        shape, fault.on, world.member_names, world.client_names,
        one_way=bool(fault.args.get("one_way", False)),
    )  # fmt: skip
    if shape == "swizzle":
        _swizzle(world, fault, pairs)
        return
    if fault.args.get("refuses"):
        world.net.sever(pairs)
    world.net.block(pairs)
    world.until_healed(fault.lasts, lambda: world.net.unblock(pairs))


def _swizzle(world: Field, fault: Fault, pairs: Pairs) -> None:
    """Clog the links one after the other, and heal them in another order."""
    chance = Chance(world.options.seed, "swizzle", str(fault.id))
    half = fault.lasts / 2
    for place, pair in enumerate(chance.shuffled(pairs)):
        begins = half * place / len(pairs)
        lasts = half + chance.uniform(0.0, half)

        def block(pair: tuple[str, str] = pair, lasts: float = lasts) -> None:
            if world.is_healed:
                return
            world.net.block([pair])
            world.until_healed(lasts, lambda: world.net.unblock([pair], resend=False))

        world.scheduler.after(begins, block)


def blocked_pairs(
    shape: str,
    on: tuple[str, ...],
    members: tuple[str, ...],
    clients: tuple[str, ...],
    *,
    one_way: bool = False,
) -> Pairs:
    """Return the links (source, target) that a partition of this shape blocks.

    ``isolate`` and ``swizzle`` cut one member from everybody, ``clients`` cuts it from the clients only,
    ``split`` cuts the members ``on`` from the others, ``bridge`` leaves one member that reaches both
    halves, and in a ``ring`` each member reaches a majority, and no two the same one. ``one_way`` blocks
    only what the member sends.
    """
    everybody = members + clients
    if shape in {"isolate", "swizzle"}:
        pairs = [(name, other) for name in on for other in everybody if other not in on]
    elif shape == "clients":
        pairs = [(name, client) for name in on for client in clients]
    elif shape == "split":
        pairs = [(name, other) for name in on for other in members if other not in on]
    elif shape == "bridge":
        rest = [name for name in members if name not in on]
        left, right = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        pairs = [(a, b) for a in left for b in right]
    elif shape == "ring":
        count = len(members)
        reach = count // 2
        pairs = [
            (members[a], members[b])
            for a in range(count)
            for b in range(a + 1, count)
            if min(b - a, count - b + a) * 2 > reach
        ]
        if count == 3:  # noqa: PLR2004 - in a ring of three everybody is a neighbour: cut one side
            pairs = [(members[0], members[1])]
    else:
        raise ValueError(f"no such partition: {shape}")
    return pairs if one_way else pairs + [(b, a) for a, b in pairs]


def _pause(world: Field, fault: Fault) -> None:
    for name in fault.on:
        world.machine(name).pause(fault.lasts)


def _slow(world: Field, fault: Fault) -> None:
    for name in fault.on:
        machine = world.machine(name)
        machine.slow(float(fault.args["factor"]))
        world.until_healed(fault.lasts, lambda machine=machine: machine.slow(1.0))  # type: ignore[misc]


def _reset(world: Field, fault: Fault) -> None:
    for name in fault.on:
        open_ones = world.net.connections(name)
        if open_ones:
            chance = Chance(world.options.seed, "victim", str(fault.id))
            victim = chance.choice(open_ones)
            (world.net.reset if fault.kind == "reset" else world.net.forget)(victim)


def _clog(world: Field, fault: Fault) -> None:
    pairs = [(fault.on[0], fault.on[1])]
    world.net.block(pairs)
    world.until_healed(fault.lasts, lambda: world.net.unblock(pairs, resend=False))


def _eio(world: Field, fault: Fault) -> None:
    for name in fault.on:
        node = world.machine(name)
        if isinstance(node, ServerNode):
            node.disk.fail_next_sync()


def _full(world: Field, fault: Fault) -> None:
    for name in fault.on:
        node = world.machine(name)
        if isinstance(node, ServerNode):
            disk = node.disk
            disk.fill(int(fault.args["left"]))
            world.until_healed(fault.lasts, lambda disk=disk: disk.fill(None))  # type: ignore[misc]


def _slow_disk(world: Field, fault: Fault) -> None:
    for name in fault.on:
        node = world.machine(name)
        if isinstance(node, ServerNode):
            disk = node.disk
            disk.slow_s = float(fault.args["sync_s"])

            def undo() -> None:
                disk.slow_s = 0.0  # noqa: B023 - one disk per fault

            world.until_healed(fault.lasts, undo)


def _rot(world: Field, fault: Fault) -> None:
    for name in fault.on:
        node = world.machine(name)
        if isinstance(node, ServerNode):
            node.may_refuse = True
            node.disk.rot(f"{node.config.data_path}/member/wal")


def _wall(world: Field, fault: Fault) -> None:
    for name in fault.on:
        world.machine(name).jump_wall(float(fault.args["seconds"]))


def _admin(world: Field, fault: Fault) -> None:
    world.admin.order(fault)


def _stranger(world: Field, fault: Fault) -> None:
    for name in fault.on:
        world.stranger.call(name, str(fault.args["guise"]))


_KINDS: Final[dict[str, Callable[[Field, Fault], None]]] = {
    "crash": _crash,
    "partition": _partition,
    "pause": _pause,
    "slow": _slow,
    "reset": _reset,
    "forget": _reset,
    "clog": _clog,
    "eio": _eio,
    "full": _full,
    "slow_disk": _slow_disk,
    "rot": _rot,
    "wall": _wall,
    "admin": _admin,
    "stranger": _stranger,
}
