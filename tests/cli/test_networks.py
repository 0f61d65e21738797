"""Networks: their verbs, containers in them, names, published ports, and what outlives whom."""

import json
import os
import re
import signal
import socket

from harness import Case, Daemon, eventually, host_case, once

SERVE = "mkdir /w; echo $0 > /w/index.html; exec httpd -f -v -p 80 -h /w"
# Answers with the address that a datagram came from.
ECHO = ("use Socket; socket(S, PF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in(5353, INADDR_ANY)); "
        "while ($p = recv(S, $b, 999, 0)) { ($n, $a) = sockaddr_in($p); send(S, inet_ntoa($a), 0, $p) }")


def get(port, address="127.0.0.1"):
    """What a server at a published port answers; an error's name where it does not."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as client:
            client.settimeout(10)
            client.connect((address, port))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while piece := client.recv(65536):
                answer += piece
            return answer.decode().rsplit("\r\n\r\n", 1)[-1].strip()
    except OSError as error:
        return type(error).__name__


def own_address():
    """An address of this host that is not loopback, or None. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return None


class Networked(Case):
    """A case with networks of its own."""

    def network(self, *args):
        self.names += 1
        name = f"n-{self.id().rsplit('.', 1)[1].removeprefix('test_').replace('_', '-')}-{self.names}"
        self.docker("network", "create", *args, name, out=re.compile(r"^[0-9a-f]{64}\n$"))
        # After the containers, which are cleaned up before what was there before them.
        self.addCleanup(self.docker, "network", "rm", name, code=None)
        return name

    def address(self, container, network, field="IPAddress"):
        settings = self.daemon.inspect(container)["NetworkSettings"]["Networks"]
        return settings[network][field]

    def port(self, container, port="80/tcp"):
        line = self.docker("port", container, port).out.splitlines()[0]
        return int(line.rsplit(":", 1)[1])

    def serves(self, port, text, address="127.0.0.1"):
        eventually(lambda: get(port, address) == text, f"{text!r} at port {port}, not {get(port, address)!r}")


class Verbs(Networked):
    def test_create_inspect_remove(self):
        name = self.network("--subnet", "10.213.0.0/16", "--ip-range", "10.213.5.0/24", "--gateway", "10.213.5.254",
                            "--aux-address", "printer=10.213.5.1", "--label", "a=b", "--opt", "com.docker.network.driver.mtu=1400")
        network = json.loads(self.docker("network", "inspect", name).out)[0]
        self.equal(network["IPAM"]["Config"], [{"Subnet": "10.213.0.0/16", "IPRange": "10.213.5.0/24", "Gateway": "10.213.5.254",
                                                "AuxiliaryAddresses": {"printer": "10.213.5.1"}}], "IPAM.Config")
        self.equal((network["Driver"], network["Labels"], network["Scope"]), ("bridge", {"a": "b"}, "local"), "the network")
        self.docker("network", "ls", "--filter", "label=a=b", "--format", "{{.Name}}", out=name)
        self.moss("network", "ls", "-f", "label=a=b", "--format", "{{.Name}}", out=name)
        container = self.run_detached("--network", name)
        self.equal(self.address(container, name), "10.213.5.0", "the first of the range that is free")
        self.docker("exec", container, "cat", "/sys/class/net/eth0/mtu", out="1400")
        self.docker("network", "rm", name, code=1, err=re.compile(f'error while removing network: network {name} has active endpoints \\(name:"{container}" id:"'))
        self.docker("rm", "-f", container)
        self.docker("network", "rm", name, out=name)
        self.docker("network", "inspect", name, code=1, err=re.compile(f"network {name} not found|No such network: {name}"))

    def test_prune(self):
        idle, labelled, used = self.network("--label", "mine"), self.network("--label", "mine", "--label", "keep"), self.network("--label", "mine")
        # One that is only asked for counts as well.
        self.docker("create", "--name", self.name(), "--network", used, "busybox")
        self.docker("network", "prune", "-f", "--filter", "label=mine", "--filter", "label!=keep", out=f"Deleted Networks:\n{idle}")
        self.docker("network", "prune", "-f", "--filter", "label=mine", out=f"Deleted Networks:\n{labelled}")
        self.docker("network", "ls", "--filter", "label=mine", "--format", "{{.Name}}", out=used)

    def test_what_makes_no_network(self):
        name = self.network("--subnet", "10.214.0.0/24")
        # 20.10 says itself whether a network has IPv6, and options say nothing then.
        options = () if " 20.10" in self.docker("--version").out else (
            (("-o", "com.docker.network.enable_ipv6=x", "n-x"), 'driver-opt "com.docker.network.enable_ipv6" is not a valid bool'),
        )
        for args, text in (
            *options,
            (("bridge",), "operation is not permitted on predefined bridge network"),
            ((name,), f"network with name {name} already exists"),
            (("--subnet", "10.214.0.0/25", "n-x"), "Pool overlaps with other one on this address space"),
            (("--subnet", "10.215.0.1/24", "n-x"), "invalid subnet 10.215.0.1/24: it should be 10.215.0.0/24"),
            (("-d", "nosuch", "n-x"), "plugin"),
            (("-o", "com.docker.network.driver.mtu=x", "n-x"), "failed to parse com.docker.network.driver.mtu value"),
            (("-o", "com.docker.network.bridge.gateway_mode_ipv4=x", "n-x"),
             "failed to parse com.docker.network.bridge.gateway_mode_ipv4 value: x (unknown gateway mode x)"),
            (("-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated", "n-x"), "gateway mode 'isolated' can only be used for an internal network"),
            (("--ingress", "n-x"), "Ingress network can only be global scope network"),
            (("--scope", "swarm", "n-x"), "cannot create a swarm scoped network when swarm is not active"),
            (("--ipv6", "--subnet", "ff02::/64", "n-x"), "multicast subnet 'ff02::1/64' is not allowed"),
            (("--ipv6", "--subnet", "fe80::/80", "n-x"), "'fe80::1/80' clashes with the Link-Local prefix 'fe80::/64'"),
        ):
            with self.subTest(args):
                self.docker("network", "create", *args, code=1, err=re.compile(re.escape(text)))
        self.docker("network", "rm", "bridge", code=1, err=re.compile("bridge is a pre-defined network and cannot be removed"))

    def test_prune_of_what_has_no_label(self):
        used, unused = self.network(), self.network()
        name = self.name()
        self.docker("create", "--name", name, "--network", used, "busybox", "true")
        self.docker("network", "prune", "-f", "--filter", "label!=keep", out=re.compile(f"^{unused}$", re.M))
        self.docker("network", "inspect", unused, code=1)
        self.docker("network", "inspect", used)

    def test_options(self):
        name = self.network("-o", "com.docker.network.container_iface_prefix=foo", "-o", "com.docker.network.enable_ipv6=true")
        # 20.10 says itself whether a network has IPv6, and the option says nothing then.
        is_old = " 20.10" in self.docker("--version").out
        self.docker("network", "inspect", "-f", "{{.EnableIPv6}}", name, out=str(not is_old).lower())
        links = "ls /sys/class/net | grep -v ^lo"
        self.in_container("--network", name, shell=links, out="foo0")
        if is_old:
            # It has one network for a container.
            return
        label = "driver-opt=com.docker.network.endpoint"
        self.in_container("--network", f"name={name},{label}.ifname=moo", "--network", self.network(), shell=links, out="eth0\nmoo")
        sysctl = "net.ipv4.conf.IFNAME.log_martians=1"
        self.in_container("--network", f"name={name},{label}.sysctls={sysctl}", shell="cat /proc/sys/net/ipv4/conf/foo0/log_martians", out="1")
        self.docker("create", "--network", f"name={name},{label}.sysctls=net.ipv4.conf.eth0.log_martians=1", "busybox", code=1,
                    err=re.compile("unrecognised network interface sysctl 'net.ipv4.conf.eth0.log_martians=1'; represent"))
        self.docker("run", "--rm", "--network", f"name={name},{label}.sysctls={sysctl.replace('log_', 'no_')}", "busybox", code=125,
                    err=re.compile("/proc/sys/net/ipv4/conf/foo0/no_martians is not a sysctl file"))
        body = {"Name": name + "-r", "Options": {"com.docker.network.bridge.gateway_mode_ipv4": "routed"}}
        self.addCleanup(self.docker, "network", "rm", name + "-r", code=None)
        made = self.daemon.http("POST", "/networks/create", body)[2]
        self.equal("gateway_mode_ipv4=routed has no effect" in made["Warning"], True, made)

    def test_the_host_of_an_internal_network(self):
        gateway = self.field("bridge", "{{(index .IPAM.Config 0).Gateway}}", "network")
        self.in_container("--network", self.network("--internal"), "--add-host", "me:host-gateway", shell="grep me$ /etc/hosts", out=re.compile(f"^{gateway}\tme$"))

    def test_fixed_addresses(self):
        name = self.network("--subnet", "10.216.0.0/24", "--ipv6", "--subnet", "fd00:216::/64")
        first = self.run_detached("--network", name, "--ip", "10.216.0.9", "--ip6", "fd00:216::9", "--mac-address", "02:00:00:00:00:09")
        self.equal([self.address(first, name, field) for field in ("IPAddress", "GlobalIPv6Address", "MacAddress", "Gateway", "IPv6Gateway")],
                   ["10.216.0.9", "fd00:216::9", "02:00:00:00:00:09", "10.216.0.1", "fd00:216::1"], "addresses")
        self.docker("exec", first, "ip", "addr", "show", "eth0", out=re.compile("(?s)02:00:00:00:00:09.*10.216.0.9/24.*fd00:216::9/64"))
        second = self.name()
        self.docker("run", "-d", "--name", second, "--network", name, "--ip", "10.216.0.9", "busybox", code=125, err=re.compile("Address already in use"))
        self.docker("run", "--rm", "--network", name, "--ip", "10.217.0.9", "busybox", code=125,
                    err=re.compile("no configured subnet contains IP address 10.217.0.9"))
        self.in_container("--network", name, shell="ping -c1 -W5 fd00:216::9 >/dev/null && echo ok", out="ok")

    def test_connect_and_disconnect(self):
        one, two = self.network(), self.network()
        peer = self.run_detached("--network", two)
        container = self.run_detached("--network", one)
        self.docker("exec", container, "ping", "-c1", "-W1", self.address(peer, two), code=1)
        self.docker("network", "connect", "--alias", "late", two, container)
        self.docker("exec", container, "ping", "-c1", "-W5", peer, out=re.compile("1 packets received"))
        self.docker("exec", peer, "ping", "-c1", "-W5", "late", out=re.compile("1 packets received"))
        address = self.address(container, two)
        self.docker("exec", container, "grep", "-c", address, "/etc/hosts", out="1")
        self.docker("network", "connect", two, container, code=1, err=re.compile(f"endpoint with name {container} already exists in network {two}"))
        self.docker("network", "disconnect", one, container)
        self.docker("exec", container, "ip", "-o", "-4", "addr", out=re.compile(f"eth1 +inet {address}"))
        # Names and the default route go by the network that is left.
        self.docker("exec", container, "ping", "-c1", "-W5", peer, out=re.compile("1 packets received"))
        self.docker("exec", container, "ip", "route", out=re.compile(r"default via .* dev eth1"))
        self.docker("network", "disconnect", one, container, code=1, err=re.compile(f"is not connected to network {one}"))


class Reach(Networked):
    @host_case
    def test_names(self):
        name = self.network()
        self.run_detached("--network", name, "--network-alias", "web")
        other = self.run_detached("--network", name, "--network-alias", "web")
        short = self.field(other, "{{.Id}}")[:12]
        address = self.address(other, name)
        reverse = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
        script = f"""
            for name in {other} {short} {other}.{name} {other.upper()}; do nslookup -type=a $name | grep -c '^Address: {address}$'; done
            nslookup -type=a web | grep -c '^Address: '
            nslookup -type=aaaa web | grep -c 'Address: '
            nslookup -type=ptr {reverse} | grep -o 'name = .*'
            grep -h nameserver /etc/resolv.conf
            cat /proc/sys/net/ipv4/ip_unprivileged_port_start"""
        self.in_container("--network", name, shell=script, out=f"1\n1\n1\n1\n2\n0\nname = {other}.{name}\nnameserver 127.0.0.11\n0")

    def test_names_without_ipv4(self):
        name = self.network("--ipv6")
        self.docker("network", "rm", name)
        self.daemon.http("POST", "/v1.51/networks/create", {"Name": name, "EnableIPv4": False, "EnableIPv6": True})
        target = self.run_detached("--network", name)
        self.in_container("--network", name, shell=f"ping6 -c1 -W5 {target} | grep -c '1 packets received'; nslookup -type=a {target} | grep -c Address:.*[.]",
                          out="1\n0", code=1)

    def test_links_in_the_default_network(self):
        target = self.run_detached("--expose", "80", "--expose", "81", "-e", "WORD=x", "--hostname", "box")
        name = self.run_detached("--link", target + ":a-store")
        address, script = self.address(target, "bridge"), "grep a-store /etc/hosts; env | grep ^A_STORE | sort | head -n 2; ping -c1 -W5 a-store >/dev/null && echo ok"
        self.docker("exec", name, "sh", "-c", script, out=f"{address}\ta-store box {target}\nA_STORE_ENV_WORD=x\nA_STORE_NAME=/{name}/a-store\nok")
        self.docker("exec", name, "sh", "-c", "echo $A_STORE_PORT $A_STORE_PORT_80_TCP_PORT_END", out=f"tcp://{address}:80 81")
        self.equal(self.daemon.inspect(name)["HostConfig"]["Links"], [f"/{target}:/{name}/a-store"], "Links")
        # Another has its address when it comes back.
        self.docker("stop", "-t", "0", target)
        self.docker("run", "--rm", "--name", self.name(), "--link", target, "busybox", code=125, err=re.compile(
            f"Cannot link to a non running container: /{target} AS /.*/{target}"))
        other = self.run_detached()
        while self.address(other, "bridge") != address:
            other = self.run_detached()
        self.docker("start", target)
        self.equal(self.address(target, "bridge") == address, False, "the same address again")
        self.docker("exec", name, "grep", "a-store", "/etc/hosts", out=re.compile(f"^{self.address(target, 'bridge')}\ta-store"))
        self.docker("run", "--rm", "--link", "nosuch", "busybox", code=125, err=re.compile("could not get container for nosuch: No such container: nosuch"))

    def test_networks_are_apart(self):
        one, two = self.network(), self.network()
        target = self.run_detached("--network", two, command=("sh", "-c", SERVE, "secret"))
        address = self.address(target, two)
        self.in_container("--network", one, shell=f"wget -q -T 2 -O- http://{address}/ || echo none; nslookup -type=a {target} >/dev/null || echo unknown",
                          out="none\nunknown")

    def test_members_that_may_not_reach_each_other(self):
        name = self.network("--opt", "com.docker.network.bridge.enable_icc=false")
        target = self.run_detached("--network", name, "-p", "0:80", command=("sh", "-c", SERVE, "apart"))
        self.serves(self.port(target), "apart")
        address, gateway = self.address(target, name), self.address(target, name, "Gateway")
        # Neither straight nor by way of the gateway.
        self.in_container("--network", name, "--cap-add", "NET_ADMIN", shell=f"""
            wget -q -T 1 -O- http://{address}/ || echo none
            ip route add {address}/32 via {gateway}; wget -q -T 1 -O- http://{address}/ || echo none""", out="none\nnone")

    def test_no_network_at_all(self):
        name = self.name()
        status, _, _ = self.daemon.http("POST", f"/v1.44/containers/create?name={name}", {
            "Image": "busybox", "Cmd": ["ip", "-o", "link"], "NetworkDisabled": True,
            "NetworkingConfig": {"EndpointsConfig": {"bridge": {}}}})
        self.equal(status, 201, "create")
        self.docker("start", "-a", name, out=re.compile(r"^1: lo:.*\n$"))
        self.equal(self.daemon.inspect(name)["NetworkSettings"]["Networks"], {}, "Networks")

    def test_loopback_stays_inside(self):
        name = self.network()
        target = self.run_detached("--network", name, command=("sh", "-c", "mkdir /w; echo secret > /w/index.html; exec httpd -f -p 127.0.0.1:99 -h /w"))
        address, own = self.address(target, name), "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 127.0.0.1 99 | tail -n 1"
        eventually(lambda: self.docker("exec", target, "sh", "-c", own, code=None).out == "secret\n", "an answer on its own loopback")
        self.in_container("--network", name, "--cap-add", "NET_ADMIN", shell=f"""
            ip addr del 127.0.0.1/8 dev lo && ip route add 127.0.0.1/32 via {address} && {own} | grep secret || echo none""", out="none")

    def test_joined_network_has_the_files_too(self):
        target = self.run_detached("--network", self.network(), "--add-host", "h:host-gateway")
        self.in_container("--network", "container:" + target, shell="grep -c -e 127.0.0.11 /etc/resolv.conf; grep -ch h$ /etc/hosts; hostname", out=f"1\n1\n{self.field(target, '{{.Config.Hostname}}')}")


class Outside(Networked):
    @host_case
    def test_the_way_out(self):
        """To a server on this host by its own address; not by its loopback, and not from an internal network."""
        address = own_address()
        if address is None:
            self.skipTest("no address but loopback")
        with socket.socket() as server:
            server.bind((address, 0))
            server.listen()
            port = server.getsockname()[1]
            with socket.socket() as hidden:
                hidden.bind(("127.0.0.1", port))
                hidden.listen()
                ask = f"nc -w 5 {address} {port} </dev/null"
                with self.daemon.start_client("run", "--rm", "--network", self.network(), "busybox", "sh", "-c", ask) as client:
                    server.settimeout(30)
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(b"from outside\n")
                    self.equal(client.communicate()[0], b"from outside\n", "what came in")
                gateway = "ip route | sed -n 's/default via \\([^ ]*\\) .*/\\1/p'"
                self.in_container("--network", self.network(), shell=f"nc -w 2 $({gateway}) {port} </dev/null || echo none", out="none")
                self.in_container("--network", self.network("--internal"), shell=ask + " || echo none", out="none")


class Published(Networked):
    @host_case
    def test_the_clients_address_is_seen(self):
        target = self.run_detached("--network", self.network(), "-p", "0:80", command=("sh", "-c", SERVE, "served"))
        port = self.port(target)
        self.serves(port, "served")
        self.serves(port, "served", "::1")
        for wanted, found in ((f"publish={port}", target), ("publish=9", ""), ("expose=70-90/tcp", target), ("expose=80/udp", "")):
            self.docker("ps", "--format", "{{.Names}}", "--filter", "name=" + target, "--filter", wanted, out=found)
        self.docker("ps", "--filter", "publish=1:2", code=1, err=re.compile("filter for 'publish' should not contain ':': 1:2"))
        gateway = self.field(target, "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}")

        def clients():
            """Who came, by the server's log, which is written behind its answers."""
            return set(re.findall(r"\[?(?:::ffff:)?([0-9.]+)\]?:\d+:", self.docker("logs", target).err))
        eventually(lambda: clients() == {gateway}, "the gateway as who came from loopback")
        address = own_address()
        if address:
            self.serves(port, "served", address)
            eventually(lambda: clients() == {gateway, address}, f"{address} in the server's log")

    def test_udp(self):
        target = self.run_detached("-p", "0:5353/udp", image="debian:bookworm", command=("perl", "-e", ECHO))
        gateway = self.field(target, "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}")
        port = self.port(target, "5353/udp")
        for address, seen in (("127.0.0.1", gateway), (own_address(), own_address())):
            if address:
                self.asks(address, port, seen)

    def asks(self, address, port, answer):
        """Sends datagrams until that is answered."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.2)
            client.connect((address, port))

            def answered():
                client.send(b"hello")
                try:
                    return client.recv(100).decode() == answer
                except OSError:
                    return False
            eventually(answered, f"{answer} by UDP from {address}:{port}")

    def test_a_port_that_nobody_serves_is_reset(self):
        target = self.run_detached("-p", "0:80")
        self.equal(get(self.port(target)), "ConnectionResetError", "what a client of it gets")

    def test_a_port_is_had_by_one(self):
        one = self.run_detached("-p", "0:80")
        port, two = self.port(one), self.name()
        self.docker("run", "-d", "--name", two, "-p", f"{port}:80", "busybox", code=125, err=re.compile(
            f"failed to set up container networking: driver failed programming external connectivity on endpoint {two} "
            rf"\([0-9a-f]{{64}}\): Bind for 0.0.0.0:{port} failed: port is already allocated"))
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            taken = other.getsockname()[1]
            self.docker("rm", two)
            self.docker("run", "-d", "--name", two, "-p", f"127.0.0.1:{taken}:80", "busybox", code=125, err=re.compile(
                f"failed to bind host port 127.0.0.1:{taken}/tcp: address already in use"))
        self.docker("rm", "-f", one, two)
        # Who waits for an exit is not told of starts that fail.
        waiting = self.daemon.connect()
        self.addCleanup(waiting.close)
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            held = other.getsockname()[1]
            self.docker("create", "--name", two, "-p", f"127.0.0.1:{held}:80", "busybox", "sh", "-c", "exit 7")
            waiting.sendall(f"POST /containers/{two}/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            self.equal(waiting.recv(12), b"HTTP/1.1 200", "the answer's head")
            self.docker("start", two, code=1, err=re.compile("address already in use"))
        self.docker("start", two)
        self.equal(re.findall(r"\{.*\}", waiting.makefile().read()), ['{"StatusCode":7}'], "what the wait is answered")
        self.docker("rm", "-f", two)
        # Free at once, again and again.
        for _ in range(3):
            self.in_container("-p", f"{port}:80", shell="true")

    def test_what_is_shown(self):
        target = self.run_detached("-p", "127.0.0.1:0:80", "-P", "--expose", "81", "--expose", "82/udp")
        ports = self.daemon.inspect(target)["NetworkSettings"]["Ports"]
        self.equal(sorted(ports), ["80/tcp", "81/tcp", "82/udp"], "Ports")
        self.equal([place["HostIp"] for place in ports["80/tcp"]], ["127.0.0.1"], "places of 80/tcp")
        self.equal({place["HostPort"] for place in ports["81/tcp"]} & {"", "0"}, set(), "ports of 81/tcp")
        self.docker("ps", "--filter", "name=" + target, "--format", "{{.Ports}}", out=re.compile(r"127.0.0.1:\d+->80/tcp.*->82/udp"))
        own = ["--filter", "name=" + target, "--format", "{{.Names}}"]
        for wanted in ("expose=80", "expose=79-81/tcp", "expose=82/udp", f"publish={self.port(target)}"):
            self.docker("ps", *own, "--filter", wanted, out=target)
        for other in ("expose=90", "publish=80", "expose=82"):
            self.docker("ps", *own, "--filter", other, out="")
        self.docker("ps", "--filter", "publish=x", code=1, err=re.compile("error while looking up for publish x: invalid start port 'x': invalid syntax"))
        self.docker("stop", "-t", "0", target)
        self.equal(self.daemon.inspect(target)["NetworkSettings"]["Ports"], {}, "Ports of a stopped one")


def slirp_of(daemon):
    """Pid of the process that serves this daemon's networks."""
    mark = daemon.top.encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", "rb") as comm, open(f"/proc/{pid}/cmdline", "rb") as line:
                if comm.read() == b"moss-slirp\n" and mark in line.read():
                    return int(pid)
        except OSError:
            pass
    return None


@once
class Faults(Networked):
    def setUp(self):
        super().setUp()
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)
        self.daemon.load("busybox.tar")

    def test_nobody_is_missed(self):
        name = self.network("--subnet", "10.218.0.0/24")
        target = self.run_detached("--network", name, "-p", "0:80", command=("sh", "-c", SERVE, "there"))
        port = self.port(target)
        self.serves(port, "there")
        self.daemon.kill()
        self.serves(port, "there")
        os.kill(slirp_of(self.daemon), signal.SIGKILL)
        self.serves(port, "there")
        self.daemon.start()
        self.serves(port, "there")
        keeper = self.daemon.keeper()
        os.kill(keeper, signal.SIGKILL)
        eventually(lambda: self.daemon.keeper() not in (None, keeper), "another keeper, though nobody asks for anything")
        self.serves(port, "there")
        self.in_container("--network", name, shell=f"nslookup -type=a {target} | grep -c '^Address: 10.218.0.2$'; wget -qO- http://{target}/", out="1\nthere")
        self.docker("rm", "-f", target)
        self.docker("network", "rm", name)
        self.equal(self.daemon.leaks().code, 0, "exit of system check")

    @host_case
    def test_networks_outlive_the_keeper(self):
        name = self.network()
        self.in_container("--network", name, shell="true")
        self.daemon.stop()
        self.daemon.moss("system", "stop", "--containers", code=None)
        self.daemon.start()
        target = self.run_detached("--network", name)
        self.in_container("--network", name, shell=f"ping -c1 -W5 {target} >/dev/null && echo ok", out="ok")
