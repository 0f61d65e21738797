"""Root filesystems without the kernel's overlayfs: the FUSE overlay and the copy."""

import os
import re
import signal
import unittest

from harness import Daemon, check, eventually, fail, host_case, once
from test_faults import children_named, parent

# Changes files of the image in all ways, then shows what came of it.
CHANGE = """set -e
echo own > /own; rm /etc/group; mkdir /etc/group; echo in > /etc/group/in
mv /home /house; rm -rf /var; chmod 711 /bin; ln /own /own2; echo last:x:7:7::/:/x >> /etc/passwd; chown 100:100 /own"""
SHOW = "cat /own2 /etc/group/in; tail -n 1 /etc/passwd; ls -d /house /home /var 2>/dev/null || stat -c '%a %u:%g %h' /bin /own"
SHOWN = re.compile("own\nin\nlast:x:7:7::/:/x\n/house\n711 0:0 .*\n644 100:100 2")


class Storage:
    """What any driver does."""

    driver = ""

    def setUp(self):
        self.daemon = Daemon(start=False)
        self.addCleanup(lambda: check(self.daemon.close()))
        self.daemon.start("--storage-driver", self.driver)
        self.daemon.load("busybox.tar")
        self.docker = self.daemon.docker

    def show(self, of, template):
        return self.docker("inspect", "-f", template, of).out.strip()

    @host_case
    def test_containers_run_and_keep_what_they_write(self):
        self.docker("info", "-f", "{{.Driver}}", out=self.driver)
        self.docker("run", "--rm", "busybox", "sh", "-c", CHANGE + "; " + SHOW, out=SHOWN)
        self.docker("run", "--name", "cc", "busybox", "sh", "-c", f"if [ -e /own ]; then {SHOW}; else {CHANGE}; fi", out="")
        self.docker("start", "-a", "cc", out=SHOWN)
        self.docker("run", "--rm", "busybox", "sh", "-c", "ls /own /home", code=1, err=re.compile("/own: No such file"))
        self.daemon.stop()
        # A container keeps the driver that it was made with.
        self.daemon.start("--storage-driver", "overlay2")
        self.docker("inspect", "-f", "{{.Driver}} {{.GraphDriver.Name}}", "cc", out=f"{self.driver} {self.driver}")
        self.docker("start", "-a", "cc", out=SHOWN)

    def test_many_at_once(self):
        for number in range(4):
            self.docker("run", "-d", "--name", f"m{number}", "busybox", "sh", "-c", "echo $HOSTNAME > /name; cat /name; exec sleep 1000")
        for number in range(4):
            name = self.show(f"m{number}", "{{.Config.Hostname}}")
            self.docker("exec", f"m{number}", "cat", "/name", out=name)
        self.docker("rm", "-f", *[f"m{number}" for number in range(4)])


@once
class Fuse(Storage, unittest.TestCase):
    driver = "fuse"

    def setUp(self):
        if not os.path.exists("/dev/fuse"):
            self.skipTest("no /dev/fuse")
        super().setUp()

    def server(self):
        """The server of the one container that runs: the process by its name, and its shim."""
        keepers = children_named(self.daemon, "keeper")
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                    if file.read() == "moss-fuse\n" and parent(parent(pid)) in keepers:
                        return pid, parent(pid)
            except OSError:
                continue  # it has just ended
        return fail("/proc", "a server", "none")

    @host_case
    def test_a_killed_server_ends_its_container_alone(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sh", "-c", "trap '' TERM; while :; do cat /etc/passwd > /x; done")
        pid, _ = self.server()
        self.docker("run", "-d", "--name", "other", "busybox", "sleep", "1000")
        os.kill(pid, signal.SIGKILL)
        self.docker("wait", "cc", out="137")
        shown = self.show("cc", "{{.State.ExitCode}} {{.State.Error}}")
        if shown != f"137 the FUSE server of the container's root filesystem (process {pid}) has ended":
            fail("docker inspect cc", f"an error that names process {pid}", shown)
        self.docker("exec", "other", "true")
        self.docker("start", "cc")
        self.docker("exec", "cc", "test", "-s", "/etc/passwd")
        self.docker("rm", "-f", "cc", "other")

    def test_a_server_ends_with_its_shim(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sleep", "1000")
        pid, shim = self.server()
        os.kill(shim, signal.SIGKILL)
        self.docker("wait", "cc", out="137")
        eventually(lambda: not os.path.exists(f"/proc/{pid}"), "an end of the server")
        self.docker("rm", "cc")

    def test_no_descriptor_reaches_the_container(self):
        self.docker("run", "--rm", "busybox", "sh", "-c", "ls /proc/1/fd | wc -l; ls -l /proc/1/fd | grep -c fuse", code=1,
                    out=re.compile("^[0-9]\n0$"))


@once
class Copy(Storage, unittest.TestCase):
    driver = "copy"
