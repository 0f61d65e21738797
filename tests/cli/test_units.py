"""The units that `moss system install` writes, with a real systemd."""

import os
import unittest

import harness
from harness import check, eventually, need_image, once, run, vm_case


@once
@vm_case
class Units(unittest.TestCase):
    """Uses the user's own directories and session."""

    def moss(self, *args, **options):
        return check(run([harness.BIN, *args]), **options)

    def systemctl(self, *args, **options):
        return check(run(["systemctl", "--user", *args]), **options)

    def pid(self):
        """The first process of the container while it runs; else 0."""
        return int(self.moss("inspect", "-f", "{{.State.Pid}}", "cc", code=None).out.strip() or 0)

    def end(self):
        self.moss("system", "stop", "--containers", code=None)
        self.systemctl("disable", "--now", "moss.socket", "moss.service", code=None)
        self.moss("system", "check")

    def test_a_container_outlives_its_service(self):
        self.addCleanup(self.end)
        self.moss("system", "install")
        self.systemctl("is-active", "moss.socket", out="active")
        # The first verb has systemd start the service, which is ready then.
        self.moss("load", "-i", need_image("busybox.tar"))
        self.systemctl("is-active", "moss.service", out="active")
        self.moss("run", "-d", "--restart", "always", "--name", "cc", "busybox", "sleep", "10000")
        first = self.pid()
        self.systemctl("stop", "moss.service")
        self.assertTrue(os.path.exists(f"/proc/{first}"), "the container ended with the service")
        # Found again by the service that the socket starts.
        self.assertEqual(self.pid(), first)
        # Daemon, keeper, shim and container at once; then the service by itself, and the container by its policy.
        self.systemctl("kill", "--signal", "KILL", "moss.service")
        eventually(lambda: self.pid() not in (0, first), "the container started again", 30)
