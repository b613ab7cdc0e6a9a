"""A data directory, and a server on it that is stopped and started, in a time of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio

from coord.runtime import TcpAddress, real_env
from coord_server.config import Config
from coord_server.embed import start_embedded
from tests.server.endpoint import LOOPBACK, Endpoint, JumpingClock


class Place:
    """One directory. Fields of the configuration may change between two starts."""

    def __init__(
        self,
        path: Path,
        *,
        data_dir: str = "d",
        **settings: Any,  # noqa: ANN401 - of Config
    ) -> None:
        self.directory = path / data_dir
        self.settings = settings
        self.clock = JumpingClock(real_env().clock)

    async def start(self) -> Endpoint:
        real = real_env()
        config = replace(Config(name="test", listen_client_urls=LOOPBACK), **self.settings)
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        server = await start_embedded(
            net=real.net,
            env=replace(real, clock=self.clock),
            data_dir=str(self.directory),
            config=config,
        )
        address = server.client_addresses[0]
        assert isinstance(address, TcpAddress)
        options = [("grpc.max_receive_message_length", -1)]
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{address.port}", options)
        return Endpoint(server, channel, self.clock)

    async def stop(self, site: Endpoint) -> None:
        await site.channel.close()
        await site.server.stop()

    def scratch(self) -> list[str]:
        """The files that live no longer than a call."""
        return [path.name for path in (self.directory / "member").glob("snapshot-*")]
