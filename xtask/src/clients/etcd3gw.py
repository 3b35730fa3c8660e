import base64, os, threading, etcd3gw

client = etcd3gw.client(host="127.0.0.1", port=int(os.environ["KV_PORT"]), api_path="/v3/")
client.put("gw/a", "1")
assert client.get("gw/a") == [b"1"]
assert client.create("gw/b", "2") is True
assert client.create("gw/b", "3") is False
assert client.replace("gw/b", "2", "4") is True
assert [value for value, _ in client.get_prefix("gw/")] == [b"1", b"4"]
assert client.delete("gw/a") is True
assert client.status()["version"]
assert len(client.members()) == 1

# Leases.
lease = client.lease(ttl=100)
client.put("gw/leased", "x", lease=lease)
assert 0 < lease.ttl() <= 100
assert lease.refresh() == 100
assert lease.keys() == [b"gw/leased"]
assert lease.revoke() is True
assert client.get("gw/leased") == []

# A watch.
timer = threading.Timer(0.5, lambda: client.put("gw/w", "seen"))
timer.start()
event = client.watch_once("gw/w", timeout=30)
timer.join()
assert event["kv"]["value"] == b"seen", event

# Locks.
first, second = client.lock("gw/lock", ttl=60), client.lock("gw/lock", ttl=60)
assert first.acquire()
assert not second.acquire()
assert first.is_acquired()
assert first.release()
assert second.acquire()
assert second.release()

# A transaction.
key = base64.b64encode(b"gw/t").decode()
answer = client.transaction({
    "compare": [{"key": key, "result": "EQUAL", "target": "CREATE", "create_revision": 0}],
    "success": [{"request_put": {"key": key, "value": key}}],
    "failure": [],
})
assert answer["succeeded"] is True
