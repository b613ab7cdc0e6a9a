"""What the clients of ``benchmarks.faults`` find: nothing but a server, one with users, or one with certificates."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.certificates import Certificates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import coord

USER, PASSWORD = "root", "secret"
TOKEN_TTL_S = 6
CERTIFICATES_LIVE_S = 25.0


@dataclass(kw_only=True)
class Setup:
    """Flags of the server, what coord connects with, the environment of the workers, and what expires when."""

    flags: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    environment: dict[str, str] = field(default_factory=dict[str, str])
    scheme: str = "http"
    certificates: Certificates | None = None
    expires: datetime | None = None
    has_users: bool = False

    async def prepare(self, client: coord.Client) -> None:
        """Do what a running server is needed for."""
        if self.has_users:
            await client.auth.user_add(USER, PASSWORD)
            await client.auth.user_grant_role(USER, "root")
            await client.auth.enable()


def plain(_: Path) -> Setup:
    """Nothing."""
    return Setup()


def users(folder: Path) -> Setup:
    """One user, and tokens that end after a while however much they are used."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    folder.mkdir(parents=True)
    (folder / "jwt.key").write_bytes(private)
    (folder / "jwt.pub").write_bytes(public)
    token = f"jwt,pub-key={folder / 'jwt.pub'},priv-key={folder / 'jwt.key'},sign-method=RS256,ttl={TOKEN_TTL_S}s"
    return Setup(
        flags=(f"--auth-token={token}",),
        options={"user": USER, "password": PASSWORD},
        environment={"FAULT_USER": USER, "FAULT_PASSWORD": PASSWORD},
        has_users=True,
    )


def certificates(folder: Path) -> Setup:
    """Certificates of both sides that end soon."""
    made = Certificates(folder)
    expires = datetime.now(UTC) + timedelta(seconds=CERTIFICATES_LIVE_S)
    made.issue_server(until=expires)
    made.issue_client(until=expires)
    return Setup(
        flags=made.server_flags(),
        options={"tls": made.config()},
        environment={"FAULT_CERTIFICATES": str(folder)},
        scheme="https",
        certificates=made,
        expires=expires,
    )


SETUPS: dict[str, Callable[[Path], Setup]] = {"token": users, "certificates": certificates}
