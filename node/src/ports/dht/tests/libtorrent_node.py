"""A DHT node of libtorrent, told what to do by lines of JSON: one question, one answer."""

import hashlib
import json
import sys
import time

import libtorrent as lt

PATIENCE_S = 30


def start(port):
    return lt.session({
        "listen_interfaces": f"127.0.0.1:{port}",
        "enable_dht": True,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "dht_bootstrap_nodes": "",
        "alert_mask": lt.alert.category_t.all_categories,
        # Everybody here has the address 127.0.0.1.
        "dht_restrict_routing_ips": False,
        "dht_restrict_search_ips": False,
        "dht_ignore_dark_internet": False,
        "dht_enforce_node_id": False,
        "dht_prefer_verified_node_ids": False,
        "dht_block_timeout": 1,
        "dht_block_ratelimit": 10_000,
        "dht_upload_rate_limit": 10_000_000,
    })


def wait(session, kind, wanted=lambda alert: True):
    """The first alert of this kind that is wanted."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        session.wait_for_alert(50)
        for alert in session.pop_alerts():
            if isinstance(alert, kind) and wanted(alert):
                return alert
    raise TimeoutError(kind.__name__)


def expanded(seed):
    """The form of a private key that libtorrent signs with."""
    h = bytearray(hashlib.sha512(seed).digest())
    h[0] &= 248
    h[31] = (h[31] & 63) | 64
    return bytes(h)


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def table(session, _):
    session.post_dht_stats()
    alert = wait(session, lt.dht_stats_alert)
    return {"nodes": sum(bucket["num_nodes"] for bucket in alert.routing_table)}


def put(session, ask):
    seed, public = bytes.fromhex(ask["seed"]), bytes.fromhex(ask["public"])
    salt = ask["salt"].encode()
    session.dht_put_mutable_item(expanded(seed), public, ask["value"].encode(), salt)
    return {"stored": wait(session, lt.dht_put_alert).num_success}


def get(session, ask):
    session.dht_get_mutable_item(bytes.fromhex(ask["public"]), ask["salt"].encode())
    alert = wait(session, lt.dht_mutable_item_alert, lambda a: a.authoritative)
    item = alert.item
    # Depending on the version the whole entry or its value.
    value = item.get("value", item.get(b"value")) if isinstance(item, dict) else item
    return {"value": text(value), "seq": alert.seq}


def put_immutable(session, ask):
    target = session.dht_put_immutable_item(ask["value"].encode())
    return {"target": str(target), "stored": wait(session, lt.dht_put_alert).num_success}


def get_immutable(session, ask):
    session.dht_get_immutable_item(lt.sha1_hash(bytes.fromhex(ask["target"])))
    item = wait(session, lt.dht_immutable_item_alert).item
    value = item.get("value", item.get(b"value")) if isinstance(item, dict) else item
    return {"value": text(value)}


def announce(session, ask):
    session.dht_announce(lt.sha1_hash(bytes.fromhex(ask["topic"])), ask["port"], 0)
    # libtorrent says nothing when it is done; whoever looks for it looks again.
    return {}


def peers(session, ask):
    session.dht_get_peers(lt.sha1_hash(bytes.fromhex(ask["topic"])))
    alert = wait(session, lt.dht_get_peers_reply_alert, lambda a: a.num_peers() > 0)
    return {"peers": [f"{host}:{port}" for host, port in alert.peers()]}


def main():
    port, first = int(sys.argv[1]), int(sys.argv[2])
    session = start(port)
    session.add_dht_node(("127.0.0.1", first))
    answers = [table, put, get, put_immutable, get_immutable, announce, peers]
    answers = {answer.__name__: answer for answer in answers}
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            answer = answers[ask["ask"]](session, ask)
        except Exception as error:  # told to the test, which fails with it
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


main()
