"""TLS of whole servers: certificates of their own, and names that are let in; beside etcd with the same flags."""

from __future__ import annotations

import json
import re
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import trustme

from tests.support.servers import (
    ServerProcess,
    clean_environment,
    coord_server_command,
    coord_server_process,
    end,
    etcd_binary,
    etcdctl,
    free_port,
    start_coord_server,
)

pytestmark = pytest.mark.processes

SECURE = "https://127.0.0.1:0"
UNSEEN = ("--insecure-transport=false", "--insecure-skip-tls-verify")
PATIENCE_S = 30.0


class Certificates:
    """One authority, and certificates of it by their common names."""

    NAMES: ClassVar = {
        "good": ("127.0.0.1", "localhost", "good.example"),
        "bad": ("127.0.0.1", "localhost", "bad.example"),
        "wild": ("127.0.0.1", "*.wild.example"),
        "far": ("10.1.2.3",),
    }

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        for name, sans in self.NAMES.items():
            leaf = authority.issue_cert(*sans, common_name=name)
            leaf.cert_chain_pems[0].write_to_path(self.pair(name)[0])
            leaf.private_key_pem.write_to_path(self.pair(name)[1])

    def pair(self, name: str) -> tuple[Path, Path]:
        return self._folder / f"{name}.pem", self._folder / f"{name}.key"

    def flags(self, name: str, prefix: str = "") -> list[str]:
        cert, key = self.pair(name)
        return [
            f"--{prefix}cert-file={cert}",
            f"--{prefix}key-file={key}",
            f"--{prefix}trusted-ca-file={self.ca}",
        ]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def logged(server: ServerProcess, *words: str) -> int:
    return sum(all(word in line for word in words) for line in server.log_text().splitlines())


# Certificates of their own.


@pytest.mark.etcd
def test_clients_of_a_server_with_a_certificate_of_its_own(
    tmp_path: Path, etcdctl_version: str
) -> None:
    folder = tmp_path / "data" / "fixtures" / "client"
    with coord_server_process(tmp_path, "--auto-tls", listen=SECURE) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert "serving client traffic securely" in server.messages()
        for word, value in (("put", "1"), ("put", "2")):
            done = etcdctl(server.url, *UNSEEN, word, "a", value, version=etcdctl_version)
            assert done.stdout == "OK\n"
        # A copy of the certificate tells whether it is this server.
        pinned = etcdctl(server.url, f"--cacert={folder / 'cert.pem'}", "get", "a")
        assert pinned.stdout == "a\n2\n"
        wary = etcdctl(server.url, "--insecure-transport=false", "get", "a", "--command-timeout=2s")
        assert wary.returncode != 0
        plain = etcdctl(f"http://{server.endpoint}", "get", "a", "--command-timeout=2s")
        assert plain.returncode != 0
        assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
        assert server.messages().count("automatically generate certificates") == 1
    before = (folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes()
    with coord_server_process(tmp_path, "--auto-tls", listen=SECURE) as server:
        done = etcdctl(server.url, *UNSEEN, "get", "a", version=etcdctl_version)
        assert done.stdout == "a\n2\n"
        assert "automatically generate certificates" not in server.messages()
        assert "found invalid file under data directory" not in server.messages()
    assert ((folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes()) == before


def test_without_the_library_the_extra_is_named_in_one_line(tmp_path: Path) -> None:
    stub = tmp_path / "stub" / "cryptography"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ImportError('not here')\n")
    environment = clean_environment()
    environment["PYTHONPATH"] = f"{stub.parent}:{environment.get('PYTHONPATH', '')}"
    done = subprocess.run(
        coord_server_command(
            f"--data-dir={tmp_path}/data", f"--listen-client-urls={SECURE}", "--auto-tls"
        ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["error"] == (
        "--auto-tls needs an optional package: pip install 'coord[tls]'"
    )


def of_one_cluster(urls: dict[str, str], name: str) -> list[str]:
    """What a member of a cluster of these peer URLs is told."""
    return [
        f"--name={name}",
        f"--listen-peer-urls={urls[name]}",
        f"--initial-advertise-peer-urls={urls[name]}",
        "--initial-cluster=" + ",".join(f"{n}={url}" for n, url in urls.items()),
    ]


def peer_urls(*names: str) -> dict[str, str]:
    return {name: f"https://127.0.0.1:{free_port()}" for name in names}


@contextmanager
def together(folder: Path, flags: dict[str, list[str]]) -> Generator[list[ServerProcess]]:
    """Members that serve: each waits for the others, so they are started at once."""
    for name in flags:
        (folder / name).mkdir()

    def start(name: str) -> ServerProcess:
        return start_coord_server(folder / name, *flags[name], listen=SECURE)

    with ExitStack() as stack:
        with ThreadPoolExecutor(len(flags)) as pool:
            starting = [pool.submit(start, name) for name in flags]
        for started in starting:
            if started.exception() is None:
                stack.callback(end, started.result())
        yield [started.result() for started in starting]


@contextmanager
def running(command: list[str], folder: Path) -> Generator[ServerProcess]:
    """A server that may never serve."""
    folder.mkdir(parents=True)
    path = folder / "log"
    with path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=clean_environment())
    server = ServerProcess(process, folder / "data", path)
    try:
        yield server
    finally:
        end(server)


@pytest.mark.etcd
def test_a_cluster_whose_members_made_their_own_certificates(tmp_path: Path) -> None:
    urls = peer_urls("a", "b", "c")
    flags = {name: [*of_one_cluster(urls, name), "--auto-tls", "--peer-auto-tls"] for name in urls}
    with together(tmp_path, flags) as (a, b, c):
        for key, server in (("a", a), ("b", b), ("c", c)):
            assert logged(server, "serving peer traffic", "https://") == 1
            assert etcdctl(server.url, *UNSEEN, "put", key, "1").stdout == "OK\n"
        listed = etcdctl(b.url, *UNSEEN, "get", "", "--from-key", "--keys-only").stdout.split()
        assert listed == ["a", "b", "c"]
        pair = tmp_path / "c" / "data" / "fixtures" / "peer"
        made = (pair / "cert.pem").read_bytes()
        assert c.stop() == 0
        # It may have led: a write that meets the change of leaders may be refused.
        puts = (etcdctl(a.url, *UNSEEN, "put", "d", "1") for _ in range(20))
        assert any(put.stdout == "OK\n" for put in puts)
        with coord_server_process(tmp_path / "c", *flags["c"], listen=SECURE) as again:
            assert etcdctl(again.url, *UNSEEN, "get", "d").stdout == "d\n1\n"
            assert "automatically generate certificates" not in again.messages()
        assert (pair / "cert.pem").read_bytes() == made


# Names that are let in.


@pytest.mark.etcd
def test_clients_whose_certificate_is_for_another_host_are_refused(
    tmp_path: Path, certificates: Certificates
) -> None:
    with coord_server_process(
        tmp_path,
        *certificates.flags("good"),
        "--client-cert-allowed-hostname=a.example,x.wild.example",
        listen=SECURE,
    ) as server:

        def put(name: str) -> int:
            cert, key = certificates.pair(name)
            known = (f"--cacert={certificates.ca}", f"--cert={cert}", f"--key={key}")
            return etcdctl(server.url, *known, "--command-timeout=3s", "put", "k", name).returncode

        assert put("bad") != 0
        assert put("wild") == 0
        assert put("bad") != 0
        known = [f"--cacert={certificates.ca}"]
        nobody = etcdctl(server.url, *known, "--command-timeout=2s", "put", "k", "x")
        assert nobody.returncode != 0
        cert, key = certificates.pair("wild")
        known += [f"--cert={cert}", f"--key={key}"]
        assert etcdctl(server.url, *known, "get", "k").stdout == "k\nwild\n"
        (line, *_) = [
            x for x in server.log_lines() if x["msg"] == "rejected connection on client endpoint"
        ]
        assert line["remote-addr"].startswith("127.0.0.1:")
        for words in ('CN "bad"', '"bad.example"', '["a.example", "x.wild.example"]'):
            assert words in line["error"]


@pytest.mark.etcd
@pytest.mark.parametrize(
    "limit", ["--peer-cert-allowed-cn=good", "--peer-cert-allowed-hostname=good.example"]
)
def test_peers_are_refused_both_ways_as_by_etcd(
    tmp_path: Path, certificates: Certificates, limit: str
) -> None:
    def pair(program: list[str], folder: Path, stack: ExitStack) -> list[ServerProcess]:
        """Members ``good`` and ``bad``, called like their certificates; the first refuses the other."""
        urls = peer_urls("good", "bad")
        made: list[ServerProcess] = []
        for name in urls:
            client = f"http://127.0.0.1:{free_port()}"
            command = [
                *program,
                *of_one_cluster(urls, name),
                f"--data-dir={folder / name / 'data'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                *certificates.flags(name, "peer-"),
                *([limit] if name == "good" else []),
            ]
            made.append(stack.enter_context(running(command, folder / name)))
        return made

    with ExitStack() as stack:
        good, bad = pair([etcd_binary("etcd"), "--logger=zap"], tmp_path / "etcd", stack)
        failed = "client certificate authentication failed"
        until(lambda: logged(good, "rejected connection", failed) > 0)
        # What etcd refuses when it calls shows at the other end only.
        until(lambda: logged(bad, "rejected connection", "tls: bad certificate") > 0)
        assert logged(bad, failed) == 0
    with ExitStack() as stack:
        good, bad = pair(coord_server_command(), tmp_path / "ours", stack)
        shown = r"CN \"bad\""
        until(lambda: logged(good, "rejected connection", "127.0.0.1:", shown, "good") > 0)
        until(lambda: logged(good, "failed to dial peer", shown, "good") > 0)
        assert logged(bad, shown) == logged(bad, "rejected connection") == 0
        for server in (good, bad):
            assert logged(server, "established connection with peer") == 0
            assert logged(server, "peer has connected") == 0
        assert logged(good, "rejected connection") == 1


@pytest.mark.etcd
def test_a_member_with_another_name_is_kept_out_of_a_cluster(
    tmp_path: Path, certificates: Certificates
) -> None:
    urls = peer_urls("a", "b", "c")
    flags = {
        name: [
            *of_one_cluster(urls, name),
            *certificates.flags("good", "peer-"),
            "--peer-cert-allowed-cn=other,good",
            "--auto-tls",
        ]
        for name in ("a", "b")
    }
    stranger = [
        *coord_server_command(*of_one_cluster(urls, "c"), *certificates.flags("bad", "peer-")),
        f"--data-dir={tmp_path / 'c' / 'data'}",
        f"--listen-client-urls=http://127.0.0.1:{free_port()}",
    ]
    with running(stranger, tmp_path / "c") as c, together(tmp_path, flags) as (a, b):
        for server in (a, b):
            for line in ("rejected connection", "failed to dial peer"):
                until(lambda: logged(server, line, r"CN \"bad\"") > 0)  # noqa: B023 - called at once
        assert etcdctl(a.url, *UNSEEN, "put", "k", "1").stdout == "OK\n"
        assert etcdctl(b.url, *UNSEEN, "get", "k").stdout == "k\n1\n"
        for line in ("established connection with peer", "ready to serve"):
            assert logged(c, line) == 0


def refused_for(program: list[str], folder: Path, flags: list[str]) -> str:
    """Run a program that does not start; return its reason."""
    folder.mkdir()
    done = subprocess.run(
        [*program, *flags],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    if last.startswith("coord-server: "):
        return last.removeprefix("coord-server: ")
    return str(json.loads(last)["error"])


@pytest.mark.etcd
def test_refused_settings_have_etcds_reasons(tmp_path: Path, certificates: Certificates) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    common = [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    etcd = [etcd_binary("etcd"), "--logger=zap"]
    never = [*common, "--auto-tls", "--self-signed-cert-validity=0"]
    theirs = refused_for(etcd, tmp_path / "1", never)
    assert refused_for(coord_server_command(), tmp_path / "2", never) == theirs.strip()
    both = [
        *common,
        *certificates.flags("good", "peer-"),
        "--peer-cert-allowed-cn=a",
        "--peer-cert-allowed-hostname=b",
    ]
    theirs = refused_for(etcd, tmp_path / "3", both)
    # Since 3.6 they are lists, and the text says so.
    newer = (
        re.sub(r'("\w+")', r"[\1]", theirs)
        .replace("cn=", "cns=")
        .replace("hostname=", "hostnames=")
    )
    newer = newer.replace("AllowedCN ", "AllowedCNs ").replace(
        "AllowedHostname ", "AllowedHostnames "
    )
    assert refused_for(coord_server_command(), tmp_path / "4", both) == newer


def is_served(server: ServerProcess, pair: tuple[Path, Path] | None) -> bool:
    """Whether a client with this certificate gets an answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if pair is not None:
        context.load_cert_chain(*pair)
    host, _, port = server.endpoint.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            secure.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return secure.recv(12) == b"HTTP/1.1 200"
    except (OSError, ssl.SSLError):
        return False


@pytest.mark.etcd
@pytest.mark.parametrize(
    ("allowed", "passing"),
    [
        ("", {"good", "bad", "wild", "far"}),
        ("good.example", {"good"}),
        ("GOOD.example.", {"good"}),
        ("x.wild.example", {"wild"}),
        ("y.x.wild.example", set[str]()),
        ("wild.example", set[str]()),
        ("127.0.0.1", {"good", "bad", "wild"}),
        ("good", set[str]()),
    ],
)
def test_the_same_clients_pass_as_with_etcd(
    tmp_path: Path, certificates: Certificates, allowed: str, passing: set[str]
) -> None:
    flags = certificates.flags("good")
    if allowed:
        flags.append(f"--client-cert-allowed-hostname={allowed}")
    urls = [f"https://127.0.0.1:{free_port()}" for _ in range(2)]
    commands = (
        [etcd_binary("etcd"), f"--listen-peer-urls=http://127.0.0.1:{free_port()}"],
        coord_server_command(),
    )
    for url, command in zip(urls, commands, strict=True):
        folder = tmp_path / url.rpartition(":")[2]
        command += [
            f"--data-dir={folder / 'data'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            *flags,
        ]
        with running(command, folder) as server:
            server.urls = (url,)
            until(lambda: logged(server, "serving client traffic securely") > 0)
            names = [None, *certificates.NAMES]
            served = {
                name
                for name in names
                if is_served(server, None if name is None else certificates.pair(name))
            }
            assert served == passing
