"""A host of the tests' own for a daemon: network namespaces of which one is the daemon's host, and the others
its neighbours, that play the world."""

import os
import subprocess
import tempfile
import unittest

from harness import Daemon, check, eventually, need, run
from test_networks import Networked


class Hosted(Networked):
    """The daemon's host is 192.0.2.1 (and .3) beside a neighbour at 192.0.2.2, which has 203.0.113.9 too, and
    is the way to 198.51.100.9."""

    # The ids of the host's user namespace: with the user's subordinate ones its containers have many users.
    many_ids = False

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for program in ("ip", "nsenter", "unshare"):
            need(program)
        files = tempfile.TemporaryDirectory()
        cls.addClassCleanup(files.cleanup)
        os.chmod(files.name, 0o755)
        cls.resolv_conf = files.name + "/resolv.conf"
        cls.write(cls.resolv_conf, "nameserver 192.0.2.2\n")
        cls.write(files.name + "/subid", "root:1:65535\n")
        outer = cls.sleeper(["unshare", "--user", "--map-root-user", *["--map-auto"] * cls.many_ids, "--net", "--mount"])
        cls.host = ["nsenter", "-t", str(outer), "-U", "-n", "-m", "--preserve-credentials"]
        if not cls.enters(cls.host):
            raise unittest.SkipTest("no namespaces of one's own")
        if cls.many_ids:
            cls.on_host(f"for file in /etc/subuid /etc/subgid; do mount --bind {files.name}/subid $file; done")
        (peer, cls.peer), (cls.far_pid, cls.far) = cls.neighbour(outer), cls.neighbour(outer)
        cls.on_host(f"mount --bind {cls.resolv_conf} /etc/resolv.conf; ip link set lo up; ip link add v0 type veth peer name v1 netns {peer}; "
                    "ip addr add 192.0.2.1/24 dev v0; ip addr add 192.0.2.3/24 dev v0; ip link set v0 up")
        # Whoever may ping is in this file; by the default nobody is.
        cls.on_host("echo 0 0 > /proc/sys/net/ipv4/ping_group_range; ip link set v0 up; ip route add 198.51.100.0/24 via 192.0.2.2 || true")
        cls.on_peer(f"ip link set lo up; ip addr add 192.0.2.2/24 dev v1; ip addr add 203.0.113.9/32 dev lo; ip link set v1 up; "
                    f"ip link add v2 type veth peer name v3 netns {cls.far_pid}; ip addr add 198.51.100.1/24 dev v2; ip link set v2 up; echo 1 > /proc/sys/net/ipv4/ip_forward")
        check(run([*cls.far, "sh", "-ec", "ip addr add 198.51.100.9/24 dev v3; ip link set v3 up; ip link set lo up; ip route add default via 198.51.100.1"]))
        cls.own = Daemon(start=False)
        cls.addClassCleanup(cls.close)
        cls.write(cls.own.env["XDG_CONFIG_HOME"] + "/moss/daemon.json", '{"host-loopback": true}')
        cls.own.under = cls.host
        cls.own.start()
        cls.own.load("busybox.tar")

    def setUp(self):
        self.daemon, self.names = self.own, 0

    @classmethod
    def close(cls):
        leaks = cls.own.close()
        if leaks is not None:
            check(leaks)

    @classmethod
    def neighbour(cls, outer):
        """Pid of a process in a namespace of its own, and the command that leads there."""
        pid = cls.sleeper([*cls.host, "unshare", "--net"])
        eventually(lambda: cls.namespace(pid) not in (None, cls.namespace(outer), os.readlink("/proc/self/ns/net")), "a neighbour's namespace")
        return pid, ["nsenter", "-t", str(outer), "-U", "-m", "--preserve-credentials", "nsenter", "-t", str(pid), "-n"]

    @classmethod
    def sleeper(cls, where):
        """Pid of a process that holds namespaces until the end."""
        process = subprocess.Popen([*where, "sleep", "1000"])
        cls.addClassCleanup(process.wait)
        cls.addClassCleanup(process.kill)
        return process.pid

    @staticmethod
    def write(path, text):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    @staticmethod
    def namespace(pid):
        try:
            return os.readlink(f"/proc/{pid}/ns/net")
        except OSError:
            return None

    @staticmethod
    def enters(where):
        own = os.readlink("/proc/self/ns/net")

        def inside():
            found = run([*where, "readlink", "/proc/self/ns/net"])
            return found.code == 0 and found.out.strip() != own
        try:
            return eventually(inside, "a namespace", 3)
        except AssertionError:
            return False

    @classmethod
    def on_host(cls, shell, **expected):
        return check(run([*cls.host, "sh", "-ec", shell]), **expected)

    @classmethod
    def on_peer(cls, shell, **expected):
        return check(run([*cls.peer, "sh", "-ec", shell]), **expected)
