"""The way out, and ports, on a host of the tests' own, whose addresses, routes and name servers are theirs to
change."""

import os
import re
import signal
import subprocess
import sys
import textwrap

from harness import eventually, host_case, once, run
from neighbours import Hosted
from test_networks import slirp_of

# A program for the host or a neighbour: answers each datagram with the address that asked, and each
# connection with a word. Arguments: the word, and addresses to serve at.
SERVER = """
    import socket, sys, threading
    word, port = sys.argv[1].encode(), int(sys.argv[2])
    def streams(server):
        while True:
            connection, peer = server.accept()
            connection.sendall(word + b" " + peer[0].encode() + b"\\n")
            connection.close()
    def datagrams(server):
        while True:
            _, peer = server.recvfrom(2000)
            server.sendto(word + b" " + peer[0].encode(), peer)
    for address in sys.argv[3:]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        server, other = socket.socket(family), socket.socket(family, socket.SOCK_DGRAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for one in (server, other):
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address, port))
        server.listen()
        threading.Thread(target=streams, args=(server,)).start()
        threading.Thread(target=datagrams, args=(other,)).start()
    print("serves", flush=True)
"""

# Answers each datagram with how many there were.
COUNTER = """
    import socket, sys
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((sys.argv[1], int(sys.argv[2])))
    print("serves", flush=True)
    count = 0
    while True:
        _, peer = server.recvfrom(2000)
        count += 1
        server.sendto(str(count).encode(), peer)
"""

# In a container: one datagram that says it is from where it goes to.
FORGED = """use Socket; socket(S, PF_INET, SOCK_RAW, 255) or die $!; $to = inet_aton($ARGV[0]);
    send(S, pack("CCnnnCCna4a4 nnnn", 69, 0, 28, 0, 0, 64, 17, 0, $to, $to, $ARGV[1], $ARGV[1], 8, 0), 0, sockaddr_in(0, $to)) or die $!"""

# Answers every question for a name with one address.
RESOLVER = """
    import socket, sys
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((sys.argv[1], 53))
    print("serves", flush=True)
    while True:
        question, peer = server.recvfrom(2000)
        end = question.index(b"\\0", 12) + 5
        server.sendto(question[:2] + bytes.fromhex("818000010001 00000000") + question[12:end]
                      + bytes.fromhex("c00c00010001 0000000a 0004") + socket.inet_aton(sys.argv[2]), peer)
"""

# Asks by UDP from anywhere, and says who answered what.
ASK = """
    import socket, sys
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.settimeout(0.3)
    for _ in range(100):
        asker.sendto(b"?", (sys.argv[1], int(sys.argv[2])))
        try:
            answer, peer = asker.recvfrom(2000)
        except OSError:
            continue
        print(peer[0], answer.decode())
        break
"""

# In a container: answers datagrams at 5353 and connections at 80 with the address that they came from;
# or asks, given an address and a port.
ECHO = """use Socket; use IO::Socket::INET;
    if ($ARGV[0]) {
        $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Proto => "udp") or die $!;
        for (1..100) { syswrite($s, "?"); vec($r = "", fileno($s), 1) = 1; select($r, undef, undef, 0.3) && sysread($s, $b, 99) && last }
        print $b; exit
    }
    socket(S, PF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in(5353, INADDR_ANY));
    socket(T, PF_INET, SOCK_STREAM, 0); bind(T, sockaddr_in(80, INADDR_ANY)); listen(T, 9);
    if (fork) { while ($p = recv(S, $b, 999, 0)) { ($n, $a) = sockaddr_in($p); send(S, inet_ntoa($a), 0, $p) } }
    while ($p = accept(C, T)) { ($n, $a) = sockaddr_in($p); syswrite(C, inet_ntoa($a) . "\n"); close(C) }"""


@once
class Host(Hosted):
    """What is at the host's own addresses, and what changes there."""

    def serve(self, where, program, *args):
        server = subprocess.Popen([*where, sys.executable, "-c", textwrap.dedent(program), *args], stdout=subprocess.PIPE)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        self.addCleanup(server.stdout.close)
        self.equal(server.stdout.readline(), b"serves\n", "a server's word")

    def ask(self, where, address, port):
        return run([*where, sys.executable, "-c", textwrap.dedent(ASK), address, str(port)]).out.strip()

    def test_the_hosts_loopback(self):
        """By the gateway's address: services of the host at 127.0.0.1, and what else is at the gateway as before."""
        self.serve(self.host, SERVER, "inner", "7000", "127.0.0.1")
        by_name = "nc -w 9 host.docker.internal 7000 </dev/null"
        network = self.network()
        for args in ((), ("--network", network)):
            self.in_container(*args, shell=by_name, out="inner 127.0.0.1")
        self.in_container("--network", network, image="debian:bookworm", out="inner 127.0.0.1",
                          shell=f"perl -e '{ECHO}' $(getent hosts host.docker.internal | cut -d' ' -f1):7000")
        target = self.run_detached("--network", network, "-p", "8000:80", command=("sh", "-c", "echo page > /index.html; exec httpd -f -p 80 -h /"))
        # From the host's own loopback, and by it from a neighbour: both appear as the gateway.
        eventually(lambda: self.docker("exec", target, "wget", "-qO-", "http://host.docker.internal:8000/", code=None).out == "page\n", "the page")
        self.in_container("--network", network, shell=f"wget -qO- http://{target}/; wget -qO- http://host.docker.internal:8000/", out="page\npage")

    def test_a_forged_source(self):
        """The answer does not go out again as a question of its own, which would be answered, and so on."""
        self.serve(self.peer, COUNTER, "192.0.2.2", "7003")
        count = lambda: int(self.ask(self.host, "192.0.2.2", 7003).split()[1])
        counts = [count()]

        def others():
            counts.append(count())
            return counts[-1] - counts[-2] - 1

        self.in_container(image="debian:bookworm", shell=f"perl -e '{FORGED}' 192.0.2.2 7003", out="")
        eventually(others, "the forged datagram")
        self.in_container(shell="true", out="")
        self.equal(others(), 0, "datagrams since")

    def test_the_hosts_own_addresses(self):
        """Services there are reached as from the host, published ports among them; answers come from where was asked."""
        self.serve(self.host, SERVER, "host", "7001", "0.0.0.0")
        self.run_detached("-p", "8001:80", "-p", "9001:5353/udp", image="debian:bookworm", command=("perl", "-e", ECHO))
        self.in_container(shell="nc -w 9 192.0.2.1 7001 </dev/null; nc -w 9 192.0.2.3 8001 </dev/null", out="host 192.0.2.1\n192.0.2.1")
        self.in_container("--network", self.network(), image="debian:bookworm", shell=f"perl -e '{ECHO}' 192.0.2.3:9001", out="192.0.2.1")
        # A neighbour is seen as itself, and answered from the address that it asked.
        for address in ("192.0.2.1", "192.0.2.3"):
            self.equal(self.ask(self.peer, address, 9001), address + " 192.0.2.2", "who answered whom")

    def test_what_the_host_changes(self):
        """Routes, name servers, families and addresses come and go under a running container."""
        self.serve(self.peer, SERVER, "far", "7000", "0.0.0.0", "::")
        self.serve(self.peer, RESOLVER, "192.0.2.2", "203.0.113.9")
        self.serve(self.host, RESOLVER, "127.0.0.53", "192.0.2.2")
        name = self.run_detached("--network", self.network("--ipv6"))
        says = lambda address: self.docker("exec", name, "sh", "-c", f"nc -w 9 {address} 7000 </dev/null", code=None)
        unreachable = lambda address: "Network is unreachable" in says(address).err
        self.equal(unreachable("far.example"), True, "no route yet")
        self.on_host("ip route add 203.0.113.0/24 via 192.0.2.2")
        self.equal(says("far.example").out, "far 192.0.2.1\n", "an answer by the new route")
        self.equal(unreachable("2001:db8::9"), True, "no IPv6 yet")
        self.on_peer("ip -6 addr add 2001:db8::9/64 dev v1 nodad")
        self.on_host("ip -6 addr add 2001:db8::1/64 dev v0 nodad")
        eventually(lambda: says("2001:db8::9").out == "far 2001:db8::1\n", "an answer by IPv6")
        self.write(self.resolv_conf, "nameserver 127.0.0.53\n")
        self.equal(says("far.example").out, "far 192.0.2.1\n", "another name server's answer")
        self.docker("exec", name, "nslookup", "-type=a", "far.example", out=re.compile(r"Address: 192\.0\.2\.2\n"))
        self.on_host("ip route replace 203.0.113.0/24 via 192.0.2.2 src 192.0.2.3")
        self.equal(says("203.0.113.9").out, "far 192.0.2.3\n", "an answer to another address")

    def test_the_routers_on_the_way(self):
        """Are seen by each protocol, as from the host but for the network's own."""
        self.serve(self.far, SERVER, "far", "7000", "0.0.0.0")
        name = self.run_detached("--network", self.network("--subnet", "10.219.0.0/24"), image="debian:bookworm")
        hops = re.compile(r"(?s) 1 +10.219.0.1 .* 2 +192.0.2.2 .* 3 +198.51.100.9 ")
        shares = ("--network", "container:" + name)
        for flag in ((), ("-I",)):
            self.docker("run", "--rm", *shares, "busybox", "traceroute", "-n", "-q", "1", "-w", "9", "-m", "5", *flag, "198.51.100.9", out=hops)
        connect = """perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); setsockopt(S, IPPROTO_IP, IP_TTL, pack("i", $ARGV[0]));
            print connect(S, sockaddr_in(7000, inet_aton("198.51.100.9"))) ? <S> : "$!\n"' """
        for hops, said in ((1, "No route to host"), (2, "No route to host"), (3, "far 192.0.2.1")):
            self.docker("exec", name, "sh", "-c", connect + str(hops), out=said)
        self.docker("run", "--rm", *shares, "busybox", "ping", "-c", "1", "-W", "9", "198.51.100.9", out=re.compile("1 packets received"))

    def test_another_slirp(self):
        """In the place of one that died leads out, though nobody asks for anything."""
        self.serve(self.peer, SERVER, "near", "7002", "192.0.2.2")
        name = self.run_detached("--network", self.network())
        says = lambda: self.docker("exec", name, "sh", "-c", "nc -w 9 192.0.2.2 7002 </dev/null", code=None).out
        self.equal(says(), "near 192.0.2.1\n", "an answer")
        slirp = slirp_of(self.daemon)
        os.kill(slirp, signal.SIGKILL)
        eventually(lambda: slirp_of(self.daemon) not in (None, slirp), "another slirp")
        eventually(lambda: says() == "near 192.0.2.1\n", "an answer by the other one")

    @host_case
    def test_packets_threads_are_confined(self):
        self.run_detached()
        mark = self.daemon.top.encode()

        def threads(name):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    with open(f"/proc/{pid}/cmdline", "rb") as line:
                        if mark not in line.read():
                            continue
                    for task in os.listdir(f"/proc/{pid}/task"):
                        with open(f"/proc/{pid}/task/{task}/status", encoding="utf-8") as status:
                            text = status.read()
                        if text.startswith(f"Name:\t{name}\n"):
                            yield dict(re.findall(r"^(\w+):\t(.*)$", text, re.M))
                except OSError:
                    pass

        status = eventually(lambda: list(threads("egress")), "a thread that reads packets")[0]
        self.equal((status["Seccomp"], status["NoNewPrivs"], int(status["CapEff"], 16), int(status["CapPrm"], 16)), ("2", "1", 0, 0), "its confinement")

