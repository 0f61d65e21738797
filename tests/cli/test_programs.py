"""Programs that people run in containers and that reach for the world, to their ends, from a host of the tests' own
with a world behind two routers."""

import json
import os
import re

import world
from harness import check, eventually, need_image, once, run
from neighbours import Hosted

HERE = os.path.dirname(os.path.abspath(__file__))
# Patience of a program that does much, in seconds.
LONG = 240

# One end of a tunnel, see `world.Tunnel`; sends again what may be lost, as its like do.
TUNNEL = """
import os, socket, sys, time
address, name = sys.argv[1], sys.argv[2].encode()
def opened():
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.settimeout(1)
    return one
def until(one, wanted, said=None, to=51820):
    for _ in range(60):
        if said:
            one.sendto(said, (address, to))
        again = time.monotonic() + 1
        try:
            while time.monotonic() < again:
                data, peer = one.recvfrom(65536)
                if wanted(data, peer):
                    return data
        except socket.timeout:
            pass
    sys.exit(f"no answer to {said and said[:40]}")
hello = lambda one, to=51820: until(one, lambda data, _: data.startswith(b"hello "), name + b" hello", to)
alive = lambda one, port: until(one, lambda data, peer: (data, peer[1]) == (name + b" alive", port))
one = opened()
assert hello(one) == hello(one, 51821), "a port for each peer"
for _ in range(5):
    alive(one, 51820)
for size in [1420] * 50 + [9000, 65507]:
    said = name + b" " + os.urandom(size - len(name) - 1)
    until(one, lambda data, _: data == said, said)
first, other = one, opened()
hello(other)
first.close()
for _ in range(5):
    alive(other, 51820)
until(other, lambda data, _: data == name + b" from 51821", name + b" from 51821")
alive(other, 51821)
print("well")
"""


@once
class Programs(Hosted):
    """The world is a container behind both routers, at 198.18.0.9 and 2001:db8:3::9."""

    many_ids = True

    @classmethod
    def setUpClass(cls):
        for image in ("tools.tar", "postgres.tar"):
            need_image(image)
        super().setUpClass()
        cls.own.load("tools.tar", "postgres.tar")
        cls.own.docker("run", "-d", "--name", "world", "--network", "none", "--sysctl", "net.ipv6.conf.all.disable_ipv6=0",
                       "-v", HERE + "/world.py:/world.py:ro", "tools:1", "python3", "/world.py")
        cls.lay_ways(cls.own.docker("inspect", "-f", "{{.State.Pid}}", "world").out.strip())
        cls.write(cls.resolv_conf, "nameserver 198.18.0.9\n")
        cls.own.docker("network", "create", "--ipv6", "own")
        # One on a network of the user's, one on the default one.
        cls.clients = ("client", "other")
        cls.own.docker("run", "-d", "--name", "client", "--network", "own", "tools:1", "sleep", "1000")
        cls.own.docker("run", "-d", "--name", "other", "tools:1", "sleep", "1000")
        eventually(lambda: "serves" in cls.own.docker("logs", "world").out, "a world", 60)

    @classmethod
    def lay_ways(cls, world_pid):
        """Addresses and routes from the host to the world, and back."""
        six = "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; "
        cls.on_host("ip -6 addr add 2001:db8:1::1/64 dev v0 nodad; ip -6 route add default via 2001:db8:1::2; ip route add default via 192.0.2.2")
        cls.on_peer(six + "ip -6 addr add 2001:db8:1::2/64 dev v1 nodad; ip -6 addr add 2001:db8:2::1/64 dev v2 nodad; "
                    "ip -6 route add default via 2001:db8:2::9; ip route add 198.18.0.0/24 via 198.51.100.9")
        check(run([*cls.far, "sh", "-ec", six + "echo 1 > /proc/sys/net/ipv4/ip_forward; ip -6 addr add 2001:db8:2::9/64 dev v3 nodad; "
                   f"ip -6 route add default via 2001:db8:2::1; ip link add v4 type veth peer name v5 netns {world_pid}; "
                   "ip addr add 198.18.0.1/24 dev v4; ip -6 addr add 2001:db8:3::1/64 dev v4 nodad; ip link set v4 up"]))
        check(run([*cls.far, "nsenter", "-t", world_pid, "-n", "sh", "-ec", "ip addr add 198.18.0.9/24 dev v5; "
                   "ip -6 addr add 2001:db8:3::9/64 dev v5 nodad; ip link set v5 up; ip route add default via 198.18.0.1; "
                   "ip -6 route add default via 2001:db8:3::1"]))

    def on(self, client, shell, **expected):
        return self.docker("exec", client, "bash", "-ec", shell, **{"timeout": LONG, **expected})

    def on_both(self, shell, **expected):
        for client in self.clients:
            with self.subTest(client):
                self.on(client, shell, **expected)

    def test_apt(self):
        self.on_both("""echo 'deb [trusted=yes] http://198.18.0.9/apt ./' > /etc/apt/sources.list; rm -rf /etc/apt/sources.list.d
            apt-get -qq update; apt-get -qq -y install worldly >/dev/null 2>&1; worldly; dpkg -s worldly | grep ^Status""",
                     out="from a package\nStatus: install ok installed")

    def test_curl(self):
        digest = self.on("world", "sha256sum /srv/big").out.split()[0]
        self.on_both("curl -sS http://world.example/big | tee /tmp/big | sha256sum; curl -sS -T /tmp/big http://198.18.0.9/put",
                     out=f"{digest}  -\n{digest}")
        self.on("client", "curl -sS 'http://[2001:db8:3::9]/big' | sha256sum; curl -sS -T /tmp/big 'http://[2001:db8:3::9]/put'; "
                "curl -sS -6 -o /dev/null -w ' %{remote_ip}' http://world.example/simple/", out=f"{digest}  -\n{digest} 2001:db8:3::9")
        self.on_both("curl -sS http://198.18.0.9:81/", code=7, err=re.compile("Failed to connect|Connection refused"))

    def test_git(self):
        self.on_both("""cd /tmp; git clone -q http://world.example/repo.git by-http; git clone -q git://world.example/repo.git by-git
            cd by-git; git config user.name x; git config user.email x; git checkout -q -b $HOSTNAME
            head -c 3000000 /dev/urandom > more; git add more; git commit -qm more; git push -q origin $HOSTNAME
            git fetch -q; git diff --stat origin/$HOSTNAME; git fsck; git ls-files | wc -l; git -C /tmp/by-http fsck""", out="102")

    def test_pip(self):
        self.on_both("""pip -q install --root-user-action ignore --break-system-packages --disable-pip-version-check \\
            --index-url http://world.example/simple --trusted-host world.example worldlywheel
            python3 -c 'import worldlywheel; print(worldlywheel.WORD)'""", out="from a wheel")

    def test_psql(self):
        server = self.name()
        self.docker("run", "-d", "--name", server, "--network", "container:world", "-e", "POSTGRES_PASSWORD=pass", "postgres:15")
        eventually(lambda: self.docker("exec", server, "psql", "-h", "127.0.0.1", "postgresql://postgres:pass@127.0.0.1/", "-c", "select 1", code=None).code == 0,
                   "a server", 60)
        self.docker("exec", "-u", "postgres", server, "sh", "-c", "echo host all all all scram-sha-256 >> $PGDATA/pg_hba.conf; pg_ctl reload", out=re.compile("signaled"))
        ask = "psql -qAt postgresql://postgres:pass@world.example/"
        eventually(lambda: self.on("client", f"{ask} -c 'select 1'", code=None).code == 0, "a server for all", 30)
        self.on_both(f"""{ask} -c 'create table "t-'$HOSTNAME'" (n int, t text)'
            seq 20000 | sed 's/$/\\tsome text/' | {ask} -c "\\\\copy \\"t-$HOSTNAME\\" from stdin"
            {ask} -c "select sum(n) from \\"t-$HOSTNAME\\""; {ask} -c "\\\\copy \\"t-$HOSTNAME\\" to stdout" | wc -l""", out="200010000\n20000")

    def test_dig(self):
        counted = "grep -c 'IN.*TXT.*xxx'"
        for server in ("@198.18.0.9", ""):  # the container's own, 127.0.0.11 where its network is the user's
            self.on_both(f"""dig +short {server} world.example; dig +short +tcp {server} world.example; dig +short {server} world.example AAAA
                dig {server} big.example TXT | {counted}; dig +noedns {server} big.example TXT | {counted}
                dig +bufsize=4096 +notcp +ignore @198.18.0.9 big.example TXT | {counted}""",
                         out="198.18.0.9\n198.18.0.9\n2001:db8:3::9\n15\n15\n15")
        self.on("client", "dig +short @127.0.0.11 client; dig world.example", out=re.compile(r"(?s)^\d+\.\d+\.\d+\.\d+\n.*SERVER: 127\.0\.0\.11#53"))

    def test_ping(self):
        self.on_both("ping -c 2 -i 0.2 -W 30 world.example; ping -c 1 -W 30 -s 8000 198.18.0.9", out=re.compile("(?s)2 received.*8008 bytes.*1 received"))
        self.on("client", "ping -6 -c 1 -W 30 world.example", out=re.compile("1 received"))
        self.on_host("echo 1 0 > /proc/sys/net/ipv4/ping_group_range")
        try:
            self.on_both("ping -c 1 -W 30 198.18.0.9", code=1, out=re.compile("Prohibited|filtered"))
        finally:
            self.on_host("echo 0 0 > /proc/sys/net/ipv4/ping_group_range")

    def test_traceroute(self):
        hops = re.compile(r"(?s) 1  (10|172|192)\..* 2  192.0.2.2 .* 3  198.51.100.9 .* 4  198.18.0.9 ")
        for flag in ("", "-I"):
            self.on_both(f"traceroute -n -q 1 -N 1 -w 30 -m 6 {flag} 198.18.0.9", out=hops)

    def test_iperf3(self):
        ports = iter(world.PERFORMANCE)
        for client in self.clients:
            for args in ("-n 128M", "-n 128M -R", "-u -b 200M -n 4M", "-u -b 200M -n 4M -R"):
                with self.subTest((client, args)):
                    end = json.loads(self.on(client, f"iperf3 -J -c 198.18.0.9 -p {next(ports)} {args}").out)["end"]
                    if "-u" in args:
                        whole = end["sum"]["packets"] > 1000 and end["sum"]["lost_packets"] < end["sum"]["packets"]
                    else:
                        whole = end["sum_sent"]["bytes"] >= 128 << 20 and end["sum_received"]["bytes"] > 0
                    self.equal(whole, True, f"what iperf3 {args} brought there: {end}")

    def test_tunnel(self):
        for client in self.clients:
            self.docker("exec", client, "python3", "-c", TUNNEL, "198.18.0.9", client, out="well", timeout=LONG)
