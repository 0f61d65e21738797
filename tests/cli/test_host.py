"""What a host may lack: moss must do without it, and say so."""

import os
import re
import unittest

import harness
from harness import Daemon, check, fail, host_case, once, run


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


@once
class Odd(unittest.TestCase):
    """Surroundings in which nothing can be done but to say why."""

    def setUp(self):
        self.daemon = Daemon(start=False)
        self.addCleanup(self.daemon.close)

    def test_a_runtime_directory_that_others_may_write_to(self):
        directory = self.daemon.env["XDG_RUNTIME_DIR"]
        os.chmod(directory, 0o777)
        for verb in (["daemon"], ["ps"]):
            self.daemon.moss(*verb, code=1, err=re.compile(
                re.escape(f"XDG_RUNTIME_DIR {directory} can be written by other users: it must be yours alone (`chmod 700 {directory}`)")))
        os.chmod(directory, 0o755)
        self.daemon.start()

    @host_case
    def test_chroot(self):
        root = self.daemon.top + "/root"
        # Places of programs and libraries, the binary, and directories to write to.
        script = f"""set -e
            mkdir -p {root}/tmp {root}/proc; cd {root}; touch moss
            for place in usr lib lib64 bin etc dev; do mkdir $place; mount --rbind /$place $place; done
            mount --rbind /proc proc; mount --bind {harness.BIN} moss
            exec chroot {root} /moss "$@" """
        enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
        env = dict(self.daemon.env, HOME="/tmp", XDG_RUNTIME_DIR="/tmp/run", XDG_DATA_HOME="/tmp", XDG_CONFIG_HOME="/tmp")
        result = run([*enter, "doctor"], env=env)
        if "mount" in result.err or "unshare" in result.err:
            self.skipTest(result.err.strip())
        check(result, code=1, out=re.compile(r"missing +user namespaces: cannot make a user namespace: EPERM.*; the process's root is not the root "
                                             r"of its mount namespace \(chroot\): use pivot_root or a container"))
