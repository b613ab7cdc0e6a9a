"""Time and faults on command, for tests: what takes half a minute, or a broken network, takes no time here."""

import coord
from coord.testing import Faults, MemoryWorld


def main() -> None:
    with MemoryWorld() as world:
        client = world.connect_sync()
        lease = client.lease_grant(30)
        client.put("examples/testing/worker", "here", lease=lease.lease_id)
        world.clock.advance(29)
        found = client.get("examples/testing/worker")
        print("after 29 s:", found.value.decode() if found else "gone")
        world.clock.advance(2)
        found = client.get("examples/testing/worker")
        print("after 31 s:", found.value.decode() if found else "gone")

    faults = Faults()
    with faults.everywhere(), MemoryWorld() as world:
        client = world.connect_sync()
        faults.drop_reply("Put")
        try:
            client.put("examples/testing/k", "v")
        except coord.AmbiguousResult:
            written = client.get("examples/testing/k") is not None
            print("the answer was lost, the write was not:", written)


if __name__ == "__main__":
    main()
