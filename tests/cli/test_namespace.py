"""The command in a namespace: the same outputs, for the keys under it."""

from __future__ import annotations

import json

from tests.cli.tool import coord
from tests.support.servers import ServerProcess


def test_keys_of_a_namespace(shared_coord_server: ServerProcess) -> None:
    plain = shared_coord_server.endpoint
    inside = f"etcd://{plain}/team-a/"

    def told(where: str, *words: str, stdin: str = "") -> str:
        done = coord(where, *words, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    told(plain, "put", "k", "outside")
    told(plain, "put", "team-b", "outside")
    assert told(inside, "get", "k") == ""
    assert told(inside, "put", "k", "1") == "OK\n"
    assert told(inside, "put", "k", "2", "--prev-kv") == "OK\nk\n1\n"
    assert told(inside, "get", "k") == "k\n2\n"
    assert told(plain, "get", "team-a/k") == "team-a/k\n2\n"
    assert told(inside, "get", "", "--prefix") == "k\n2\n"
    assert told(inside, "get", "a", "--from-key") == "k\n2\n"
    txn = told(
        inside, "txn", stdin='value("k") = "2"\n\nput l 3\nget k\ndel k --prev-kv\n\nget k\n\n'
    )
    assert txn == "SUCCESS\n\nOK\n\nk\n2\n\n1\nk\n2\n"
    lease = told(inside, "lease", "grant", "60").split()[1]
    told(inside, "put", "m", "4", f"--lease={lease}")
    assert "attached keys([m])" in told(inside, "lease", "timetolive", lease, "--keys")
    assert json.loads(told(inside, "get", "", "--prefix", "-w", "json"))["count"] == 2
    assert told(inside, "del", "", "--prefix") == "2\n"
    assert told(plain, "get", "k") == "k\noutside\n"
    assert told(plain, "get", "team-b") == "team-b\noutside\n"


def test_an_empty_key_stays_refused(shared_coord_server: ServerProcess) -> None:
    where = f"etcd://{shared_coord_server.endpoint}/team-a/"
    done = coord(where, "put", "", "x")
    assert done.returncode != 0
    assert "key is not provided" in done.stderr
