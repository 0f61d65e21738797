"""What a host may lack: moss must do without it, and say so."""

import re
import unittest

from harness import Daemon, check, fail, host_case, once


@once
@host_case
class NoSubordinateIds(unittest.TestCase):
    """newuidmap of no use: one id is mapped, and everything that one id can do works."""

    def setUp(self):
        self.daemon = Daemon(start=False)
        self.addCleanup(self.end)
        # Where no program may gain privileges, newuidmap gains none.
        self.daemon.under = ["setpriv", "--no-new-privs"]
        self.daemon.start()
        self.daemon.load("busybox.tar")
        self.docker = self.daemon.docker
        ids = self.docker("run", "--rm", "busybox", "sh", "-c", "awk '{n += $3} END {print n}' /proc/self/uid_map").out.strip()
        if ids != "1":
            self.skipTest(f"{ids} ids were mapped all the same")

    def end(self):
        leaks = self.daemon.close()
        if leaks is not None:
            check(leaks)

    def test_runs_as_root(self):
        self.docker("run", "--rm", "busybox", "sh", "-c", "id -u; touch /x && stat -c %u /x", out="0\n0")

    def test_execs_and_logs(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sh", "-c", "echo up; sleep 1000")
        self.docker("exec", "cc", "echo", "in", out="in")
        self.docker("logs", "cc", out="up")
        self.docker("rm", "-f", "cc")

    def test_another_user_is_refused_in_words(self):
        result = self.docker("run", "--rm", "--user", "1000", "busybox", "true", code=(0, 125, 126))
        if result.code and not re.search("id|user", result.err):
            fail(result.command, "an error that names the missing ids", result)

    def test_another_map_is_refused_in_words(self):
        self.docker("run", "--rm", "--label", "moss.userns=keep-id:uid=5", "busybox", "true", code=125,
                    err=re.compile("keep-id:uid=5 wants the user ids 0 to 5 in the container, and there are 1: .*newuidmap"))

    def test_info_warns(self):
        self.docker("info", err=re.compile("(?i)subuid|subordinate|newuidmap|single|one id"))
