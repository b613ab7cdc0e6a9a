"""The blocking face: on every store, in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

import coord
import coord.sync
from coord import compare, op
from coord.core import Carrier
from coord.sync._portal import Portal, behind
from tests.support.servers import ServerProcess

FLAVOURS: tuple[tuple[str, Carrier], ...] = (
    ("etcd", "native"),
    ("etcd", "grpcio"),
    ("coord", "native"),
    ("coord", "grpcio"),
    ("memory", "native"),
)


@pytest.fixture(params=FLAVOURS, ids="-".join)
def client(request: pytest.FixtureRequest) -> Iterator[coord.sync.Client]:
    """A blocking client, over every store and carrier."""
    store, carrier = request.param
    target = "memory:"
    if store != "memory":
        server: ServerProcess = request.getfixturevalue(f"{store}_process")
        target = server.endpoint
    with coord.sync.connect(target, transport=carrier) as made:
        yield made


@pytest.fixture
def memory() -> Iterator[coord.sync.Client]:
    """A client of a store of its own, for what does not depend on the store."""
    with coord.sync.connect("memory:") as made:
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Other threads."""
    with ThreadPoolExecutor(10) as made:
        yield made


# Keys and values.


def test_keys_and_values(client: coord.sync.Client, prefix: str) -> None:
    first = client.put(prefix + "a", "1")
    client.put(prefix + "b", b"2")
    found = client.get(prefix + "a")
    assert found is not None
    assert (found.value, found.mod_revision) == (b"1", first.revision)
    assert client.get(prefix + "none") is None
    assert [kv.value for kv in client.get_prefix(prefix, descending=True).items] == [b"2", b"1"]
    assert client.get_range(prefix + "a", prefix + "b").count == 1
    assert client.count(prefix) == 2
    assert client.delete(prefix + "a", prev_kv=True).previous[0].value == b"1"
    assert client.delete_range(prefix + "b", prefix + "c").deleted == 1
    assert client.delete_prefix(prefix).deleted == 0


def test_transactions(client: coord.sync.Client, prefix: str) -> None:
    txn = client.txn().when(compare.version(prefix) == 0).then(op.put(prefix, "x"))
    txn.otherwise(op.get(prefix))
    assert txn.commit().succeeded
    again = txn.commit(timeout=5)
    assert not again.succeeded
    assert again.range(0).items[0].value == b"x"


def test_leases_and_the_cluster(client: coord.sync.Client, prefix: str) -> None:
    lease = client.lease_grant(60)
    client.put(prefix, "x", lease=lease.lease_id)
    assert lease.lease_id in client.leases()
    assert client.lease_keep_alive_once(lease.lease_id) == 60
    assert client.lease_time_to_live(lease.lease_id, keys=True).keys == (prefix.encode(),)
    client.lease_revoke(lease.lease_id)
    assert client.get(prefix) is None
    with pytest.raises(coord.LeaseNotFound):
        client.lease_revoke(lease.lease_id)
    status = client.status()
    assert status.member_id in [member.member_id for member in client.members()]


def test_compaction(memory: coord.sync.Client) -> None:
    memory.put("k", "1")
    revision = memory.put("k", "2").revision
    memory.compact(revision)
    with pytest.raises(coord.Compacted):
        memory.get("k", revision=revision - 1)


def test_wrong_arguments_are_refused_at_once() -> None:
    with pytest.raises(coord.InvalidArgument, match="port"):
        coord.sync.connect("host:no")
    with pytest.raises(coord.InvalidArgument, match="transport"):
        coord.sync.connect("memory:", transport="carrier pigeon")  # type: ignore[arg-type]


# Watches.


def test_a_watch_is_an_iterator(client: coord.sync.Client, prefix: str) -> None:
    with client.watch(prefix, prefix=True) as watch:
        client.put(prefix + "a", "1")
        client.delete(prefix + "a")
        seen = [next(watch), next(watch)]
    assert [event.type for event in seen] == [coord.EventType.PUT, coord.EventType.DELETE]
    with pytest.raises(coord.ClientClosed):
        next(watch)


def test_a_watch_gives_whole_revisions(client: coord.sync.Client, prefix: str) -> None:
    with client.watch(prefix, prefix=True) as watch:
        client.txn().then(op.put(prefix + "a", "1"), op.put(prefix + "b", "2")).commit()
        batch = next(watch.batches())
        assert [event.kv.value for event in batch.events] == [b"1", b"2"]
        client.txn().then(op.put(prefix + "a", "3"), op.put(prefix + "b", "4")).commit()
        assert next(watch).kv.value == b"3"
        with pytest.raises(coord.InvalidArgument, match="unread"):
            next(watch.batches())


def test_a_read_that_timed_out_loses_nothing(client: coord.sync.Client, prefix: str) -> None:
    with client.watch(prefix) as watch:
        with pytest.raises(coord.CoordTimeout):
            watch.read(timeout=0.01)
        client.put(prefix, "1")
        assert watch.read(timeout=30).kv.value == b"1"


def test_a_batch_that_nobody_took_comes_next(
    memory: coord.sync.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory.watch("k") as watch:
        memory.put("k", "1")
        with monkeypatch.context() as patch:
            patch.setattr(Portal, "call", interrupted_after(Portal.call))
            with pytest.raises(KeyboardInterrupt):
                watch.read()
        memory.put("k", "2")
        assert [watch.read().kv.value, watch.read().kv.value] == [b"1", b"2"]


def test_closing_a_watch_ends_its_reader(
    client: coord.sync.Client, prefix: str, pool: ThreadPoolExecutor
) -> None:
    with client.watch(prefix) as watch:
        reader = pool.submit(next, watch)
        with pytest.raises(TimeoutError):
            reader.result(0.05)
        watch.close()
        with pytest.raises(coord.ClientClosed):
            reader.result(30)


# Sessions.


def test_a_session(client: coord.sync.Client, prefix: str) -> None:
    with client.session(ttl=20, name="mine") as session:
        assert session.state is coord.SessionState.ACTIVE
        assert (session.name, session.ttl) == ("mine", 20)
        assert 0 < session.valid_for() <= 20
        session.check()
        client.put(prefix, "x", lease=session.lease_id)
        with pytest.raises(coord.CoordTimeout):
            session.expired.wait(timeout=0.01)
    assert client.get(prefix) is None
    assert session.expired.is_set()
    assert session.expired.wait() == session.expired.reason == "closed"
    with pytest.raises(coord.SessionClosed):
        session.check()


def test_a_session_changes_hands(client: coord.sync.Client) -> None:
    lease_id = client.session(ttl=20).open(timeout=30).orphan()
    with client.session(lease_id=lease_id) as heir:
        assert heir.lease_id == lease_id
        assert heir.state is coord.SessionState.ACTIVE


def test_observers_run_on_a_worker_thread(memory: coord.sync.Client) -> None:
    told: Future[tuple[coord.SessionState, str]] = Future()

    def observe(state: coord.SessionState) -> None:
        if not told.done():
            told.set_result((state, threading.current_thread().name))

    session = memory.session(ttl=20).open()
    session.on_state(observe)
    memory.lease_revoke(session.lease_id)
    session.close()
    state, thread = told.result(30)
    assert state is coord.SessionState.CLOSED
    assert thread.startswith("coord-offload")


def test_there_is_no_loop_to_prove_life(memory: coord.sync.Client) -> None:
    with pytest.raises(coord.InvalidArgument, match="liveness"):
        memory.session(liveness="loop")  # type: ignore[arg-type]
    with memory.session(liveness=lambda: True) as session:
        session.check()


def test_the_default_session_is_one(memory: coord.sync.Client) -> None:
    session = memory.default_session()
    assert memory.default_session() == session
    assert len({session, memory.default_session()}) == 1
    assert session != object()
    with memory.mutex("m").hold() as grant:
        assert grant.session == session


def test_twins_have_every_attribute(memory: coord.sync.Client) -> None:
    internal = {
        "doubts",
        "gate_revisions",
        "leaving",
        "lines",
        "lost_error",
        "readers",
        "spares_lease",
    }
    session = memory.default_session()
    with memory.mutex("m").hold() as grant, memory.election("e").lead("x") as term:
        for twin in (memory, session, memory.mutex("m"), grant, memory.election("e"), term):
            names = {name for name in vars(behind(twin)) if not name.startswith("_")}
            for name in names - internal:
                getattr(twin, name)
        assert "token" in vars(behind(grant))


# Mutexes.


def test_a_mutex_excludes_threads(
    client: coord.sync.Client, prefix: str, pool: ThreadPoolExecutor
) -> None:
    mutex = client.mutex(prefix + "m")
    inside: list[int] = []
    tokens: list[int] = []

    def work(_: int) -> None:
        with mutex.hold(timeout=60) as grant:
            inside.append(1)
            assert len(inside) == 1
            tokens.append(grant.token)
            client.put(prefix + "x", "1")
            inside.pop()

    list(pool.map(work, range(20)))
    assert len(tokens) == 20
    assert tokens == sorted(set(tokens))
    assert mutex.holder() is None


def test_waiting_for_a_mutex_ends_in_time(client: coord.sync.Client, prefix: str) -> None:
    with client.session() as other:
        held = client.mutex(prefix, session=other, label="us").acquire(timeout=30)
        mutex = client.mutex(prefix)
        holder = mutex.holder()
        assert holder is not None
        assert (holder.token, holder.metadata["label"]) == (held.token, "us")
        assert mutex.try_acquire() is None
        with pytest.raises(coord.LockTimeout):
            mutex.acquire(timeout=0.05)
        with pytest.raises(coord.InvalidArgument):
            mutex.acquire(timeout=-1)
        assert held.release()
        grant = mutex.try_acquire()
        assert grant is not None
        assert mutex.waiters() == ()
        assert grant.token > held.token
        grant.release()
        with pytest.raises(coord.NotHeld):
            grant.check()


def test_a_grant_guards_writes(client: coord.sync.Client, prefix: str) -> None:
    with client.mutex(prefix + "m").hold() as grant:
        guarded = client.txn().when(grant.guard()).then(op.put(prefix + "x", "1"))
        assert guarded.commit().succeeded
        assert grant.valid_for() > 0
        assert grant.lost_reason is None
    assert grant.released
    assert not guarded.commit().succeeded


def test_reentrancy_goes_by_thread(memory: coord.sync.Client, pool: ThreadPoolExecutor) -> None:
    mutex = memory.mutex("m", reentrant=True)
    with mutex.hold() as outer, mutex.hold() as inner:
        assert inner.token == outer.token
        assert inner == outer
        assert pool.submit(mutex.try_acquire).result(30) is None
    grant = pool.submit(mutex.try_acquire).result(30)
    assert grant is not None
    assert grant.release()


def test_loss_is_raised_at_the_end_of_the_block(client: coord.sync.Client, prefix: str) -> None:
    mutex = client.mutex(prefix)
    grants: list[coord.sync.MutexGrant] = []

    def body() -> None:
        with mutex.hold(timeout=30) as grant:
            mutex.break_lock(grant.token, reason="test")
            assert grant.lost.wait(timeout=30) == "revoked"
            grants.append(grant)  # the body runs on

    with pytest.raises(coord.LockLost) as caught:
        body()
    assert caught.value.token == grants[0].token
    assert not grants[0].release()


def test_the_bodys_own_error_wins(memory: coord.sync.Client) -> None:
    mutex = memory.mutex("m")

    def body() -> None:
        with mutex.hold() as grant:
            mutex.break_lock(grant.token, reason="test")
            grant.lost.wait(timeout=30)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    with mutex.hold() as grant:
        assert grant.release()  # by the body, which is no loss
    assert mutex.holder() is None


def interrupted_after(call: Callable[..., object]) -> Callable[..., object]:
    """``call`` as it looks to a thread that Ctrl-C hits between the result and its use."""

    def interrupted(portal: Portal, coro: object) -> object:
        call(portal, coro)
        raise KeyboardInterrupt

    return interrupted


def test_a_grant_that_nobody_took_is_given_back(
    memory: coord.sync.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutex = memory.mutex("m")
    election = memory.election("e")
    with monkeypatch.context() as patch:
        patch.setattr(Portal, "call", interrupted_after(Portal.call))
        for acquire in (mutex.acquire, mutex.try_acquire, election.campaign):
            with pytest.raises(KeyboardInterrupt):
                acquire()
    with memory.session() as other:
        memory.mutex("m", session=other).acquire(timeout=30).release()
        memory.election("e", session=other).campaign(timeout=30).release()


# Elections.


def test_an_election(client: coord.sync.Client, prefix: str) -> None:
    election = client.election(prefix + "e")
    with pytest.raises(coord.NoLeader):
        election.leader()
    with client.session() as other, election.observe() as leaders:
        assert next(leaders) is None
        with election.lead("a", timeout=30) as term:
            rival = client.election(prefix + "e", session=other)
            with pytest.raises(coord.CampaignTimeout):
                rival.campaign("b", timeout=0.05)
            term.proclaim("c")
            assert election.leader().value == b"c"
            assert [each.token for each in election.candidates()] == [term.token]
            seen = next(leaders)
            while seen is None or seen.value != b"c":
                seen = next(leaders)
        later = rival.campaign("d", timeout=30)
        assert later.token > term.token
        with pytest.raises(coord.NotHeld):
            term.proclaim("too late")
        assert later.resign()


def test_closing_ends_the_observer(
    client: coord.sync.Client, prefix: str, pool: ThreadPoolExecutor
) -> None:
    leaders = client.election(prefix).observe()
    assert next(leaders) is None
    reader = pool.submit(list, leaders)
    with pytest.raises(TimeoutError):
        reader.result(0.05)
    with pytest.raises(coord.InvalidArgument, match="another thread"):
        next(leaders)
    leaders.close()
    assert reader.result(30) == []
    leaders.close()
    assert list(leaders) == []


def test_run_leads_on_the_calling_thread(client: coord.sync.Client, prefix: str) -> None:
    election = client.election(prefix)
    terms: list[coord.sync.Term] = []

    def lead(term: coord.sync.Term) -> None:
        assert threading.current_thread() is threading.main_thread()
        terms.append(term)
        if len(terms) == 1:  # deposed: the body is told, and only its return lets us campaign again
            client.delete(term.key)
            term.lost.wait(timeout=30)
        elif len(terms) == 2:
            raise ZeroDivisionError
        else:
            assert client.election(prefix).leader().value == b"me"

    election.run(lead, value="me", rejoin=False)
    assert [term.lost.is_set() for term in terms] == [True, False, False]
    assert sorted({term.token for term in terms}) == [term.token for term in terms]
    with pytest.raises(coord.NoLeader):
        election.leader()


def test_run_raises_what_the_body_raised(memory: coord.sync.Client) -> None:
    def fail(_: coord.sync.Term) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        memory.election("e").run(fail, on_error="raise")
    with pytest.raises(coord.NoLeader):
        memory.election("e").leader()


def test_run_resigns_when_ctrl_c_ends_the_body(memory: coord.sync.Client) -> None:
    def interrupt(_: coord.sync.Term) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory.election("e").run(interrupt)
    with pytest.raises(coord.NoLeader):
        memory.election("e").leader()


def test_run_tells_of_a_body_that_outlives_its_term(memory: coord.sync.Client) -> None:
    told: Future[coord.sync.Term] = Future()

    def lead(term: coord.sync.Term) -> None:
        term.session.close()
        assert told.result(30) == term

    session = memory.session().open()
    with pytest.raises(coord.SessionClosed):
        memory.election("e", session=session).run(lead, on_overrun=told.set_result)


def test_closing_the_client_ends_a_run(memory: coord.sync.Client, pool: ThreadPoolExecutor) -> None:
    leading: Future[None] = Future()

    def lead(term: coord.sync.Term) -> None:
        leading.set_result(None)
        term.lost.wait()

    running = pool.submit(memory.election("e").run, lead)
    leading.result(30)
    memory.close()
    with pytest.raises(coord.ClientClosed):
        running.result(30)


# Threads, loops, ends.


def test_many_threads_share_a_client(
    client: coord.sync.Client, prefix: str, pool: ThreadPoolExecutor
) -> None:
    def work(number: int) -> bytes | None:
        key = f"{prefix}{number}"
        client.put(key, str(number))
        found = client.get(key)
        return found.value if found else None

    assert list(pool.map(work, range(100))) == [str(n).encode() for n in range(100)]


def test_the_clients_own_thread_is_refused(memory: coord.sync.Client) -> None:
    outcome: Future[BaseException | None] = Future()
    runtime = behind(memory)._core.runtime

    def call() -> None:
        try:
            memory.get("k")
        except RuntimeError as error:
            outcome.set_result(error)
        else:
            outcome.set_result(None)

    runtime.post(call)
    error = outcome.result(30)
    assert error is not None
    assert "runtime's own loop" in str(error)


async def test_a_coroutine_may_block_its_loop_with_it() -> None:
    with coord.sync.connect("memory:") as client:
        client.put("k", "v")
        assert client.count("k") == 1


def test_a_closed_client(memory: coord.sync.Client, pool: ThreadPoolExecutor) -> None:
    mutex = memory.mutex("m")
    mutex.acquire()
    other = memory.session().open()
    waiting = pool.submit(memory.mutex("m", session=other).acquire)
    assert repr(memory) == "<coord.sync.Client 'coord' on memory:>"
    memory.close()
    memory.close()
    with pytest.raises(coord.CoordError):
        waiting.result(30)
    assert other.state is coord.SessionState.CLOSED
    assert "closed" in repr(memory)
    for call in (lambda: memory.get("k"), mutex.try_acquire, memory.session().open):
        with pytest.raises(coord.ClientClosed):
            call()


def test_nobody_closed_it() -> None:
    clients = [coord.sync.connect("memory:")]
    clients[0].put("k", "v")
    thread = next(t for t in threading.enumerate() if t.name == "coord-runtime")
    with pytest.warns(ResourceWarning, match="unclosed"):
        clients.clear()  # the interpreter counts references: nobody has it any more
    thread.join(30)
    assert not thread.is_alive()


def test_an_unknown_outcome_resolves_blocking(memory: coord.sync.Client) -> None:
    memory.put("k", "old")
    portal = Portal(behind(memory)._core)

    async def resolver() -> object:
        return await behind(memory).get("k")

    async def fail() -> None:
        raise coord.AmbiguousResult("Put", "lost", resolver=resolver)

    with pytest.raises(coord.AmbiguousResult, match="lost") as caught:
        portal.call(fail())
    assert isinstance(caught.value, coord.sync.AmbiguousResult)
    found = caught.value.resolve()
    assert isinstance(found, coord.KeyValue)
    assert found.value == b"old"
