"""Two users of one machine, each with a cluster: they never meet."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.slow
FIRST, SECOND = 1001, 1002
START = ("-m", "weft", "start", "--head", "--host", "127.0.0.1", "--format", "json")
# Tries all that a user may try with another's session; prints what he could.
PRY = """
import os, socket, sys
from pathlib import Path
could = []
folder = Path(sys.argv[1])
try:
    could += [str(path) for path in folder.iterdir()]
except PermissionError:
    pass
for name in ("d", "doors", "control", "credentials/token", "credentials/key.pem", "daemon.log"):
    try:
        open(folder / name, "rb").close()
        could.append(name)
    except PermissionError:
        pass
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(folder / name))
            could.append(f"socket {name}")
        except PermissionError:
            pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if b"weft" in Path("/proc", pid, "environ").read_bytes() and int(pid) != os.getpid():
            could.append(f"environment of {pid}")
    except OSError:
        pass
for path in Path("/dev/shm").rglob("*"):
    could += [str(path)] if path.stat().st_uid != os.getuid() and path.is_file() else []
print(could)
"""
JOIN = """
import sys, weft
try:
    weft.init(address=sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
else:
    print(weft.get(weft.remote(lambda: "ran").remote()))
"""


def test_users_of_one_machine_never_meet(hosts: Any) -> None:
    host = hosts.all[0]
    host.let_others_read()
    started = {}
    for user in (FIRST, SECOND):
        ended = host.python(user, *START)
        assert (ended.stderr, ended.returncode) == ("", 0)
        started[user] = json.loads(ended.stdout)
    for user, other in ((FIRST, SECOND), (SECOND, FIRST)):
        theirs = started[other]
        assert host.python(user, "-c", PRY, theirs["session_dir"]).stdout == "[]\n"
        assert host.python(user, "-c", JOIN, "auto").stdout == "ran\n"
        refused = host.python(user, "-c", JOIN, theirs["session_dir"])
        assert len(refused.stdout.splitlines()) == 1, refused
        assert refused.stdout != "ran\n"
        told = json.loads(host.python(user, "-m", "weft", "status", "--format", "json").stdout)
        (node,) = told["nodes"]
        assert node["address"] == started[user]["address"]
    stopped = host.python(FIRST, "-m", "weft", "stop").stdout
    assert started[FIRST]["session"] in stopped
    assert started[SECOND]["session"] not in stopped
    assert host.python(SECOND, "-c", JOIN, "auto").stdout == "ran\n"
    ended = host.python(FIRST, "-c", JOIN, "auto")
    assert len(ended.stdout.splitlines()) == 1
    assert "ran" not in ended.stdout
