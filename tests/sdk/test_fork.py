"""A forked child: every inherited client refuses, the parent's goes on, a fresh one works."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, json, os, sys, warnings
import coord

endpoint, prefix, runtime = sys.argv[1:]
told = {}

async def batch(client):
    try:
        async with client.batch() as batch:
            written = batch.put(prefix, "child")
    except coord.BatchFailed:
        written.result()

async def entered(opening):
    async with opening:
        pass

async def use(client, watch, view, held, seat, queue):
    for name, call in {
        "get": lambda: client.get(prefix),
        "put": lambda: client.put(prefix, "child"),
        "watch": lambda: client.watch(prefix).__aenter__(),
        "lease": lambda: client.lease_grant(5),
        "read": lambda: anext(watch),
        "cache": lambda: client.cache(prefix=prefix).open(),
        "view": lambda: view.sync(),
        "typed": lambda: client.typed(str).put(prefix, "child"),
        "batch": lambda: batch(client),
        "stm": lambda: client.stm(lambda tx: tx.get(prefix)),
        "pages": lambda: anext(aiter(client.pages(prefix))),
        "observer": lambda: client.on_connection(print),
        "snapshot": lambda: anext(client.maintenance.snapshot()),
        "members": lambda: client.cluster.list(),
        "users": lambda: client.auth.user_list(),
        "sync": lambda: client.sync_endpoints(),
        "session": lambda: client.session().open(),
        "mutex": lambda: client.mutex(prefix).acquire(),
        "try_mutex": lambda: client.mutex(prefix).try_acquire(),
        "single": lambda: client.mutex(prefix, layout="single-key").acquire(),
        "release": lambda: held.release(),
        "held_txn": lambda: held.txn().then(coord.op.put(prefix, "child")).commit(),
        "multi": lambda: client.multi_lock([prefix, prefix + "2"]).acquire(),
        "reader": lambda: client.rwlock(prefix).read().acquire(),
        "writer": lambda: client.rwlock(prefix).write().acquire(),
        "permit": lambda: client.semaphore(prefix, initial_limit=1).acquire(),
        "campaign": lambda: client.election(prefix).campaign("child"),
        "leader": lambda: client.election(prefix).leader(),
        "observe": lambda: anext(client.election(prefix).observe()),
        "barrier": lambda: client.barrier(prefix).hold(),
        "barrier_wait": lambda: client.barrier(prefix).wait(),
        "enter": lambda: client.double_barrier(prefix, 1).enter(),
        "arrive": lambda: client.latch(prefix, 1).count_down(),
        "register": lambda: entered(client.registry(prefix).register("h:1")),
        "discover": lambda: client.registry(prefix).discover(),
        "join": lambda: entered(client.membership(prefix).join()),
        "group": lambda: client.membership(prefix).members(),
        "leave": lambda: seat.leave(),
        "update": lambda: seat.update("child"),
        "queue_put": lambda: client.queue(prefix).put("child"),
        "queue_get": lambda: client.queue(prefix).get(),
        "old_get": lambda: queue.get(),
        "urgent": lambda: client.priority_queue(prefix).put("child"),
        "later": lambda: client.delay_queue(prefix).put("child"),
        "work_put": lambda: client.work_queue(prefix).put("child"),
        "work_get": lambda: client.work_queue(prefix).receive(),
        "count": lambda: client.counter(prefix).add(),
        "sharded": lambda: client.sharded_counter(prefix, shards=2).add(),
        "ids": lambda: client.id_allocator(prefix).next(),
        "cell": lambda: client.atomic(prefix).get(),
        "config": lambda: client.config(prefix, str),
        "publish": lambda: client.topic(prefix).publish("child"),
        "subscribe": lambda: anext(aiter(client.topic(prefix).subscribe())),
        "rate": lambda: client.rate_limiter(prefix, 10).acquire(),
        "explain": lambda: client.explain(prefix),
    }.items():
        try:
            async with asyncio.timeout(2):
                await call()
        except Exception as error:
            told[name] = type(error).__name__
    watch.close()
    view.close()
    await client.close()
    async with client.after_fork() as fresh:
        await fresh.put(prefix + "child", "x")
        told["fresh"] = fresh.endpoints == client.endpoints

async def parent():
    async with coord.connect(endpoint, runtime=runtime) as client:
        await client.put(prefix, "before")
        async with (
            client.watch(prefix, prefix=True) as watch,
            client.cache(prefix=prefix) as view,
            client.mutex("held" + prefix).hold() as held,
            client.membership("group" + prefix).join(data="parent") as seat,
            client.queue("queue" + prefix) as queue,
        ):
            await queue.put("1")
            r, w = os.pipe()
            pid = os.fork()
            if pid == 0:
                # This copy of the running loop belongs to the parent: a child starts its own.
                try:
                    asyncio._set_running_loop(None)
                    asyncio.run(use(client, watch, view, held, seat, queue))
                    os.write(w, json.dumps(told).encode())
                finally:
                    os._exit(0)
            os.close(w)
            with open(r) as pipe:
                answer = await asyncio.to_thread(pipe.read)
            os.waitpid(pid, 0)
            event = await anext(watch)
            await client.put(prefix, "after")
            held.check()
            kept = await client.get(held.key)
            (member,) = await client.membership("group" + prefix).members()
            print(json.dumps({
                "child": json.loads(answer),
                "parent": event.key.decode(),
                "kept": kept.create_revision == held.token,
                "member": [member.token == seat.token, member.data],
                "item": (await queue.get()).value.decode(),
            }))

asyncio.run(parent())
"""


@pytest.mark.processes
@pytest.mark.parametrize("runtime", ["thread", "inline"])
def test_a_forked_child(endpoint: str, runtime: str, prefix: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            *("-W", "error::ResourceWarning"),
            # Python 3.12 and newer warn of any fork beside threads; what then happens is what we test.
            *("-W", "ignore:This process:DeprecationWarning"),
            *("-c", PROGRAM, endpoint, prefix, runtime),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    told = json.loads(done.stdout)
    child = told.pop("child")
    assert told == {
        "parent": prefix + "child",
        "kept": True,
        "member": [True, "parent"],
        "item": "1",
    }
    assert child.pop("fresh") is True
    calls = re.findall(r'^ {8}"(\w+)": lambda', PROGRAM, re.MULTILINE)
    assert set(child) == set(calls)
    assert {name: end for name, end in child.items() if end != "ForkedError"} == {}
