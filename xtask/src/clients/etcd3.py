import os, threading, etcd3

client = etcd3.client(host="127.0.0.1", port=int(os.environ["KV_PORT"]))
client.put("py/a", "1")
client.put("py/b", b"\x00\xff")
assert client.get("py/a")[0] == b"1"
assert [value for value, _ in client.get_prefix("py/")] == [b"1", b"\x00\xff"]
assert client.delete("py/a") is True
assert client.get("py/a")[0] is None
assert client.status().version
assert len(list(client.members)) == 1

# A watch of a prefix, from a revision of the past.
_, meta = client.get("py/b")
events, cancel = client.watch_prefix("py/", start_revision=meta.mod_revision)
assert next(events).value == b"\x00\xff"
assert isinstance(next(events), etcd3.events.DeleteEvent)
client.put("py/c", "new")
assert next(events).value == b"new"
cancel()

# Leases.
lease = client.lease(100)
client.put("py/leased", "x", lease=lease)
assert lease.granted_ttl == 100 and 0 < lease.remaining_ttl <= 100
assert lease.keys == [b"py/leased"]
assert lease.refresh()[0].TTL == 100
lease.revoke()
assert client.get("py/leased")[0] is None

# Transactional memory: read, change, write if nobody else has. Four at once, none lost.
client.put("py/n", "0")


def add():
    own = etcd3.client(host="127.0.0.1", port=int(os.environ["KV_PORT"]))
    for _ in range(25):
        done = False
        while not done:
            value, meta = own.get("py/n")
            done, _ = own.transaction(
                compare=[own.transactions.mod("py/n") == meta.mod_revision],
                success=[own.transactions.put("py/n", str(int(value) + 1))],
                failure=[own.transactions.get("py/n")],
            )


threads = [threading.Thread(target=add) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert client.get("py/n")[0] == b"100"

# Locks. Where somebody has the lock, this client waits by a function that its retrying library calls otherwise today: nobody waits here.
first, second = client.lock("py/lock", ttl=60), client.lock("py/lock", ttl=60)
assert first.acquire(timeout=10) and first.is_acquired()
assert not second.is_acquired()
assert first.release()
assert second.acquire(timeout=10) and second.is_acquired()
assert second.release()

assert client.hash() is not None
client.defragment()
assert list(client.list_alarms()) == []
with open(os.devnull, "wb") as nowhere:
    client.snapshot(nowhere)
client.compact(client.get("py/n")[1].mod_revision)
