"""Published ports at their edges: no descriptors left, answers in fragments, clients that use a port twice, moves."""

import re
import socket
import threading

from harness import Daemon, check, eventually, host_case, need, once, run
from neighbours import Hosted
from test_networks import SERVE, Networked

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


# Sends back, from either family, as many bytes as are asked for.
AT_LENGTH = ("use Socket qw(:DEFAULT inet_pton IN6ADDR_ANY pack_sockaddr_in6); socket(S, PF_INET6, SOCK_DGRAM, 0); "
             "bind(S, pack_sockaddr_in6(7000, IN6ADDR_ANY)); while ($p = recv(S, $b, 99, 0)) { send(S, 'x' x $b, 0, $p) }")

# Asks for that many bytes, until there is an answer.
ASK = """
import socket, sys
for family, _, _, _, address in socket.getaddrinfo(sys.argv[1], 7200, type=socket.SOCK_DGRAM):
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        client.connect(address)
        for attempt in range(40):
            try:
                client.send(sys.argv[2].encode())
                print(len(client.recv(70000)))
                break
            except OSError:
                pass
"""

# Connects from one port to each address given, with both protocols; prints who each says it came from.
ONE_PORT = """
import socket, sys, time
places = [(place.rsplit(':', 1)[0], int(place.rsplit(':', 1)[1])) for place in sys.argv[1:]]
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    clients, seen = [], []
    for place in places:
        client = socket.socket(socket.AF_INET, kind)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(("192.0.2.2", 40011))
        client.settimeout(0.5)
        for attempt in range(200):
            try:
                client.connect(place)
                client.send(b"who")
                seen.append(client.recv(99).decode())
                break
            except OSError:
                time.sleep(0.1)
        clients.append(client)
    print(*seen)
"""

# Tells whoever asks, by TCP or UDP, what address that is.
WHO = ("use IO::Select; use IO::Socket::INET; $l = IO::Socket::INET->new(LocalPort => 7000, Listen => 99, ReuseAddr => 1); "
       "$u = IO::Socket::INET->new(LocalPort => 7000, Proto => 'udp'); $s = IO::Select->new($l, $u); "
       "while (@r = $s->can_read) { for $c (@r) { if ($c == $u) { $u->recv($b, 99); $u->send($u->peerhost) } "
       "elsif ($c == $l) { $s->add($l->accept) } elsif (sysread($c, $b, 99)) { syswrite($c, $c->peerhost) } "
       "else { $s->remove($c); close $c } } }")


class Moves(Networked):
    def test_a_port_is_open_while_it_moves(self):
        # The first by name has the default route of a container that is in both.
        first, second = self.network(), self.network()
        target = self.run_detached("--network", second, "-p", "127.0.0.1::80", image="debian:bookworm", command=("perl", "-e", ECHOES))
        place = ("127.0.0.1", self.port(target))

        def served():
            try:
                with socket.create_connection(place, 30) as client:
                    return hello(client)
            except ConnectionResetError:
                return False
        eventually(served, "an answer")
        refused, over = [], threading.Event()

        def knock():
            while not over.wait(0.001):
                try:
                    socket.create_connection(place, 30).close()
                except OSError as error:
                    # Whoever comes when it moves may be reset.
                    if not isinstance(error, ConnectionResetError):
                        refused.append(error)
        knocks = threading.Thread(target=knock)
        knocks.start()
        try:
            for _ in range(3):
                for verb in ("connect", "disconnect"):
                    self.docker("network", verb, first, target)
                    self.equal(served(), True, f"it is served after {verb}")
        finally:
            over.set()
            knocks.join()
        self.equal(refused, [], "errors of those who knocked meanwhile")


@once
@host_case
class Clients(Hosted):
    def test_long_answers_arrive(self):
        self.on_host("ip -6 addr add fd00:c0::1/64 dev v0 nodad")
        self.on_peer("ip -6 addr add fd00:c0::2/64 dev v1 nodad")
        name = self.network("--ipv6", "--subnet", "fd00:c1::/64", "--subnet", "10.219.0.0/24")
        self.run_detached("--network", name, "-p", "7200:7000/udp", image="debian:bookworm", command=("perl", "-e", AT_LENGTH))
        for address in ("192.0.2.1", "fd00:c0::1"):
            for length in (1400, 1473, 9000, 60000):
                with self.subTest(address, length=length):
                    check(run([*self.peer, "python3", "-c", ASK, address, str(length)]), out=str(length))
        # From loopback, where the container sees the gateway.
        check(run([*self.host, "python3", "-c", ASK, "127.0.0.1", "9000"]), out="9000")

    def test_one_port_of_a_client_for_several(self):
        target = self.run_detached("-p", "7000:7000", "-p", "7010:7000", "-p", "7000:7000/udp", "-p", "7010:7000/udp",
                                   image="debian:bookworm", command=("perl", "-e", WHO))
        gateway = self.field(target, "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}")
        check(run([*self.peer, "python3", "-c", ONE_PORT, "192.0.2.1:7000", "192.0.2.1:7010", "192.0.2.3:7000"]),
              out=re.compile(rf"^192\.0\.2\.2 {gateway} {gateway}\n192\.0\.2\.2 {gateway} {gateway}$"))
