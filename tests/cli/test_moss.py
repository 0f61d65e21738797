"""moss's own verbs, and a daemon that is started on demand."""

import json
import os
import re
import signal
import subprocess
import time
import unittest

import harness
from harness import Case, Daemon, check, eventually, fail, host_case, need_image, once, run


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

    def test_what_is_wrong_with_a_command_line_is_said_as_docker_says_it(self):
        name = self.name()
        cases = """
            run --dns foo busybox true|run --dns-search a_b..c! busybox true|run --device-cgroup-rule foo busybox true
            run --device /dev/fuse:/dev/x:q busybox true|run --device a busybox true|run --device a:b:c:d busybox true
            run --rm --gpus all busybox true|run --gpus x busybox|run --gpus 2,2 busybox|run --rm --gpus device=0 busybox true
            run --blkio-weight 5 busybox true|run --blkio-weight x busybox true|run --blkio-weight-device /dev/a:1 busybox true
            run --device-read-bps /dev/a:x busybox true|run --device-write-iops a:1 busybox true|run --cpu-rt-period 5 busybox true
            run --isolation hyperv busybox true|run --env-file nope busybox true|run -d --attach stdout busybox true|run --cpus abc busybox
            run --pid foo busybox|run --userns foo busybox|run --uts foo busybox|run --cgroupns foo busybox|run --mac-address foo busybox
            run --expose foo busybox|run --expose 9-5 busybox|run --shm-size -1 busybox|run --name -bad busybox|run -m abc busybox
            run --memory-swappiness 500 busybox|run --label =a busybox|run --sysctl foo=bar busybox|run --storage-opt foo busybox
            run --log-driver none --log-opt a=b busybox|run --security-opt seccomp=/no busybox|run --link a:b:c busybox
            run --network-alias a busybox|run --network foo=bar busybox|run --stop-timeout x busybox|run --health-interval foo busybox
            run --ulimit x busybox|run --add-host foo busybox|run --mount foo busybox|run --rm=foo busybox|run --env =x busybox
            run --platform foo/bar/baz/x busybox|run --cidfile /nonexistent/x busybox|create --pull foo busybox|create --env-file nope busybox
            exec -e =x NAME true|exec --env-file nope NAME true|exec -d NAME nosuch|update NAME|update --cpus abc NAME|start nope
            update --cpu-rt-runtime 5 NAME|rename nope x|logs --since foo NAME|ps extra|ps -f foo|ps -n x|port|port NAME x y|port nope
            port NAME foo|port NAME 81|images a b|tag busybox A|image inspect busybox --platform linux/s390x|system prune x
            system prune --volumes --filter until=1h|pull --disable-content-trust A|nosuch|system nosuch|--log-level foo ps
        """
        self.run_detached("--name", name)
        for case in (case.strip() for line in cases.strip().splitlines() for case in line.split("|")):
            words = case.replace("NAME", name).split()
            docker, moss = (client(*words, code=None) for client in (self.docker, self.moss))
            err = re.sub(r"\bdocker\b", "moss", docker.err)
            if moss.code != docker.code or moss.out != docker.out or moss.err != err.replace("SRun ", "Run "):
                fail("moss " + case, (docker.code, docker.out, err), (moss.code, moss.out, moss.err))

    def test_port(self):
        name = self.run_detached("-p", "127.0.0.1::80", "-p", "127.0.0.1::81/udp")
        for words in (("port", name), ("port", name, "80"), ("container", "port", name, "81/udp"),
                      ("ps", "--filter", "name=" + name, "--format", "{{.Ports}} {{.Platform}}")):
            self.moss(*words, out=self.docker(*words).out.strip())

    def test_flags_reach_the_engine(self):
        name = self.name()
        flags = ("--blkio-weight-device", "/dev/a:100", "--device-read-bps", "/dev/b:1m", "--device-write-iops", "/dev/c:7", "--isolation",
                 "default", "--kernel-memory", "5m", "--disable-content-trust", "-e", "-x=1", "--mac-address", "92:d0:c6:0a:29:33")
        configs = []
        for client in (self.docker, self.moss):
            client("create", "--name", name, *flags, "busybox")
            configs.append(self.field(name, "{{.HostConfig.BlkioWeightDevice}} {{.HostConfig.BlkioDeviceReadBps}} {{json .HostConfig.BlkioDeviceWriteIOps}}"
                                            " {{.HostConfig.Isolation}} {{.Config.Env}} {{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}"))
            client("rm", name)
        self.equal(configs[1], configs[0], "configuration")

    def test_a_directory_is_no_archive(self):
        """And nobody waits for what cannot be read."""
        self.moss("load", "-i", "/etc", code=1, err=re.compile("is a directory"))
        self.moss("import", "/etc", code=1, err=re.compile("is a directory"))
        self.moss("run", "--env-file", "/etc", "busybox", code=125, err=re.compile(r"moss: invalid env file \(/etc\): read /etc: is a directory"))

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

    @host_case
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

    @host_case
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

    @host_case
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

    def test_system_prune(self):
        self.daemon.moss("ps")
        self.daemon.load("busybox.tar")
        self.daemon.docker("run", "--name", "gone", "-v", "/anonymous", "busybox", "true")
        self.daemon.docker("run", "-d", "--name", "kept", "busybox", "sleep", "1000")
        asked = [client("system", "prune", "-a", "--volumes", "--filter", "label!=x", stdin="n\n") for client in (self.daemon.docker, self.daemon.moss)]
        if asked[0].out != asked[1].out:
            fail("moss system prune", asked[0], asked[1])
        self.daemon.moss("system", "prune", "--volumes", "-f", out=re.compile(
            r"\ADeleted Containers:\n[0-9a-f]{64}\n\nDeleted Volumes:\n[0-9a-f]{64}\n\nTotal reclaimed space: 0B\n\Z"))
        self.daemon.moss("system", "df", "-v", out=re.compile(r"(?s)\AImages space usage:\n\nREPOSITORY.*\nbusybox .*\nBuild cache usage: 0B\n"))
        self.daemon.moss("ps", "-a", "--format", "{{.Names}}", out="kept")

    def test_an_address_with_a_space(self):
        self.daemon.moss("ps")
        link = os.path.join(self.daemon.top, "a b.sock")
        os.symlink(self.daemon.socket, link)
        said = self.daemon.moss("-H", "unix://" + link, "info", "--host").out
        run(["sh", "-c", f'eval "$1"; [ "$DOCKER_HOST" = "unix://{link}" ]', "sh", said], env=self.daemon.env).code and fail("eval", link, said)

    def test_check_without_a_daemon(self):
        check(self.daemon.leaks())

    def test_doctor_without_a_daemon(self):
        self.daemon.moss("doctor", code=(0, 1))
        if os.path.exists(self.daemon.socket):
            fail("moss doctor", "no daemon started", "a socket")
