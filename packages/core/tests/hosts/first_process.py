"""The first process of a host: it reaps what is left to it, and ends with the test that made it."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys

heard, woken = socket.socketpair()
heard.setblocking(False)
woken.setblocking(False)
signal.set_wakeup_fd(woken.fileno())
signal.signal(signal.SIGCHLD, lambda *_: None)
sys.stdout.write("ready\n")
sys.stdout.flush()
while sys.stdin not in (ready := select.select([sys.stdin, heard], [], [])[0]):
    if heard in ready:
        heard.recv(4096)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
