"""What daemon.json and the daemon's flags say of containers that do not say themselves."""

import json
import os
import re
import signal
import unittest

import harness
from harness import BIN, Daemon, check, eventually, once, run


@once
class Defaults(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(start=False)
        self.addCleanup(self.end)
        self.file = self.daemon.env["XDG_CONFIG_HOME"] + "/moss/daemon.json"
        os.makedirs(os.path.dirname(self.file))

    def end(self):
        self.write({})
        leaks = self.daemon.close()
        if leaks is not None:
            check(leaks)

    def write(self, text):
        with open(self.file + ".new", "w", encoding="utf-8") as file:
            json.dump(text, file)
        os.rename(self.file + ".new", self.file)

    def equal(self, got, expected, what):
        if got != expected:
            harness.fail(what, repr(expected), repr(got))

    def test_containers_have_them(self):
        top = self.daemon.top
        init = top + "/init"
        with open(init, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\necho host-init $1\nshift\nexec \"$@\"\n")
        os.chmod(init, 0o755)
        # Refuses one call, so that it shows whose profile holds.
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]}
        with open(top + "/profile.json", "w", encoding="utf-8") as file:
            json.dump(profile, file)
        self.write({"no-new-privileges": True, "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 123, "Hard": 456}},
                    "default-shm-size": "1M", "init": True, "init-path": init, "default-ipc-mode": "shareable",
                    "log-driver": "local", "log-opts": {"max-size": "5m", "max-file": "2"}, "dns": ["192.0.2.53"],
                    "dns-search": ["example.org"], "host-gateway-ips": ["192.0.2.1", "2001:db8::1"],
                    "seccomp-profile": top + "/profile.json", "shutdown-timeout": 20})
        self.daemon.start("--dns-opt", "ndots:3", "--pidfile", top + "/x/moss.pid", "--default-cgroupns-mode", "host")
        with open(top + "/x/moss.pid", encoding="utf-8") as file:
            self.equal(file.read(), str(self.daemon.process.pid), "the pidfile")
        self.equal(re.findall("has no effect", self.daemon.log()), [], "directives without effect")
        info = self.daemon.http("GET", "/info")[2]
        self.equal(["name=no-new-privileges" in info["SecurityOptions"], f"name=seccomp,profile={top}/profile.json" in info["SecurityOptions"],
                    "name=cgroupns" in info["SecurityOptions"], info["LoggingDriver"], info["InitBinary"],
                    "WARNING: daemon is not using the default seccomp profile" in info["Warnings"]],
                   [True, True, False, "local", init, True], "info")
        self.daemon.load("busybox.tar")
        shown = "grep NoNewPrivs /proc/self/status; ulimit -n; ulimit -Hn; df -k /dev/shm | tail -1 | awk '{print $2}'; " \
                "grep -v '^#' /etc/resolv.conf | grep .; grep gw /etc/hosts; mkdir /x 2>/dev/null || echo no mkdir"
        command = ("run", "--name", "one", "--add-host", "gw:host-gateway")
        self.daemon.docker(*command, "busybox", "sh", "-c", shown, out=re.compile(
            r"host-init --\nNoNewPrivs:\s1\n123\n456\n1024\nnameserver 192.0.2.53\nsearch example.org\noptions ndots:3\n"
            r"192.0.2.1\tgw\n2001:db8::1\tgw\nno mkdir\n"))
        host = self.daemon.inspect("one")["HostConfig"]
        self.equal([host[name] for name in ("ShmSize", "IpcMode", "CgroupnsMode", "LogConfig", "Ulimits")],
                   [1 << 20, "shareable", "host", {"Type": "local", "Config": {"max-size": "5m", "max-file": "2"}}, []],
                   "what the container was given")
        self.equal("Init" in host and host["Init"] is not None, False, "Init, which the container does not say")
        # Who says otherwise has otherwise.
        self.daemon.docker("run", "--rm", "--security-opt", "no-new-privileges=false", "--security-opt", "seccomp=builtin", "--ulimit", "nofile=50",
                           "--shm-size", "2m", "--init=false", "--ipc", "private", "--dns", "192.0.2.54", "--log-driver", "json-file",
                           "busybox", "sh", "-c", shown, out=re.compile(
                               r"\ANoNewPrivs:\s0\n50\n50\n2048\nnameserver 192.0.2.54\nsearch example.org\noptions ndots:3\n\Z"))
        # A reload changes what dockerd's changes.
        self.write({"default-shm-size": "3m", "init": True, "no-new-privileges": True})
        self.daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: "reloaded" in self.daemon.log(), "a reload")
        self.daemon.docker("create", "--name", "two", "busybox")
        host = self.daemon.inspect("two")["HostConfig"]
        self.equal([host["ShmSize"], host["IpcMode"], host["CgroupnsMode"]], [3 << 20, "private", "host"], "after the reload")
        self.daemon.stop()
        self.equal(os.path.exists(top + "/x/moss.pid"), False, "the pidfile, after the end")

    def test_what_refuses_to_start(self):
        for directives, flags, told in (
                ({"seccomp-profile": "/nonexistent"}, [], "opening seccomp profile (/nonexistent) failed: open /nonexistent: no such file or directory"),
                ({"log-opts": {"bogus": "1"}}, [], "failed to set log opts: unknown log opt 'bogus' for json-file log driver"),
                ({"default-ipc-mode": "host"}, [], 'IPC mode "host" is not supported as default value; use "shareable" or "private"'),
                ({"dns": ["x"]}, [], 'ParseAddr("x"): unable to parse IP'),
                ({"log-driver": "none"}, ["--log-driver", "local"], "log-driver: (from flag: local, from file: none)"),
                ({}, ["--bogus"], "unknown flag: --bogus")):
            self.write(directives)
            refused = run([BIN, "daemon", *flags], env=self.daemon.env)
            check(refused, code=1, err=re.compile(re.escape(told)))

    def test_places_from_the_working_directory(self):
        """Named by who is there, and found once the daemon has left for its own namespaces."""
        here = self.daemon.top + "/here"
        os.mkdir(here)
        with open(here + "/d.json", "w", encoding="utf-8") as file:
            json.dump({"labels": ["a=b"]}, file)
        os.chdir(here)
        self.addCleanup(os.chdir, "/")
        self.daemon.socket = here + "/s.sock"
        self.daemon.env["DOCKER_HOST"] = "unix://" + self.daemon.socket
        self.daemon.start("--config-file", "d.json", "-H", "unix://s.sock")
        self.daemon.moss("-H", "unix://s.sock", "info", "--format", "{{.Labels}}", out="[a=b]")
        with open(here + "/d.json", "w", encoding="utf-8") as file:
            json.dump({"labels": ["c=d"]}, file)
        self.daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: "reloaded" in self.daemon.log(), "a reload")
        self.daemon.docker("info", "--format", "{{.Labels}}", out="[c=d]")
        os.chdir("/")


@once
class LogOptions(harness.Case):
    def test_values_are_judged_at_the_start(self):
        name = self.name()
        self.docker("create", "--name", name, "--log-opt", "max-size=bad", "busybox", "true")
        self.docker("start", name, code=1, err=re.compile(
            "failed to create task for container: failed to initialize logging driver: invalid size: 'bad'"))
        self.docker("create", "--log-opt", "nosuch=1", "busybox", code=1, err=re.compile("unknown log opt 'nosuch' for json-file log driver"))
