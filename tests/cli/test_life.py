"""create, start, stop, kill, wait, restart, rm, rename, ps, top, attach, events, inspect."""

import json
import re
import subprocess
import threading
import time

from harness import Case, DRIVER, eventually, host_case, once


class Start(Case):
    def test_create_then_start(self):
        name = self.name()
        self.docker("create", "--name", name, "busybox", "sleep", "1000", out=re.compile("^[0-9a-f]{64}$", re.M))
        self.equal(self.field(name, "{{.State.Status}}"), "created", "status")
        self.docker("start", name, out=name)
        self.equal(self.field(name, "{{.State.Status}}"), "running", "status")

    def test_start_attached(self):
        name = self.name()
        self.docker("create", "--name", name, "busybox", "sh", "-c", "echo hello; exit 3")
        self.docker("start", "-a", name, code=3, out="hello")

    def test_start_interactive(self):
        name = self.name()
        self.docker("create", "-i", "--name", name, "busybox", "cat")
        self.docker("start", "-ai", name, stdin="typed\n", out="typed")

    def test_start_again(self):
        name = self.name()
        self.docker("run", "--name", name, "busybox", "sh", "-c", "echo run >> /count; wc -l < /count", out="1")
        self.docker("start", "-a", name, out="2")

    def test_start_running_is_fine(self):
        name = self.run_detached()
        self.docker("start", name, out=name)

    def test_start_unknown(self):
        self.docker("start", "nosuch", code=1, err=re.compile("No such container: nosuch"))


class Stop(Case):
    @host_case
    def test_stop(self):
        name = self.run_detached(command=("sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done"))
        eventually(lambda: self.docker("logs", name).out == "up\n", "the container is up")
        self.docker("stop", name, out=name)
        self.equal(self.field(name, "{{.State.Status}} {{.State.ExitCode}}"), "exited 3", "state")

    def test_stop_kills_after_the_timeout(self):
        name = self.run_detached(command=("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"))
        time.sleep(0.2)
        self.docker("stop", "-t", "1", name)
        self.equal(self.field(name, "{{.State.ExitCode}}"), "137", "exit code")

    def test_stop_stopped_is_fine(self):
        name = self.name()
        self.docker("run", "--name", name, "busybox", "true")
        self.docker("stop", name, out=name)

    def test_kill(self):
        name = self.run_detached()
        self.docker("kill", name, out=name)
        self.docker("wait", name, out="137")

    def test_kill_with_a_signal(self):
        name = self.run_detached(command=("sh", "-c", "trap 'echo got' USR1; trap 'exit 6' HUP; while :; do sleep 0.1; done"))
        time.sleep(0.2)
        self.docker("kill", "-s", "USR1", name)
        eventually(lambda: "got" in self.docker("logs", name).out, "the trap's output in the log")
        self.docker("kill", "--signal", "1", name)
        self.docker("wait", name, out="6")

    def test_kill_stopped(self):
        name = self.name()
        self.docker("run", "--name", name, "busybox", "true")
        self.docker("kill", name, code=1, err=re.compile("(?i)cannot kill container.*is not running"))

    def test_kill_bad_signal(self):
        name = self.run_detached()
        self.docker("kill", "-s", "NOSUCH", name, code=1, err=re.compile("(?i)invalid signal: NOSUCH"))

    def test_restart(self):
        name = self.run_detached()
        first = self.field(name, "{{.State.Pid}}")
        self.docker("restart", "-t", "0", name, out=name)
        self.equal(self.field(name, "{{.State.Running}}"), "true", "running")
        if self.field(name, "{{.State.Pid}}") == first:
            self.fail(f"$ docker restart\nexpected: a new process\ngot: {first} again")


class Wait(Case):
    def test_wait_for_the_end(self):
        name = self.run_detached(command=("sh", "-c", "sleep 0.5; exit 9"))
        self.docker("wait", name, out="9")

    def test_wait_for_the_past(self):
        name = self.name()
        self.docker("run", "--name", name, "busybox", "sh", "-c", "exit 4", code=4)
        self.docker("wait", name, out="4")

    def test_wait_unknown(self):
        self.docker("wait", "nosuch", code=1, err=re.compile("No such container: nosuch"))

    def test_several(self):
        names = [self.run_detached(command=("sh", "-c", f"sleep 0.2; exit {n}")) for n in (1, 2)]
        self.docker("wait", *names, out="1\n2")


class Remove(Case):
    def test_running_needs_force(self):
        name = self.run_detached()
        self.docker("rm", name, code=1, err=re.compile("(?i)cannot remove .*container .*running"))
        self.docker("rm", "-f", name, out=name)
        self.docker("inspect", name, code=1)

    def test_unknown(self):
        self.docker("rm", "nosuch", code=1, err=re.compile("No such container: nosuch"))

    def test_by_short_id(self):
        name = self.name()
        identity = self.docker("create", "--name", name, "busybox").out.strip()
        self.docker("rm", identity[:12], out=identity[:12])


class Names(Case):
    def test_in_use(self):
        name = self.run_detached()
        self.docker("create", "--name", name, "busybox", code=1,
                    err=re.compile(f'Conflict. The container name "/{name}" is already in use by container "[0-9a-f]{{64}}". '
                                   "You have to remove \\(or rename\\) that container to be able to reuse that name."))

    def test_invalid(self):
        self.docker("create", "--name", "a/b", "busybox", code=1,
                    err=re.compile(r"Invalid container name \(a/b\), only \[a-zA-Z0-9\]\[a-zA-Z0-9_.-\] are allowed"))

    def test_given_by_chance(self):
        identity = self.docker("create", "busybox").out.strip()
        self.addCleanup(self.docker, "rm", identity)
        if not re.fullmatch(r"/[a-z]+_[a-z]+", self.field(identity, "{{.Name}}")):
            self.fail("a name of two words")

    def test_rename(self):
        name, other = self.run_detached(), self.name()
        self.docker("rename", name, other)
        self.equal(self.field(other, "{{.Name}}"), "/" + other, "name")
        self.docker("inspect", name, code=1)

    def test_of_two_at_once_one_wins(self):
        name = self.name()
        clients = [self.daemon.start_client("create", "--name", name, "busybox") for _ in range(6)]
        codes = sorted(client.wait(30) for client in clients)
        for client in clients:
            client.communicate()
        self.equal(codes, [0, 1, 1, 1, 1, 1], "exit codes of six creates with one name")
        self.docker("rm", name)
        self.docker("create", "--name", name, "busybox")


class List(Case):
    def test_running_only(self):
        running, stopped = self.run_detached(), self.name()
        self.docker("run", "--name", stopped, "busybox", "true")
        names = self.docker("ps", "--format", "{{.Names}}").out.split()
        self.equal((running in names, stopped in names), (True, False), "docker ps")
        names = self.docker("ps", "-a", "--format", "{{.Names}}").out.split()
        self.equal((running in names, stopped in names), (True, True), "docker ps -a")

    def test_columns(self):
        name = self.run_detached(command=("sleep", "1000"))
        self.docker("ps", "--no-trunc", "--filter", "name=" + name, "--format", "{{.Image}}|{{.Command}}|{{.Status}}|{{.Names}}|{{.Ports}}",
                    out=re.compile(rf'^busybox\|"sleep 1000"\|Up .*\|{name}\|$', re.M))

    def test_exited(self):
        name = self.name()
        self.docker("run", "--name", name, "busybox", "sh", "-c", "exit 3", code=3)
        self.docker("ps", "-a", "--filter", "name=" + name, "--format", "{{.Status}}", out=re.compile(r"^Exited \(3\) "))

    def test_filters(self):
        name = self.name()
        self.docker("create", "--name", name, "--label", "colour=green", "busybox")
        for wanted in ["label=colour", "label=colour=green", "status=created", "ancestor=busybox", "name=" + name]:
            with self.subTest(wanted):
                names = self.docker("ps", "-a", "--filter", wanted, "--format", "{{.Names}}").out.split()
                self.equal(name in names, True, "docker ps --filter " + wanted)
        for other in ["label=colour=red", "status=running", "ancestor=debian:bookworm"]:
            with self.subTest(other):
                names = self.docker("ps", "-a", "--filter", other, "--format", "{{.Names}}").out.split()
                self.equal(name in names, False, "docker ps --filter " + other)

    def test_bad_filter(self):
        self.docker("ps", "--filter", "nosuch=x", code=1, err=re.compile("(?i)invalid filter 'nosuch'"))

    def test_latest(self):
        self.run_detached()
        name = self.run_detached()
        self.docker("ps", "-l", "--format", "{{.Names}}", out=name)

    def test_size(self):
        name = self.run_detached(command=("sh", "-c", "head -c 100000 /dev/zero > /big; sleep 1000"))
        time.sleep(0.2)
        self.docker("ps", "-s", "--filter", "name=" + name, "--format", "{{.Size}}", out=re.compile(r"^\d+(\.\d+)?kB \(virtual .*MB\)"))


class Inspect(Case):
    def test_fields(self):
        name = self.run_detached("-e", "A=1", "--label", "k=v", "--hostname", "box", "--workdir", "/tmp", "--user", "app",
                                 "--cap-add", "NET_ADMIN", "--read-only", "--shm-size", "1m", "--stop-signal", "INT",
                                 "--network", "none", "-v", "/data")
        got = self.daemon.inspect(name)
        for path, expected in {
            "Name": "/" + name, "Path": "sleep", "Args": ["1000"], "Driver": DRIVER, "Platform": "linux",
            "RestartCount": 0, "State.Status": "running", "State.Running": True, "State.Paused": False,
            "State.OOMKilled": False, "State.Dead": False, "State.ExitCode": 0, "State.Error": "",
            "State.FinishedAt": "0001-01-01T00:00:00Z", "Config.Hostname": "box", "Config.User": "app",
            "Config.WorkingDir": "/tmp", "Config.Image": "busybox", "Config.Cmd": ["sleep", "1000"],
            "Config.Entrypoint": None, "Config.Tty": False, "Config.OpenStdin": False, "Config.StopSignal": "INT",
            "Config.Volumes": {"/data": {}}, "HostConfig.NetworkMode": "none", "HostConfig.CapAdd": ["CAP_NET_ADMIN"],
            "HostConfig.ReadonlyRootfs": True, "HostConfig.ShmSize": 1048576, "HostConfig.Privileged": False,
            "HostConfig.AutoRemove": False, "HostConfig.LogConfig.Type": "json-file",
            "HostConfig.RestartPolicy.Name": "no", "HostConfig.IpcMode": "private", "HostConfig.PidMode": "",
        }.items():
            with self.subTest(path):
                value = got
                for part in path.split("."):
                    value = value.get(part, "(absent)") if isinstance(value, dict) else "(absent)"
                if path == "HostConfig.CapAdd":
                    value = [str(v).replace("CAP_", "") for v in value]
                    expected = ["NET_ADMIN"]
                self.equal(value, expected, path)
        for path, pattern in {"Id": r"[0-9a-f]{64}", "Image": r"sha256:[0-9a-f]{64}", "Created": r"2\d{3}-.*Z",
                              "State.StartedAt": r"2\d{3}-.*Z", "LogPath": r"/.*", "HostnamePath": r"/.*",
                              "HostsPath": r"/.*", "ResolvConfPath": r"/.*"}.items():
            with self.subTest(path):
                value = got
                for part in path.split("."):
                    value = value.get(part, "")
                if not re.fullmatch(pattern, str(value)):
                    self.fail(f"$ docker inspect {name}\nexpected: {path} like {pattern}\ngot: {value!r}")
        self.equal([m["Destination"] for m in got["Mounts"]], ["/data"], "Mounts")
        self.equal("A=1" in got["Config"]["Env"], True, "A=1 in Config.Env")
        self.equal(got["State"]["Pid"] > 1, True, "State.Pid > 1")
        self.equal(got["Config"]["Labels"]["k"], "v", "label k")
        self.equal("none" in got["NetworkSettings"]["Networks"], True, "NetworkSettings.Networks has none")

    def test_unknown(self):
        self.docker("inspect", "nosuch", code=1, out="[]", err=re.compile("No such object: nosuch"))

    def test_size(self):
        name = self.run_detached()
        got = json.loads(self.docker("inspect", "-s", name).out)[0]
        self.equal(got["SizeRootFs"] > 500000, True, "SizeRootFs over 0.5 MB")

    def test_exited(self):
        name = self.name()
        self.docker("run", "--name", name, "busybox", "sh", "-c", "exit 8", code=8)
        self.equal(self.field(name, "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}"), "exited 8 0", "state")


class Top(Case):
    def test_default(self):
        name = self.run_detached(command=("sleep", "1234"))
        self.docker("top", name, out=re.compile(r"(?s)UID\s+PID\s+PPID\s+C\s+STIME\s+TTY\s+TIME\s+CMD.*sleep 1234"))

    def test_columns(self):
        name = self.run_detached(command=("sleep", "1234"))
        self.docker("top", name, "-o", "pid,comm", out=re.compile(r"PID\s+COMMAND\n\d+\s+sleep"))
        name = self.run_detached("--user", "5", command=("sleep", "1234"))
        self.docker("top", name, "-o", "pid,comm", out=re.compile(r"PID\s+COMMAND\n\d+\s+sleep"))

    def test_stopped(self):
        name = self.name()
        self.docker("create", "--name", name, "busybox")
        self.docker("top", name, code=1, err=re.compile("is not running"))


class Attach(Case):
    def test_output(self):
        name = self.run_detached(command=("sh", "-c", "sleep 0.7; echo late; exit 5"))
        self.docker("attach", name, code=5, out="late")

    def test_input(self):
        name = self.run_detached("-i", command=("sh", "-c", "read line; echo got $line; exit 3"))
        client = self.daemon.start_client("attach", name)
        client.stdin.write(b"typed\n")
        client.stdin.flush()
        # Not closed before the answer: as under Docker, the end of input ends an attach.
        self.equal(client.stdout.readline(), b"got typed\n", "output")
        client.communicate(timeout=15)
        self.equal(client.returncode, 3, "exit code of docker attach")

    def test_two_clients(self):
        name = self.run_detached(command=("sh", "-c", "sleep 1; echo both"))
        clients = [self.daemon.start_client("attach", name) for _ in range(2)]
        outputs = [client.communicate(timeout=20)[0] for client in clients]
        self.equal(outputs, [b"both\n", b"both\n"], "outputs of two attached clients")

    def test_client_gone(self):
        name = self.run_detached("-i", command=("sh", "-c", "while read line; do echo got $line; done; sleep 1000"))
        client = self.daemon.start_client("attach", name)
        client.stdin.write(b"one\n")
        client.stdin.flush()
        self.equal(client.stdout.readline(), b"got one\n", "first answer")
        client.kill()
        client.communicate()
        self.equal(self.field(name, "{{.State.Running}}"), "true", "running after its client was killed")

    def test_client_gone_while_flooded(self):
        name = self.run_detached("--init", command=("sh", "-c", "sleep 0.3; yes; sleep 1000"))
        client = self.daemon.start_client("attach", name)
        client.stdout.read(100000)
        client.kill()
        client.stdin.close(), client.stdout.close(), client.stderr.close()
        client.wait()
        self.equal(self.field(name, "{{.State.Running}}"), "true", "running")
        self.docker("kill", name)

    def test_reattach_terminal(self):
        name = self.run_detached("-it", command=("sh",))
        terminal = self.terminal("attach", name)
        time.sleep(0.3)
        terminal.send("echo a$((1+1))b\n")
        terminal.expect("a2b")
        terminal.send("\x10\x11")
        terminal.wait()
        terminal = self.terminal("attach", name)
        time.sleep(0.3)
        terminal.send("echo c$((2+2))d\n")
        terminal.expect("c4d")

    def test_stopped(self):
        name = self.name()
        self.docker("create", "--name", name, "busybox")
        self.docker("attach", name, code=1, err=re.compile("(?i)cannot attach to a stopped container"))


class Events(Case):
    def test_of_a_life(self):
        name = self.name()
        since = time.time()
        self.docker("run", "--rm", "--name", name, "busybox", "true")
        time.sleep(0.3)
        result = self.docker("events", "--since", f"{since:.6f}", "--until", f"{time.time():.6f}",
                             "--filter", "container=" + name, "--format", "{{.Action}}")
        actions = result.out.split()
        wanted = [action for action in actions if action in ("create", "attach", "start", "die", "destroy")]
        self.equal(wanted, ["create", "attach", "start", "die", "destroy"], "events of docker run --rm")

    def test_live(self):
        client = self.daemon.start_client("events", "--filter", "type=container", "--filter", "event=start", "--format", "{{.Actor.Attributes.name}}")
        time.sleep(0.5)
        name = self.run_detached()
        line = []
        reader = threading.Thread(target=lambda: line.append(client.stdout.readline()))
        reader.start()
        reader.join(10)
        client.kill()
        client.communicate()
        self.equal(line, [name.encode() + b"\n"], "docker events")

    def test_exit_code(self):
        name, since = self.name(), time.time()
        self.docker("run", "--name", name, "busybox", "sh", "-c", "exit 7", code=7)
        self.docker("events", "--since", f"{since:.6f}", "--until", f"{time.time() + 0.1:.6f}", "--filter", "container=" + name,
                    "--filter", "event=die", "--format", "{{.Actor.Attributes.exitCode}}", out="7")


@once
class Many(Case):
    def test_hundred_at_once(self):
        clients = [self.daemon.start_client("run", "--rm", "--network", "none", "busybox", "echo", str(n)) for n in range(100)]
        wrong = []
        for number, client in enumerate(clients):
            try:
                out, err = client.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                client.kill()
                out, err = client.communicate()
                err += b"(timed out)"
            if client.returncode or out != f"{number}\n".encode():
                wrong.append((number, client.returncode, out, err))
        self.equal(wrong, [], "100 × docker run --rm busybox echo N: number, exit code, stdout, stderr of those that failed")

    def test_fifty_then_all_gone(self):
        names = [self.run_detached("--network", "none") for _ in range(50)]
        self.equal(len(set(self.docker("ps", "-q").out.split())) >= 50, True, "50 containers in docker ps")
        self.docker("rm", "-f", *names)
