"""Containers that are created, or attached to, and not started yet, whose start is prepared meanwhile: nobody can tell, whatever comes then."""

import os
import re
import socket
import time

from harness import DRIVER, check, eventually, fail, once
from test_faults import Own, children_named, parent


class Ahead(Own):
    def setUp(self):
        if DRIVER == "copy":
            self.skipTest("a copy of all layers is made by the start alone")
        super().setUp()

    def shims(self):
        keepers, found = children_named(self.daemon, "keeper"), []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                    found += [pid] if file.read() == "moss-shim\n" and parent(pid) in keepers else []
            except OSError:
                pass  # it has just ended
        return found

    def create(self, *args, image="busybox", command=("sh", "-c", "echo hello; exit 3")):
        return self.docker("create", *args, image, *command).out.strip()

    def attach(self, name):
        """A client that is attached; what it gets after the answer's head is the container's."""
        connection = self.daemon.connect()
        self.addCleanup(connection.close)
        connection.sendall(f"POST /v1.44/containers/{name}/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: x\r\n"
                           "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1) or fail("POST attach", "a head", head)
        return connection

    def prepared(self, name):
        """The same, once there is a shim."""
        connection = self.attach(name)
        eventually(self.shims, "a shim")
        return connection

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.daemon.process.pid}/fd"))

    def rest(self, connection):
        connection.settimeout(30)
        data = b""
        while block := connection.recv(65536):
            data += block
        return data

    def start(self, name):
        return self.daemon.http("POST", f"/v1.44/containers/{name}/start")

    def gone(self):
        eventually(lambda: not self.shims(), "no shim", 60)

    def state(self, name):
        return self.daemon.inspect(name)["State"]

    def test_looks_as_it_is(self):
        self.create("--name", "cc")
        connection = self.prepared("cc")
        state = self.state("cc")
        got = state["Status"], state["Running"], state["Pid"], state["StartedAt"]
        if got != ("created", False, 0, "0001-01-01T00:00:00Z"):
            fail("docker inspect of a container that a client is attached to", "one that is created", state)
        self.docker("exec", "cc", "true", code=1)
        self.docker("kill", "cc", code=1, err=re.compile("is not running"))
        self.docker("logs", "cc", out="")
        check(self.daemon.leaks())
        before = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        if self.start("cc")[0] != 204:
            fail("POST start", 204, self.daemon.log())
        if self.rest(connection) != b"\1\0\0\0\0\0\0\6hello\n":
            fail("attach before the start", "the output", "something else")
        self.docker("wait", "cc", out="3")
        state = self.state("cc")
        if state["StartedAt"] < before:
            fail("docker inspect", f"a start after {before}", state)
        self.gone()

    @once
    def test_created_only(self):
        # The network is there from the first start on.
        self.docker("run", "--rm", "busybox", "true")
        before = self.descriptors()
        names = [f"cc{number}" for number in range(20)]
        for name in names:
            self.create("--name", name)
        eventually(self.shims, "a shim")
        # Each has a first process of the same name.
        if len(self.shims()) > 2 * 16:
            fail("20 times docker create", "16 shims at most", self.shims())
        state = self.state("cc0")
        if (state["Status"], state["Pid"]) != ("created", 0):
            fail("docker inspect of a created container", ("created", 0), state)
        check(self.daemon.leaks())
        self.docker("rm", *names[5:10])
        self.docker("start", "cc0", "cc19")
        self.docker("wait", "cc0", "cc19", out="3\n3")
        # The rest is wanted by nobody.
        self.gone()
        eventually(lambda: self.descriptors() <= before, "no descriptor of what was prepared", 60)
        check(self.daemon.leaks())
        self.docker("start", "-a", "cc1", code=3, out="hello")

    def test_one_shim_for_all(self):
        self.create("--name", "cc", command=("sh", "-c", "echo hello; exec sleep 1000"))
        clients = [self.prepared("cc"), self.attach("cc")]
        self.start("cc")
        for client in clients:
            if client.recv(8) + client.recv(6, socket.MSG_WAITALL) != b"\1\0\0\0\0\0\0\6hello\n":
                fail("two attached clients", "the output on both", "something else")
        shim = parent(self.state("cc")["Pid"])
        eventually(lambda: self.shims() == [shim], "one shim")
        self.docker("rm", "-f", "cc")

    def test_start_attached_too(self):
        self.create("--name", "cc")
        connection = self.prepared("cc")
        self.docker("start", "-a", "cc", code=3, out="hello")
        if b"hello\n" not in self.rest(connection):
            fail("attach before docker start -a", "the output", "nothing")

    def test_started_once_more(self):
        self.docker("run", "--name", "cc", "busybox", "sh", "-c", "echo run >>/count; wc -l </count; exit $(wc -l </count)", code=1)
        self.gone()
        for count in (2, 3):
            connection = self.prepared("cc")
            before = self.state("cc")
            if (before["Status"], before["ExitCode"]) != ("exited", count - 1):
                fail("docker inspect", f"exited {count - 1}", before)
            self.start("cc")
            if f"{count}\n".encode() not in self.rest(connection):
                fail("attach to a stopped container", f"output of run {count}", "something else")
            self.docker("wait", "cc", out=str(count))
        self.gone()

    def test_removed(self):
        self.create("--name", "cc")
        connection = self.prepared("cc")
        self.docker("rm", "cc")
        if self.rest(connection) != b"":
            fail("docker rm", "the end of an attached client's stream", "something else")
        self.gone()
        self.docker("run", "--rm", "--name", "cc", "busybox", "echo", "ok", out="ok")

    def test_renamed(self):
        self.create("--name", "cc", command=("sh", "-c", "hostname; echo hello"))
        identity = self.daemon.inspect("cc")["Id"]
        connection = self.prepared("cc")
        self.docker("rename", "cc", "dd")
        self.docker("start", "dd")
        output = self.rest(connection)
        if identity[:12].encode() not in output or b"hello\n" not in output:
            fail("docker start after docker rename", "the output", "something else")
        self.docker("rm", "-f", "dd")

    def test_client_gone(self):
        self.create("--name", "cc")
        self.prepared("cc").close()
        self.gone()
        self.docker("start", "-a", "cc", code=3, out="hello")

    def test_nobody_starts_it(self):
        self.create("--name", "cc")
        connection = self.prepared("cc")
        self.gone()
        self.start("cc")
        if b"hello\n" not in self.rest(connection):
            fail("a late start", "the output", "nothing")

    def test_killed_daemon(self):
        self.create("--name", "cc")
        self.create("--rm", "--name", "dd")
        self.prepared("cc")
        self.attach("dd")
        self.daemon.kill()
        self.gone()
        self.daemon.start()
        if (self.state("cc")["Status"], self.state("cc")["Pid"]) != ("created", 0):
            fail("docker inspect", "a container that is created", self.state("cc"))
        self.docker("start", "-a", "cc", code=3, out="hello")
        # What removes itself and does not run is not wanted any more, as with dockerd.
        self.docker("inspect", "dd", code=1)

    def test_killed_shim(self):
        self.create("--name", "cc")
        connection = self.prepared("cc")
        for pid in self.shims():
            os.kill(pid, 9)
        self.gone()
        self.start("cc")
        if b"hello\n" not in self.rest(connection):
            fail("kill -9 the shim before the start", "the output", "nothing")

    def test_failures(self):
        """Told at the start, as if nothing had been tried before."""
        for number, args in enumerate([
            dict(command=("nosuch",)), dict(command=("/etc",)), dict(command=("/etc/passwd",)),
            dict(args=("-u", "nosuch")), dict(args=("--network", "nosuch")),
            dict(args=("--network", "container:nosuch")), dict(args=("--sysctl", "net.ipv4.nosuch=1")),
        ]):
            flags, command = args.get("args", ()), args.get("command", ("true",))
            told = []
            for name in (f"plain{number}", f"attached{number}"):
                identity = self.create("--name", name, *flags, command=command)
                if name.startswith("attached"):
                    connection = self.attach(name)
                status, _, body = self.start(name)
                state = self.state(name)
                told.append((status, str(body).replace(identity, "ID"), state["Status"], state["ExitCode"],
                             state["Error"].replace(identity, "ID"), state["Pid"]))
            if told[0] != told[1] or told[0][0] < 400:
                fail(f"POST start of a container with {args}", told[0], told[1])
            if self.rest(connection) != b"":
                fail(f"attach before a start that fails ({args})", "the end", "something else")
        self.gone()

    def test_mended_in_time(self):
        """What could not be prepared may well be started."""
        self.create("--name", "other", command=("sleep", "1000"))
        self.create("--name", "joins", "--network", "container:other")
        connection = self.attach("joins")
        self.docker("start", "other")
        self.start("joins")
        if b"hello\n" not in self.rest(connection):
            fail("a container whose network's owner started after the attach", "the output", "nothing")
        self.docker("rm", "-f", "other")

    def test_binds_are_those_of_the_start(self):
        source = self.daemon.top + "/source"
        os.mkdir(source)
        self.create("-v", f"{source}:/s", "--name", "cc", command=("cat", "/s/file"))
        connection = self.attach("cc")
        os.rename(source, source + ".old")
        os.mkdir(source)
        with open(source + "/file", "w", encoding="utf-8") as file:
            file.write("hello\n")
        self.start("cc")
        if b"hello\n" not in self.rest(connection):
            fail("a directory replaced between attach and start", "the new one", "something else")

    def test_volumes(self):
        self.create("-v", "vv:/v", "--name", "cc", command=("sh", "-c", "echo hello >/v/file; cat /v/file"))
        connection = self.attach("cc")
        self.docker("volume", "rm", "vv", code=1, err=re.compile("volume is in use"))
        self.start("cc")
        if b"hello\n" not in self.rest(connection):
            fail("a container with a volume", "the output", "nothing")

    def test_removes_itself(self):
        self.create("--rm", "--name", "cc")
        connection = self.prepared("cc")
        self.start("cc")
        if b"hello\n" not in self.rest(connection):
            fail("a --rm container", "the output", "nothing")
        eventually(lambda: self.docker("inspect", "cc", code=None).code == 1, "the --rm container removed")
        self.gone()
