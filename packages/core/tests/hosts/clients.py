"""Clients on a host that use the cluster until a line comes, and then say what they saw.

clients.py FOLDER SEED
"""

from __future__ import annotations

import json
import sys

import msgspec

import weft
from weft.testing.cluster_clients import ClusterClients


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


weft.init(address="auto", log_to_driver=False)
clients = ClusterClients(sys.argv[1], seed=int(sys.argv[2]))
clients.begin()
say("begun")
sys.stdin.readline()
say(msgspec.to_builtins(clients.end()))
