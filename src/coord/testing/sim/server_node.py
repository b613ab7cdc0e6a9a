"""A member: a machine with a disk that runs ``coord_server``, and a supervisor that starts it again."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from coord.runtime import TcpAddress
from coord.testing.sim.chance import Chance
from coord.testing.sim.direct_server import DirectServer
from coord.testing.sim.disk import SimDisk
from coord.testing.sim.env import NodeOffload
from coord.testing.sim.machine import Machine
from coord.testing.sim.nodeloop import NodeDead
from coord_server.bootstrap import BootstrapError, DataDirError
from coord_server.env import ServerEnv
from coord_server.log import Log
from coord_server.server import Server, StartError
from coord_server.storage.backend import BackendError
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import CrashMode
from coord_server.storage.wal_recovery import CorruptLog

if TYPE_CHECKING:
    from coord.testing.sim.disk import DiskOptions
    from coord.testing.sim.invariants import Observer
    from coord.testing.sim.machine import Stage
    from coord_server.config import Config

CLIENT_PORT: Final = 2379
PEER_PORT: Final = 2380
DIRECT_PORT: Final = 2378
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberOptions:
    """How members are made."""

    segment_bytes: int = 64 * 1024
    restart_min_s: float = 0.1
    restart_max_s: float = 2.0
    wake_s: float = 30e-6


class ServerNode(Machine):
    """One member. It is started again after it has exited, and after a crash when :meth:`crash` says so."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        config: Config,
        observer: Observer,
        *,
        options: MemberOptions | None = None,
        disk: DiskOptions | None = None,
        rate: float = 1.0,
    ) -> None:
        super().__init__(stage, name, rate=rate)
        self.config = config
        self.options: MemberOptions = options if options is not None else MemberOptions()
        self.disk: SimDisk = SimDisk(stage.scheduler, stage.seed, name, options=disk)
        self.server: Server | None = None
        self.direct: DirectServer | None = None
        self.is_serving: bool = False
        self.is_refusing: bool = False
        """It found its data damaged and will not start again."""
        self.may_refuse = False
        """Its disk was damaged on purpose."""
        self.crashes: int = 0
        self.stays_dead = False
        self.is_leaving = False
        """It is being removed from the cluster."""
        self.is_retired: bool = False
        """It was removed, and no successor is there yet; or it was not added yet."""
        self._observer = observer
        self._restarts = Chance(stage.seed, "restart", name)
        self._down_until = 0.0
        self._offload: NodeOffload | None = None

    # Life.

    def start(self) -> None:
        """Start the process now, unless it runs."""
        if self.is_up or self.is_refusing or self.stays_dead or self.is_retired:
            return
        self.is_serving = False
        self.boot(self._serve)

    def crash(
        self, *, down_s: float | None, power: bool = True, mode: CrashMode = CrashMode.PREFIX
    ) -> None:
        """Kill the process, or with ``power`` the machine; back after ``down_s``, or at the end of all faults."""
        if not self.is_up:
            return
        self.crashes += 1
        self._end(power=power, mode=mode if power else None)
        if down_s is not None:
            self._come_back(down_s)

    def crash_in(
        self, operations: int, *, down_s: float | None, power: bool, mode: CrashMode
    ) -> None:
        """As ``crash``, when the disk begins its n-th next operation."""

        def now() -> None:
            self.crash(down_s=down_s, power=power, mode=mode)
            raise NodeDead(self.name)

        self.disk.on_death = now
        self.disk.die_in(operations)

    def wipe(self) -> None:
        """Put a new, empty disk in; the process must be down."""
        self.disk.wipe()
        self.is_refusing = False

    def retire(self, *, power: bool = True) -> None:
        """Take the machine away, or only the process; what comes in its place has an empty disk."""
        self.is_retired = True
        if self.is_up:
            self._end(power=power, mode=CrashMode.NONE if power else None)
        self.wipe()

    def _end(self, *, power: bool, mode: CrashMode | None) -> None:
        self.die(power=power)
        self.disk.crash(mode)
        self.is_serving = False
        self.server = self.direct = None
        self._observer.member_down(self)

    def _come_back(self, seconds: float) -> None:
        scheduler = self.stage.scheduler
        at = max(scheduler.moment() + seconds, self._down_until)
        scheduler.at(at, self.start)

    async def _serve(self) -> None:
        loop = self.loop
        if loop is None or self.net is None or self.clock is None:
            raise RuntimeError("the machine is down")
        stage = self.stage
        platter = self.disk.start(loop)
        self._offload = NodeOffload(
            stage.scheduler, loop, stage.seed, self.disk, wake_s=self.options.wake_s
        )
        env = ServerEnv(
            clock=self.clock,
            net=self.net,
            rand=self.rand(),
            offload=self._offload,
            disk=platter,
        )
        try:
            server = self.server = Server(
                self.config,
                env,
                Log(clock=self.clock, write=self._log, level=self._log_level()),
                make_backend=lambda path: MemoryBackend(platter, f"{path}/journal"),
                on_fatal=self._on_fatal,
                on_removed=self._on_removed,
                segment_bytes=self.options.segment_bytes,
                on_opened=lambda state: self._observer.member_opened(self, state),
            )
            await server.start()
            self.direct = DirectServer(server.registry, env, on_error=self._on_error)
            await self.direct.listen(TcpAddress(self.name, DIRECT_PORT))
        except (
            CorruptLog, DataDirError, StartError, BackendError, BootstrapError, OSError
        ) as error:  # fmt: skip
            self._exit_soon(error)
            return
        self.is_serving = True
        self._observer.member_serves(self)

    def _log_level(self) -> str:
        return "info" if self.stage.scheduler.trace.keeps_lines else "error"

    def _log(self, line: str) -> None:
        scheduler = self.stage.scheduler
        if scheduler.trace.keeps_lines:
            scheduler.trace.say(scheduler.moment(), self.name, f"log {line.strip()}")
        fields = json.loads(line)
        if fields["level"] == "error" and not self.is_leaving and not self._is_told_trouble(fields):
            self.stage.report("T1", self.name, f"logged: {fields}")

    def _on_error(self, where: str, error: BaseException) -> None:
        self.stage.report("T1", self.name, f"{where}: {type(error).__name__}: {error}")

    # Its own end.

    def _on_fatal(self, error: BaseException) -> None:
        self._exit_soon(error)

    def _on_removed(self) -> None:
        """End as the program does; who joins with an id that is over begins anew, as its log demands."""
        scheduler = self.stage.scheduler
        scheduler.trace.say(scheduler.moment(), self.name, "exits: it was removed")
        scheduler.after(0.0, self._left, self.epoch)

    def _left(self, epoch: int) -> None:
        if self.epoch != epoch or not self.is_up:
            return
        member = self._observer.member(self.name)
        has_run = member is not None and member.applier.applied_index > 0
        self._end(power=False, mode=None)
        if self.is_leaving:
            return
        if has_run:
            self.stage.report("T1", self.name, "is told that it was removed, and it is a member")
        self.wipe()
        self._come_back(self.options.restart_max_s)

    def _exit_soon(self, error: BaseException) -> None:
        """Let the process end, as the program does with an exit code."""
        scheduler = self.stage.scheduler
        scheduler.trace.say(scheduler.moment(), self.name, f"exits: {error!r}")
        epoch = self.epoch
        if isinstance(error, CorruptLog | DataDirError) and not self._is_trouble(error):
            self.is_refusing = True
            if not self.may_refuse:
                self.stage.report("T1", self.name, f"refuses to start: {error}")
        elif not self._is_explained(error):
            self.stage.report("T1", self.name, f"cannot go on: {type(error).__name__}: {error}")
        scheduler.after(0.0, self._exited, epoch)

    def _is_explained(self, error: BaseException) -> bool:
        if isinstance(error, BootstrapError):
            # Nobody answers one that joins, or it has been removed.
            return self.is_leaving or self.config.initial_cluster_state == "existing"
        return self._is_trouble(error)

    def _is_trouble(self, error: BaseException) -> bool:
        """Tell whether a disk that was made to fail is behind an error."""
        return self._explains(_codes(error))

    def _explains(self, codes: set[int]) -> bool:
        if errno.EIO in codes:
            return self.disk.failed_syncs > 0
        return bool(codes & _FULL) and self.disk.was_full

    def _is_told_trouble(self, fields: dict[str, Any]) -> bool:
        """Tell whether a disk that was made to fail is behind what was logged: the program may go on after that."""
        return self._explains(_named_codes(fields.get("error")))

    def _exited(self, epoch: int) -> None:
        if self.epoch == epoch and self.is_up:
            self._end(power=False, mode=None)
            options = self.options
            self._come_back(self._restarts.uniform(options.restart_min_s, options.restart_max_s))

    # What observers ask.

    def busy_until(self) -> float:
        """Return when the process has done, in virtual time, what its loop and its thread are at."""
        if self.loop is None or self._offload is None:
            return 0.0
        return max(self.loop.free_at, self._offload.free_at)

    def describe(self) -> str:
        """Return role, term, commit and applied index for a line of the trace."""
        server = self.server
        replica: Any = getattr(server, "_replica", None)
        if replica is None:
            return "down" if not self.is_up else "starting"
        role = "leader" if replica.is_leader else "follower"
        return f"{role} t{replica.term} c{replica.committed_index} a{replica.applied_index}"


def _named_codes(text: object) -> set[int]:
    """Return the codes of the system's errors that a line of the log names."""
    return {int(code) for code in re.findall(r"\[Errno (\d+)\]", str(text))}


def _codes(error: BaseException) -> set[int]:
    """Return the codes of the system's errors that an error came from."""
    codes: set[int] = set()
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            codes.add(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return codes
