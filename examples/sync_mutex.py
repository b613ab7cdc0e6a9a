"""The same without await: for threads, scripts and frameworks that know no event loop."""

import coord.sync


def main() -> None:
    with coord.sync.connect() as client:
        client.put("examples/sync/greeting", "hello")
        with client.mutex("examples/sync/lock").hold(timeout=30) as grant:
            print("holding, token is positive:", grant.token > 0)
            # Nothing can interrupt a thread: look before you leap.
            grant.check()
        found = client.get("examples/sync/greeting")
        print(found.value.decode() if found else "absent")
        client.delete("examples/sync/greeting")


if __name__ == "__main__":
    main()
