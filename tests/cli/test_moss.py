"""moss's own verbs, and a daemon that is started on demand."""

import json
import os
import re
import signal
import subprocess
import time
import unittest

import harness
from harness import Case, Daemon, check, eventually, fail, need_image, once, run


@once
class Verbs(Case):
    def test_run(self):
        self.moss("run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo out; echo err >&2; exit 5", code=5, out="out", err="err")

    def test_run_flags(self):
        self.moss("run", "--rm", "-e", "A=1", "-w", "/tmp", "-u", "app", "--hostname", "box", "--network", "none", "--read-only",
                  "busybox", "sh", "-c", "echo $A $(pwd) $(id -un) $(hostname)", out="1 /tmp app box")

    def test_run_stdin(self):
        self.moss("run", "--rm", "-i", "busybox", "cat", stdin="typed\n", out="typed")

    def test_run_detached_and_the_rest(self):
        name = self.name()
        self.moss("run", "-d", "--name", name, "busybox", "sh", "-c", "echo up; sleep 1000", out=re.compile("^[0-9a-f]{64}$", re.M))
        self.moss("ps", out=re.compile(name))
        self.moss("exec", name, "echo", "in", out="in")
        self.moss("exec", name, "sh", "-c", "exit 4", code=4)
        self.moss("logs", name, out="up")
        self.equal(json.loads(self.moss("inspect", name).out)[0]["Name"], "/" + name, "inspect")
        self.moss("stop", "-t", "0", name, out=name)
        self.moss("start", name, out=name)
        self.moss("kill", name, out=name)
        self.moss("rm", "-f", name, out=name)

    def test_terminal(self):
        terminal = harness.Terminal([harness.BIN, "run", "--rm", "-it", "busybox", "sh"], self.daemon.env)
        self.addCleanup(terminal.close)
        terminal.expect("# ")
        terminal.send("stty size; exit 3\n")
        terminal.expect("30 100")
        self.equal(terminal.wait(), 3, "exit code")

    def test_signals_pass_a_terminal(self):
        terminal = harness.Terminal([harness.BIN, "run", "--rm", "-it", "busybox", "sh", "-c",
                                     "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"], self.daemon.env)
        self.addCleanup(terminal.close)
        terminal.expect("ready")
        os.kill(terminal.pid, signal.SIGTERM)
        self.equal(terminal.wait(), 7, "exit code of moss run after SIGTERM")

    def test_exit_codes(self):
        self.moss("run", "--rm", "busybox", "nosuch", code=127, err=re.compile("executable file not found"))
        self.moss("run", "--rm", "busybox", "/etc/not-executable", code=126)
        self.moss("run", "--rm", "nosuch:image", code=125)
        self.moss("run", "--nosuch-flag", "busybox", code=125)

    def test_images(self):
        self.moss("images", out=re.compile(r"(?m)^busybox\s+latest"))
        self.moss("tag", "busybox", "by-moss:1")
        self.moss("rmi", "by-moss:1", out=re.compile("Untagged: by-moss:1"))
        self.moss("load", "-i", need_image("busybox.tar"), out=re.compile("Loaded image: busybox:latest"))

    def test_templates_print_as_dockers(self):
        name = self.run_detached("--label", "l=a,b", "--expose", "81/udp", "-e", "A=1")
        looked_at = [
            "{{.Name}} {{.State.Pid}} {{.State.Running}}", "{{json .Config.Labels}}", "{{index .Config.Labels \"l\"}}",
            "{{index .Config.Labels \"nosuch\"}}", "{{.Config.Labels.nosuch}}", "{{.Config.Env}}", "{{.HostConfig.Binds}}",
            "{{.HostConfig.PortBindings}} {{.HostConfig.MemorySwappiness}} {{.Config.Entrypoint}}", "{{len .Config.Env}}",
            "{{range $i, $e := .Config.Env}}{{$i}}={{$e}};{{end}}", "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}",
            "{{range $p, $c := .NetworkSettings.Ports}}{{$p}} {{$c}}{{end}}", "{{with .State}}{{.Status}}{{else}}none{{end}}",
            "{{if and .State.Running (not .State.Paused)}}{{printf \"%s|%5d|%-9s|%v\" .Name 3 .State.Status .State.Paused}}{{end}}",
            "{{upper .Name}} {{title .State.Status}} {{slice .ID 0 4}} {{truncate .Name 3}}{{pad .Name 1 2}}|{{join .Config.Env \",\"}}",
            "{{$x := .Name}}{{$x}}{{$.Name}}\\t{{println 1 2}}", "{{ eq .State.ExitCode 0 }}{{lt 1 2}}{{ge 1 2}}",
            "{{.Nosuch}}", "{{.State.Nosuch}}", "x {{.State.Pid.X}}", "{{nosuch .Id}}", "{{.Id", "{{end}}", "{{if .Id}}", "{{$x}}",
            "{{index .Config.Env 99}}", "{{range .Name}}{{end}}",
        ]
        rows = ["{{.Names}} {{.Label \"l\"}}", "table {{.Names}}\\t{{lower .Image}}", "{{.Nosuch}}", "{{json .Names}}", "{{.ID", "x\\ty"]
        cases = [("inspect", "--format", template, name) for template in looked_at]
        cases += [("ps", "--filter", "name=" + name, "--format", template) for template in rows]
        cases += [("images", "--format", template, "busybox") for template in ["{{.Repository}}:{{.Tag}}", "{{.Nosuch}}"]]
        for case in cases:
            docker, moss = (client(*case, code=None) for client in (self.docker, self.moss))
            self.equal((moss.code, moss.out, moss.err), (docker.code, docker.out, docker.err), " ".join(case))

    def test_info_and_version(self):
        self.moss("version", out=re.compile(r"(?i)api version"))
        self.moss("info", out=re.compile("(?i)storage driver: " + harness.DRIVER))
        self.moss("info", "--host", out="export DOCKER_HOST=unix://" + self.daemon.socket)

    def test_doctor(self):
        self.moss("doctor", code=(0, 1), out=re.compile(r"(?im)^.*(works|ok).*user namespace|user namespace.*works"))

    def test_relative_times(self):
        name = self.run_detached(command=("sh", "-c", "echo up; exec sleep 1000"))
        eventually(lambda: self.moss("logs", name).out, "a line")
        self.moss("logs", "--since", "1h", name, out="up")
        self.moss("logs", "--until", "1h", name, out="")
        self.moss("events", "--since", "1h", "--until", "0s", "--filter", "container=" + name, out=re.compile("container create"))

    def test_system_check_sees_nothing(self):
        self.run_detached()
        self.moss("system", "check")

    def test_help(self):
        self.moss("--help", out=re.compile(r"(?s)run +Create and run.*stop +Stop one.*wait +Block until.*doctor +Say what"))
        self.moss("run", "--help", out=re.compile("--rm"))

    def test_unknown_verb(self):
        self.moss("nosuch", code=(1, 2, 125))

    def test_host_flag_first(self):
        self.moss("-H", "unix:///nosuch.sock", "ps", code=1)

    def test_broken_pipe(self):
        result = run(["sh", "-c", f"{harness.BIN} --help | head -n 1; true"], env=self.daemon.env)
        self.equal("panic" in result.err, False, "a panic")


@once
class OnDemand(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(start=False)
        self.addCleanup(self.end)

    def end(self):
        self.daemon.moss("system", "stop", "--containers", code=None)
        leaks = self.daemon.close()
        if leaks is not None:
            check(leaks)

    def test_hello(self):
        result = self.daemon.moss("run", "hello")
        for word in ("isolation", "network"):
            if word not in result.out.lower():
                fail("moss run hello", f"a word on {word}", result)

    def test_install(self):
        config = self.daemon.top + "/units"
        tools = self.daemon.top + "/tools"
        os.mkdir(tools)
        env = {**self.daemon.env, "PATH": tools, "XDG_CONFIG_HOME": config}
        result = run([harness.BIN, "system", "install"], env=env)
        self.assertEqual(result.code, 0, result)
        self.assertIn("crontab -e", result.out)
        self.assertFalse(os.path.exists(config), "written with no systemd")
        with open(tools + "/systemctl", "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\necho \"$@\" >> {tools}/asked\n")
        os.chmod(tools + "/systemctl", 0o755)
        result = run([harness.BIN, "system", "install"], env=env)
        self.assertEqual(result.code, 0, result)
        with open(tools + "/asked", encoding="utf-8") as file:
            asked = file.read().splitlines()
        self.assertEqual(asked, ["--user show-environment", "--user daemon-reload", "--user enable moss.socket moss.service",
                                 "--user start moss.socket"])
        with open(config + "/systemd/user/moss.service", encoding="utf-8") as file:
            self.assertIn(f'ExecStart="{os.path.realpath(harness.BIN)}" daemon -H fd://', file.read())
        with open(config + "/systemd/user/moss.socket", encoding="utf-8") as file:
            self.assertIn("ListenStream=%t/moss.sock", file.read())

    def test_starter_gets_its_descriptors_back(self):
        begun = time.monotonic()
        subprocess.run(["sh", "-c", f"x=$({harness.BIN} ps)"], env=self.daemon.env, timeout=20, check=True, stdin=subprocess.DEVNULL)
        if time.monotonic() - begun > 10:
            fail("x=$(moss ps)", "back at once", f"{time.monotonic() - begun:.1f} s")
        if not os.path.exists(self.daemon.socket):
            fail("moss ps", "a daemon started", "no socket")
        self.daemon.docker("version")

    def test_many_starters_one_daemon(self):
        clients = [subprocess.Popen([harness.BIN, "ps"], env=self.daemon.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(8)]
        for client in clients:
            out, err = client.communicate(timeout=30)
            if client.returncode:
                fail("eight times moss ps at once", "exit 0", (client.returncode, out, err))

    def test_system_stop(self):
        self.daemon.moss("ps")
        self.daemon.moss("system", "stop")
        eventually(lambda: self.daemon.docker("version", code=None).code != 0, "the daemon gone")

    def test_system_stop_with_containers(self):
        self.daemon.moss("ps")
        self.daemon.load("busybox.tar")
        self.daemon.docker("run", "-d", "--name", "cc", "busybox", "sleep", "1000")
        pid = self.daemon.inspect("cc")["State"]["Pid"]
        self.daemon.moss("system", "stop", "--containers")
        eventually(lambda: not os.path.exists(f"/proc/{pid}"), "the container gone")

    def test_check_without_a_daemon(self):
        check(self.daemon.leaks())

    def test_doctor_without_a_daemon(self):
        self.daemon.moss("doctor", code=(0, 1))
        if os.path.exists(self.daemon.socket):
            fail("moss doctor", "no daemon started", "a socket")
