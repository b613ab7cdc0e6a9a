"""What the guide about users and certificates shows is what happens, on a real etcd."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.docs.pages import ROOT, blocks
from tests.support.certificates import Certificates
from tests.support.servers import clean_environment, free_port, real_etcd

GUIDE = ROOT / "docs" / "guides" / "security.md"
# They need stores of their own.
SETUP, LOGIN, CERTIFICATES = [block.text for block in blocks(GUIDE) if block.run_by is not None]


def run(block: str, folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=folder,
        env=clean_environment({"PYTHONPATH": os.pathsep.join(sys.path), **environment}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_users(tmp_path: Path) -> None:
    (tmp_path / "worker.password").write_text("another long password\n")
    with real_etcd(tmp_path / "etcd") as server:
        store = {"COORD_ENDPOINTS": server.endpoint}
        assert run(SETUP, tmp_path, store) == "enabled\n"
        assert run(LOGIN, tmp_path, store).startswith("working ")


def test_certificates(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    with real_etcd(
        tmp_path / "etcd",
        *certificates.server_flags(),
        listen=f"https://127.0.0.1:{free_port()}",
    ) as server:
        store = {"COORD_ENDPOINTS": server.endpoint}
        assert run(CERTIFICATES, certificates.folder, store) == "encrypted\n"
