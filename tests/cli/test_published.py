"""Published ports at their edges: no descriptors left, answers in fragments, clients that use a port twice, moves."""

import re
import socket

from harness import Daemon, eventually, host_case, need, once
from test_networks import SERVE, Networked, get

# Sends back what it gets, however many are connected.
ECHOES = ("use IO::Select; use IO::Socket::INET; $l = IO::Socket::INET->new(LocalPort => 80, Listen => 999, ReuseAddr => 1); "
          "$s = IO::Select->new($l); while (@r = $s->can_read) { for $c (@r) { if ($c == $l) { $s->add($l->accept) } "
          "elsif (sysread($c, $b, 99)) { syswrite($c, $b) } else { $s->remove($c); close $c } } }")


def hello(client):
    """Whether a connection is answered; a reset is an OSError."""
    client.sendall(b"hello")
    return client.recv(5) == b"hello"


@once
class Descriptors(Networked):
    def test_whoever_has_all_leaves_the_rest_alone(self):
        need("prlimit")
        self.daemon = Daemon(start=False)
        self.addCleanup(self.daemon.close)
        self.daemon.under = ["prlimit", "--nofile=512:512"]
        self.daemon.start()
        self.daemon.load("busybox.tar")
        name = self.network()
        crowded = self.run_detached("--network", name, "-p", "127.0.0.1::80", image="debian:bookworm", command=("perl", "-e", ECHOES))
        other = self.run_detached("--network", name, "-p", "127.0.0.1::80", command=("sh", "-c", SERVE, "there"))
        crowd, place = [], ("127.0.0.1", self.port(crowded))

        def connect():
            client = socket.create_connection(place, 30)
            self.addCleanup(client.close)
            return client if hello(client) else None

        def connects():
            try:
                return connect()
            except OSError:
                return None
        crowd.append(eventually(connects, "the first connection"))
        try:
            while len(crowd) < 512:
                crowd.append(connect())
        except ConnectionResetError:
            pass
        self.equal(100 < len(crowd) < 200, True, f"{len(crowd)} connections are some, and not all")
        # Everything else goes on: other ports, new ones, names, and those that are connected.
        self.serves(self.port(other), "there")
        late = self.run_detached("--network", name, "-p", "127.0.0.1::80", command=("sh", "-c", SERVE, "late"))
        self.serves(self.port(late), "late")
        self.in_container("--network", name, shell=f"nslookup -type=a {other} | grep -c '^Name:'", out="1")
        self.equal(all(map(hello, crowd)), True, "those that are connected are served")
        for client in crowd:
            client.close()
        eventually(connects, "a connection once others have ended")
