"""Certificates on disk, made anew as a test wants: those of an authority, a server and a client."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import trustme

import coord


class Certificates:
    """A folder with ``ca.pem``, ``server.pem`` and ``.key``, ``client.pem`` and ``.key``; :meth:`rotate` replaces all.

    The server trusts the clients of ``clients-ca.pem``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.rotate()

    def rotate(self, common_name: str | None = None) -> None:
        """Begin with a new authority, which nothing signed by the old one satisfies."""
        self.authority = trustme.CA()
        self.issue_server()
        self.issue_client(common_name)
        for name in ("ca.pem", "clients-ca.pem"):
            self.authority.cert_pem.write_to_path(self.path(name))

    def issue_server(self, *, until: datetime | None = None) -> None:
        """Replace the server's certificate by one that is valid ``until`` then."""
        self._issue("server", self.authority.issue_cert("127.0.0.1", not_after=until))

    def issue_client(
        self, common_name: str | None = None, *, until: datetime | None = None
    ) -> None:
        """Replace the client's certificate."""
        pair = self.authority.issue_cert("client@test", common_name=common_name, not_after=until)
        self._issue("client", pair)

    def _issue(self, name: str, pair: trustme.LeafCert) -> None:
        pair.private_key_pem.write_to_path(self.path(f"{name}.key"))
        pair.cert_chain_pems[0].write_to_path(self.path(f"{name}.pem"))

    def path(self, name: str) -> str:
        """The path of a file."""
        return str(self.folder / name)

    def config(self) -> coord.TlsConfig:
        """What a client is told."""
        return coord.TlsConfig(
            ca=self.path("ca.pem"), cert=self.path("client.pem"), key=self.path("client.key")
        )

    def server_flags(self) -> tuple[str, ...]:
        """The flags of a server that wants certificates from its clients."""
        return (
            f"--cert-file={self.path('server.pem')}",
            f"--key-file={self.path('server.key')}",
            f"--trusted-ca-file={self.path('clients-ca.pem')}",
            "--client-cert-auth",
        )
