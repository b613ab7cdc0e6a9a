"""Where a client lives: on a thread of its own, or on the caller's loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from coord.runtime.crossing import Batcher
from coord.runtime.loops import new_loop
from coord.runtime.tasks import start_task

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Coroutine

    from coord.runtime.seams import Env

T = TypeVar("T")

# A signal that comes between Python's last look for signals and the wait in the kernel does not end that wait
# (CPython, all versions): so a blocked thread returns to Python so often.
_NOTICE_CTRL_C_S = 0.25


class _Process:
    """The id of this process, without a system call: it changes in a forked child only, and that tells us."""

    def __init__(self) -> None:
        self.note()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.note)

    def note(self) -> None:
        self.pid = os.getpid()


_process = _Process()


class ForkedRuntime(RuntimeError):
    """The process was forked after this runtime started: its thread and sockets belong to the parent."""


class RuntimeStopped(RuntimeError):
    """The runtime was closed before the call ended."""

    def __init__(self, text: str = "the runtime is closed") -> None:
        super().__init__(text)


class LoopThread:
    """One thread that runs one loop, a new one unless it is given, until :meth:`stop`."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop: AbstractEventLoop = loop or new_loop()
        self.inbox: Batcher = Batcher(self.loop, owned=True)
        self._gate = threading.Lock()  # between the end of the thread and those who wait for it
        self._stopping = False
        self._over = False
        self._at_end: list[Callable[[], object]] = []
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            # Before the last tasks end, or what others send meanwhile would begin and never be awaited.
            self.inbox.shut()
            _cancel_all(self.loop)
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()
            with self._gate:
                self._over = True
            for tell in self._at_end:
                # That loop may be closed: then nobody waits any more.
                with contextlib.suppress(RuntimeError):
                    tell()

    def is_current(self) -> bool:
        """Say whether the caller is this thread."""
        return threading.current_thread() is self._thread

    def stop_soon(self) -> None:
        """End the loop, without waiting. Safe to call twice."""
        with self._gate:
            # A second stop would hit the loop while it runs again, for the end of the cancelled tasks.
            if self._stopping:
                return
            self._stopping = True
        with contextlib.suppress(RuntimeError):  # closed: it has ended before
            self.loop.call_soon_threadsafe(self.loop.stop)

    def stop(self) -> None:
        """End the loop and wait for the thread. Safe to call twice; on the thread itself it does not wait."""
        self.stop_soon()
        if not self.is_current():
            self._thread.join()

    async def stopped(self) -> None:
        """As :meth:`stop`, from a coroutine on another loop, which goes on meanwhile."""
        caller = asyncio.get_running_loop()
        over = asyncio.Event()
        with self._gate:
            if self._over:
                over.set()
            else:
                self._at_end.append(lambda: caller.call_soon_threadsafe(over.set))
        self.stop_soon()
        await over.wait()
        self._thread.join()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    while tasks := asyncio.all_tasks(loop):  # clean-ups may start others
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))


class _Cancellable(Protocol):
    def cancel(self) -> object: ...


class _Call(Generic[T]):
    """One coroutine on its way to the runtime loop; ``deliver`` gets its outcome, or None if the loop ended first.

    It runs there in the context of its caller, so that what it starts, such as spans, belongs to the caller.
    """

    def __init__(
        self, coro: Coroutine[Any, Any, T], deliver: Callable[[asyncio.Task[T] | None], None]
    ) -> None:
        self._coro: Coroutine[Any, Any, T] | None = coro
        self._deliver = deliver
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[T] | None = None

    def __call__(self) -> None:
        coro, self._coro = self._coro, None
        if coro is not None:
            self._task = start_task(coro, context=self._context)
            self._task.add_done_callback(self._deliver)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif self._coro is not None:
            self._coro.close()
            self._coro = None

    def give_up(self) -> None:
        """Cancel for a caller that waits for the end, and may not know whether this was posted."""
        if self._task is not None:
            self._task.cancel()
        else:
            self.lost()

    def lost(self) -> None:
        if self._coro is not None:
            self._coro.close()
            self._coro = None
            self._deliver(None)


class _Visit(Generic[T]):
    """A caller on another loop that waits for the outcome of a coroutine."""

    def __init__(
        self,
        runtime: Runtime,
        future: asyncio.Future[T],
        back: Batcher,
        discard: Callable[[T], None] | None,
    ) -> None:
        self.future = future
        self._runtime = runtime
        self._back = back
        self._discard = discard

    def deliver(self, task: asyncio.Task[T] | None) -> None:
        try:
            self._back.post(lambda: self._settle(task))
        except RuntimeError:  # the caller's loop is closed: nobody is left to take the result
            self._drop(task)

    def _settle(self, task: asyncio.Task[T] | None) -> None:
        if self.future.done():  # cancelled
            self._runtime.post(lambda: self._drop(task))
        elif task is None or task.cancelled():
            # Not the caller's doing, who would take a CancelledError for its own.
            self.future.set_exception(self._runtime.stopped_error())
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())

    def _drop(self, task: asyncio.Task[T] | None) -> None:
        if task is None or task.cancelled() or task.exception() is not None:
            return
        if self._discard is not None:
            self._discard(task.result())

    def abandon(self) -> None:
        """Give back a result that was there already when the caller was cancelled."""
        future, discard = self.future, self._discard
        if not future.cancelled() and future.exception() is None and discard is not None:
            late = future.result()
            self._runtime.post(lambda: discard(late))


class _Exchange(Generic[T]):
    """One operation with a callback, begun on the runtime's loop, and its outcome on the way back. No task."""

    __slots__ = ("_back", "_begin", "_future", "_given_up", "_handle", "_outcome", "_runtime")

    def __init__(
        self,
        runtime: Runtime,
        begin: Callable[[Callable[[T | Exception], None]], _Cancellable],
        future: asyncio.Future[T],
        back: Batcher,
    ) -> None:
        self._runtime = runtime
        self._begin = begin
        self._future = future
        self._back = back
        self._handle: _Cancellable | None = None
        self._given_up = False
        self._outcome: T | Exception | None = None

    def __call__(self) -> None:
        if not self._given_up:
            try:
                self._handle = self._begin(self._done)
            except Exception as error:  # noqa: BLE001 - it belongs to the caller, who waits on another loop
                self._done(error)

    def _done(self, outcome: T | Exception) -> None:
        self._outcome = outcome
        try:  # noqa: SIM105 - contextlib.suppress() would cost as much as the rest of the way back
            self._back.post(self._settle)
        except RuntimeError:
            pass  # the caller's loop is closed: nobody is left to tell

    def _settle(self) -> None:
        if not self._future.done():
            outcome = self._outcome
            if isinstance(outcome, Exception):
                self._future.set_exception(outcome)
            else:
                self._future.set_result(outcome)  # type: ignore[arg-type] # set before

    def give_up(self) -> None:
        """Cancel it, from the caller's thread; at once if it has not begun yet."""
        self._given_up = True
        self._runtime.post(self._cancel)

    def _cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def lost(self) -> None:
        self._done(self._runtime.stopped_error())


class Runtime:
    """The loop that a client's core lives on.

    ``Runtime.threaded(env, name)`` gives it a thread of its own: renewals, watches and clean-ups go on while the
    application's loop is blocked or its tasks are cancelled, and any thread or loop may call.
    ``Runtime.inline(env)`` uses the caller's running loop: lowest latency, but a blocked application blocks renewals
    too.
    ``forked`` and ``stopped`` make the errors for use in a forked child, and after the end.
    """

    def __init__(
        self,
        env: Env,
        loop: asyncio.AbstractEventLoop,
        thread: LoopThread | None,
        *,
        forked: Callable[[str], Exception] = ForkedRuntime,
        stopped: Callable[[], Exception] = RuntimeStopped,
    ) -> None:
        self.env = env
        self.loop = loop
        self._thread = thread
        self._forked = forked
        self.stopped_error = stopped
        self._pid = _process.pid
        self._returns: dict[asyncio.AbstractEventLoop, Batcher] = {}

    @classmethod
    def threaded(
        cls,
        env: Env,
        name: str = "coord-runtime",
        *,
        forked: Callable[[str], Exception] = ForkedRuntime,
        stopped: Callable[[], Exception] = RuntimeStopped,
    ) -> Runtime:
        """Start a thread with a loop."""
        thread = LoopThread(name)
        return cls(env, thread.loop, thread, forked=forked, stopped=stopped)

    @classmethod
    def inline(
        cls,
        env: Env,
        *,
        forked: Callable[[str], Exception] = ForkedRuntime,
        stopped: Callable[[], Exception] = RuntimeStopped,
    ) -> Runtime:
        """Use the running loop. Raises ``RuntimeError`` when none is running."""
        return cls(env, asyncio.get_running_loop(), None, forked=forked, stopped=stopped)

    @property
    def is_threaded(self) -> bool:
        """Whether the core has a thread of its own."""
        return self._thread is not None

    @property
    def is_forked(self) -> bool:
        """Whether this is a forked child, where nothing of the runtime works."""
        return _process.pid != self._pid

    def check_process(self) -> None:
        """Raise :class:`ForkedRuntime`, or what was asked for instead, in a forked child."""
        if _process.pid != self._pid:
            raise self._forked(f"created in process {self._pid}, used in process {_process.pid}")

    def on_runtime(self) -> bool:
        """Say whether the caller already runs on the runtime's loop."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    def returns(self, loop: asyncio.AbstractEventLoop) -> Batcher:
        """Return the way back into a caller's ``loop``."""
        batcher = self._returns.get(loop)
        if batcher is None:
            # Programs that start a loop per call (asyncio.run) must not pile up dead ones here.
            for old in [known for known in self._returns.copy() if known.is_closed()]:
                self._returns.pop(old, None)
            batcher = self._returns[loop] = Batcher(loop)
        return batcher

    def post(self, fn: Callable[[], object]) -> None:
        """Run ``fn`` on the runtime's loop soon, from any thread."""
        self.check_process()
        if self._thread is not None:
            self._thread.inbox.post(fn)
        elif self.on_runtime():
            self.loop.call_soon(fn)
        else:
            self.loop.call_soon_threadsafe(fn)

    async def exchange(
        self,
        begin: Callable[[Callable[[T | Exception], None]], _Cancellable],
        caller: asyncio.AbstractEventLoop | None = None,
    ) -> T:
        """Run a callback-style operation on the runtime's loop from another loop, without a task.

        ``caller`` is that loop, the running one, where it is known already.
        ``begin(done)`` is called there and returns something to cancel it by; ``done(result or error)`` ends it.
        A cancelled caller cancels it.
        """
        if caller is None:
            caller = asyncio.get_running_loop()
        future: asyncio.Future[T] = caller.create_future()
        crossing = _Exchange(self, begin, future, self.returns(caller))
        self.post(crossing)
        try:
            return await future
        except asyncio.CancelledError:
            crossing.give_up()
            raise

    async def run(
        self, coro: Coroutine[Any, Any, T], *, discard: Callable[[T], None] | None = None
    ) -> T:
        """Run ``coro`` on the runtime's loop and return its result.

        Cancelling the caller cancels ``coro`` there and raises at once here, without waiting for its clean-up.
        A result that arrives too late for a cancelled caller goes to ``discard`` (on the runtime's loop), so that
        nothing acquired is lost.
        """
        caller = asyncio.get_running_loop()
        if caller is self.loop:
            return await coro
        visit: _Visit[T] = _Visit(self, caller.create_future(), self.returns(caller), discard)
        call = _Call(coro, visit.deliver)
        try:
            self.post(call)
        except Exception:
            coro.close()
            raise
        try:
            return await visit.future
        except asyncio.CancelledError:
            self.post(call.cancel)
            visit.abandon()
            raise

    def call_blocking(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run ``coro`` on the runtime's loop and block this thread until it ends.

        Ctrl-C cancels the coroutine, waits for its clean-up, and is raised then.
        Raises ``RuntimeError`` on the runtime's own thread, where it could only deadlock.
        """
        if self._thread is None or self._thread.is_current():
            coro.close()
            raise RuntimeError("a blocking call cannot run on the runtime's own loop")
        # All of it may be interrupted, also between two of these lines.
        call: _Call[T] | None = None
        done: threading.Event | None = None
        ended: list[asyncio.Task[T] | None] = []
        try:
            done = threading.Event()

            def deliver(task: asyncio.Task[T] | None, done: threading.Event = done) -> None:
                ended.append(task)
                done.set()

            call = _Call(coro, deliver)
            self.post(call)
            while not done.wait(_NOTICE_CTRL_C_S):
                pass
        except Exception:
            coro.close()
            raise
        except BaseException:
            if call is None or done is None:
                coro.close()
            else:
                self.post(call.give_up)
                done.wait(
                    5.0
                )  # a second Ctrl-C leaves at once; the clean-up goes on in the background
            raise
        task = ended[0]
        if task is None or task.cancelled():
            raise self.stopped_error()
        return task.result()

    def close(self) -> None:
        """Stop the thread, if there is one, and wait for it. Its remaining tasks are cancelled."""
        if self._thread is not None and not self.is_forked:
            self._thread.stop()

    def stop_soon(self) -> None:
        """Stop the thread, if there is one, without waiting for it."""
        if self._thread is not None and not self.is_forked:
            self._thread.stop_soon()

    async def aclose(self) -> None:
        """As :meth:`close`, while the caller's loop goes on."""
        if self._thread is None or self.is_forked:
            return
        if self._thread.is_current():
            self._thread.stop()
        else:
            await self._thread.stopped()
