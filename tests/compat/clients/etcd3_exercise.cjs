// What the Node client etcd3 offers, once through; prints what it sees. Arguments: host and port.
"use strict";
const { once } = require("node:events");
const { Etcd3 } = require("etcd3");

const client = new Etcd3({ hosts: `http://${process.argv[2]}:${process.argv[3]}` });
const say = (...words) => console.log(...words.map((word) => JSON.stringify(word)));
const pair = (kv) => kv && [String(kv.key), String(kv.value), kv.create_revision, kv.mod_revision, kv.version];

async function keys() {
  say("put", (await client.put("k/1").value("one").exec()).header.revision);
  say("put", pair((await client.put("k/1").value("uno").getPrevious())));
  await client.put("k/2").value("two");
  say("get", await client.get("k/1").string(), await client.get("missing").string());
  say("prefix", await client.getAll().prefix("k/").strings());
  say("keys", await client.getAll().prefix("k/").keys());
  say("sorted", await client.getAll().prefix("k/").sort("Value", "Descend").limit(1).keys());
  say("count", await client.getAll().prefix("k/").count());
  say("delete", (await client.delete().key("k/1").exec()).deleted);
  say("delete", (await client.delete().prefix("k/").exec()).deleted);
}

async function transactions() {
  for (const attempt of [1, 2]) {
    const done = await client
      .if("t", "Version", "==", 0)
      .then(client.put("t").value("new"), client.get("t"))
      .else(client.get("t"), client.delete().key("t"))
      .commit();
    say("txn", attempt, done.succeeded, done.responses.map((each) => each.response));
  }
  const total = await client.stm().transact(async (tx) => {
    await tx.put("stm").value("1");
    return Number(await tx.get("stm").string()) + 1;
  });
  say("stm", total, await client.get("stm").string());
}

async function watches() {
  await client.put("w/1").value("before");
  const watcher = await client.watch().prefix("w/").withPreviousKV().create();
  const seen = [];
  const all = new Promise((resolve) => {
    const note = (kind) => (kv, previous) => {
      seen.push([kind, pair(kv), pair(previous)]);
      if (seen.length === 3) resolve();
    };
    watcher.on("put", note("put"));
    watcher.on("delete", note("delete"));
  });
  await client.put("w/1").value("after");
  await client.put("w/2").value("new");
  await client.delete().key("w/1");
  await all;
  for (const event of seen) say("event", event);
  await watcher.cancel();
}

async function leases() {
  const lease = client.lease(600);
  await lease.put("leased").value("v");
  await lease.keepaliveOnce();
  const id = await lease.grant();
  const status = await client.leaseClient.leaseTimeToLive({ ID: id, keys: true });
  say("lease", status.grantedTTL, status.keys.map(String));
  await lease.revoke();
  say("revoked", await client.get("leased").string());
}

async function locks() {
  const first = client.lock("lock");
  await first.acquire();
  try {
    await client.lock("lock").acquire();
  } catch (error) {
    say("second", error.constructor.name);
  }
  await first.release();
  say("do", await client.lock("lock").do(async () => "inside"));
}

async function elections() {
  const election = client.election("city", 60);
  const one = election.campaign("one");
  await once(one, "elected");
  say("leader", await election.leader());
  const observer = await election.observe();
  say("observed", observer.leader());
  const two = election.campaign("two");
  await two.getCampaignKey();
  await one.proclaim("still one");
  say("leader", await election.leader());
  const elected = once(two, "elected");
  await one.resign();
  await elected;
  say("leader", await election.leader());
  await observer.cancel();
  await two.resign();
}

async function refusals() {
  for (const attempt of [() => client.put("").value("v"), () => client.put("k").value("v").lease(4711)]) {
    try {
      await attempt();
      say("accepted");
    } catch (error) {
      say("refused", error.constructor.name, error.message);
    }
  }
}

(async () => {
  for (const part of [keys, transactions, watches, leases, locks, elections, refusals]) await part();
  client.close();
})();
