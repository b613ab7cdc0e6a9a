"""Founders from DNS: which one is us, how the others are called, and what is no cluster."""

from __future__ import annotations

import sys

import pytest

from coord_server.bootstrap import BootstrapError
from coord_server.config import MissingExtra, load
from coord_server.initial_cluster import plan_beginning
from coord_server.srv_records import DnsResolver, SrvTarget, discovered_members
from tests.server.members.surroundings import Dns, Peers, quiet

PLAIN = "_etcd-server._tcp.example.com"
SECURE = "_etcd-server-ssl._tcp.example.com"
ADDRESSES = {
    "10.0.0.2": ["10.0.0.2"],
    "m1.example.com": ["10.0.0.1"],
    "m2.example.com": ["10.0.0.9", "10.0.0.2"],
    "m3.example.com": ["10.0.0.3"],
}


def target(number: int, port: int = 2380) -> SrvTarget:
    return SrvTarget(host=f"m{number}.example.com", port=port)


async def found(dns: Dns, *flags: str) -> dict[str, list[str]]:
    config = load(
        [
            "--name=us",
            "--discovery-srv=example.com",
            "--initial-advertise-peer-urls=http://10.0.0.2:2380",
            *flags,
        ],
        {},
        lambda _path: b"",
    )
    named = await discovered_members(config, dns, quiet()[0])
    return {name: [str(url) for url in urls] for name, urls in named.items()}


async def test_the_record_of_our_address_is_us() -> None:
    dns = Dns({PLAIN: [target(1), target(2), target(3)]}, ADDRESSES)
    assert await found(dns) == {
        "0": ["http://m1.example.com:2380"],
        "us": ["http://m2.example.com:2380"],
        "1": ["http://m3.example.com:2380"],
    }


async def test_secure_members_come_first_and_the_suffix_is_asked_for() -> None:
    dns = Dns(
        {
            "_etcd-server-ssl-blue._tcp.example.com": [target(1)],
            "_etcd-server-blue._tcp.example.com": [target(2)],
        },
        ADDRESSES,
    )
    assert await found(dns, "--discovery-srv-name=blue") == {
        "0": ["https://m1.example.com:2380"],
        "us": ["http://m2.example.com:2380"],
    }


@pytest.mark.parametrize(
    ("services", "text"),
    [
        (
            {},
            (
                "error setting up initial cluster: error querying DNS SRV records for _etcd-server-ssl "
                f"lookup {SECURE}: no such host; error querying DNS SRV records for _etcd-server "
                f"lookup {PLAIN}: no such host"
            ),
        ),
        ({PLAIN: [target(1), target(3)]}, 'cannot find local etcd member "us" in SRV records'),
        ({PLAIN: [target(2, port=1)]}, 'cannot find local etcd member "us" in SRV records'),
    ],
)
async def test_what_is_no_cluster(services: dict[str, list[SrvTarget]], text: str) -> None:
    with pytest.raises(BootstrapError) as caught:
        await found(Dns(services, ADDRESSES))
    assert str(caught.value) == text


async def test_a_record_of_another_scheme_is_not_us() -> None:
    dns = Dns({SECURE: [target(2)]}, ADDRESSES)
    with pytest.raises(BootstrapError, match=r"scheme mismatch with expected peer http://10\.0"):
        await found(dns)


async def test_our_own_address_must_be_known() -> None:
    with pytest.raises(BootstrapError, match="lookup nowhere: no such host"):
        await found(Dns({}, {}), "--initial-advertise-peer-urls=http://nowhere:2380")


async def test_all_founders_see_the_same_ids() -> None:
    dns = Dns({PLAIN: [target(1), target(2), target(3)]}, ADDRESSES | {"10.0.0.1": ["10.0.0.1"]})
    seen: set[tuple[int, ...]] = set()
    own: set[int] = set()
    for address in ("10.0.0.1", "10.0.0.2"):
        config = load(
            ["--discovery-srv=example.com", f"--initial-advertise-peer-urls=http://{address}:2380"],
            {},
            lambda _path: b"",
        )
        beginning = await plan_beginning(config, ask=Peers({}), resolver=dns, log=quiet()[0])
        seen.add(tuple(m.ID for m in beginning.members))
        own.add(beginning.identity.member_id)
    assert len(seen) == 1
    assert len(own) == 2


async def test_without_the_package_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns", None)
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    with pytest.raises(MissingExtra) as caught:
        await DnsResolver().services("example.com")
    assert str(caught.value) == (
        "--discovery-srv needs an optional package: pip install 'coord[srv]'"
    )
    assert list(await DnsResolver().addresses("10.0.0.1")) == ["10.0.0.1"]
