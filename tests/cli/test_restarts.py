"""pause, unpause, update, restart policies, health checks; also over a daemon's death."""

import json
import os
import re
import signal
import time
import urllib.parse

from harness import Case, Daemon, eventually, host_case, once


class Pause(Case):
    @host_case
    def test_pause_and_unpause(self):
        name = self.run_detached(command=("sh", "-c", "while :; do sleep 0.01; done"))
        self.docker("pause", name, out=name)
        self.equal(self.field(name, "{{.State.Status}} {{.State.Running}} {{.State.Paused}}"), "paused true true", "state")
        self.docker("ps", "--filter", f"name={name}", "--format", "{{.Status}}", out=re.compile(r"\(Paused\)"))
        states = self.docker("top", name, "-o", "pid,stat").out.splitlines()[1:]
        self.equal([line for line in states if line.split()[1][0] not in "TDZ"], [], "processes that run")
        self.docker("pause", name, code=1, err=re.compile("is already paused"))
        self.docker("exec", name, "true", code=1, err=re.compile("is paused, unpause the container before exec"))
        self.docker("start", name, code=1, err=re.compile("cannot start a paused container, try unpause instead"))
        self.docker("rm", name, code=1, err=re.compile("container is paused and must be unpaused first"))
        self.docker("unpause", name, out=name)
        self.docker("exec", name, "true")
        self.docker("unpause", name, code=1, err=re.compile("is not paused"))

    def test_stop_and_kill_paused(self):
        name = self.run_detached(command=("sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done"))
        eventually(lambda: "up" in self.docker("logs", name).out, "the trap")
        self.docker("pause", name)
        self.docker("stop", name)
        self.equal(self.field(name, "{{.State.Status}} {{.State.ExitCode}}"), "exited 3", "state")
        self.docker("start", name)
        self.docker("pause", name)
        self.docker("kill", name)
        self.equal(self.field(name, "{{.State.ExitCode}}"), "137", "exit code")

    def test_pause_stopped(self):
        name = self.name()
        self.docker("create", "--name", name, "busybox")
        self.docker("pause", name, code=1, err=re.compile("is not running"))


class Update(Case):
    def test_update(self):
        name = self.run_detached("--memory", "64m")
        self.docker("update", "--memory", "32m", "--cpu-shares", "512", "--restart", "on-failure:3", name,
                    out=re.compile(name))
        host = self.daemon.inspect(name)["HostConfig"]
        self.equal((host["Memory"], host["CpuShares"], host["RestartPolicy"]),
                   (32 << 20, 512, {"Name": "on-failure", "MaximumRetryCount": 3}), "configuration")
        self.moss("update", "--cpus", "1", name, out=name)
        self.docker("update", "--cpu-quota", "10000", name, code=1,
                    err=re.compile("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"))


class Restart(Case):
    def test_on_failure(self):
        name = self.name()
        self.docker("run", "-d", "--restart", "on-failure:2", "--name", name, "busybox", "sh", "-c", "echo run; exit 5")
        eventually(lambda: self.field(name, "{{.State.Status}} {{.RestartCount}}") == "exited 2", "two restarts")
        self.docker("logs", name, out="run\nrun\nrun")
        self.docker("inspect", "--format", "{{.State.ExitCode}}", name, out="5")

    def test_always_until_it_is_stopped(self):
        name = self.name()
        self.docker("run", "-d", "--restart", "always", "--name", name, "busybox", "sh", "-c", "echo run")
        eventually(lambda: self.field(name, "{{.RestartCount}}") >= "3", "three restarts")
        self.docker("stop", "-t", "0", name)
        self.equal(self.field(name, "{{.State.Status}} {{.State.Restarting}}"), "exited false", "state")
        runs = self.docker("logs", name).out
        self.docker("start", name)
        eventually(lambda: self.docker("logs", name).out != runs, "another run")
        self.docker("rm", "-f", name)

    def test_killed_containers_stay_down(self):
        name = self.run_detached("--restart", "unless-stopped")
        self.docker("kill", name)
        self.equal(self.field(name, "{{.State.Status}} {{.RestartCount}}"), "exited 0", "state")


@once
class Death(Case):
    def test_policies_and_checks_outlive_the_daemon(self):
        daemon = Daemon()
        self.addCleanup(daemon.close)
        daemon.load("busybox.tar")
        daemon.docker("run", "-d", "--name", "always", "--restart", "always", "busybox", "sh", "-c", "echo run; sleep 1000")
        daemon.docker("run", "-d", "--name", "stopped", "--restart", "unless-stopped", "busybox", "sleep", "1000")
        daemon.docker("run", "-d", "--name", "paused", "busybox", "sleep", "1000")
        daemon.docker("run", "-d", "--name", "checked", "--health-cmd", "echo x; exit 1", "--health-interval", "10ms",
                      "--health-retries", "1000", "busybox", "sleep", "1000")
        daemon.docker("stop", "-t", "0", "stopped")
        daemon.docker("pause", "paused")
        streak = lambda: daemon.inspect("checked")["State"]["Health"]["FailingStreak"]
        before = eventually(lambda: streak() >= 3 and streak(), "failures")
        pid = daemon.inspect("always")["State"]["Pid"]
        daemon.kill()
        os.kill(pid, signal.SIGKILL)
        daemon.start()
        eventually(lambda: daemon.inspect("always")["State"]["Running"], "a restart")
        eventually(lambda: daemon.docker("logs", "always").out == "run\nrun\n", "two runs")
        state = daemon.inspect("stopped")["State"]
        self.equal((state["Running"], state["Restarting"]), (False, False), "the container that was stopped")
        self.equal(daemon.inspect("paused")["State"]["Status"], "paused", "the paused container")
        daemon.docker("unpause", "paused")
        daemon.docker("exec", "paused", "true")
        if eventually(lambda: streak() > before and streak(), "more failures") < before:
            self.fail("counters began anew")


    @host_case
    def test_a_killed_daemon_comes_back_while_containers_run(self):
        daemon = Daemon(start=False)
        self.addCleanup(daemon.close)
        daemon.start("--label", "of=mine", supervised=False)
        daemon.load("busybox.tar")
        daemon.docker("run", "-d", "--name", "on", "busybox", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done")
        first, running = daemon.process.pid, daemon.inspect("on")["State"]["Pid"]
        lock = daemon.data_home + "/moss/lock"

        def holder():
            with open(lock, encoding="utf-8") as file:
                return json.load(file)

        def another(last):
            held = holder()
            return held["pid"] if held["pid"] != last and held["socket"] else None

        second = None
        try:
            daemon.kill()
            second = eventually(lambda: another(first), "a daemon that is started again")
            eventually(lambda: daemon.docker("version", code=None).code == 0, "its answer")
            self.equal(daemon.inspect("on")["State"]["Pid"], running, "the container")
            daemon.docker("info", "--format", "{{.Labels}}", out="[of=mine]")
            # What it is told is lasting: it is started again as often as it takes.
            os.kill(second, signal.SIGKILL)
            third = eventually(lambda: another(second), "another daemon")
            second = third
            eventually(lambda: daemon.docker("version", code=None).code == 0, "its answer")
            # Also by a keeper that was not the one which forked the container's shim.
            keeper = daemon.keeper()
            os.kill(keeper, signal.SIGKILL)
            eventually(lambda: daemon.keeper() not in (None, keeper), "another keeper, though nobody asks for anything")
            # By then it has been told how to start a daemon.
            daemon.docker("run", "--rm", "busybox", "true")
            os.kill(third, signal.SIGKILL)
            second = eventually(lambda: another(third), "a daemon that another keeper starts")
            eventually(lambda: daemon.docker("version", code=None).code == 0, "its answer")
            daemon.docker("stop", "on")
            self.equal(daemon.inspect("on")["State"]["ExitCode"], 5, "exit code")
            daemon.docker("start", "on")
        finally:
            if second:
                os.kill(second, signal.SIGTERM)
        # One that was asked to end is not wanted back, though a container runs.
        eventually(lambda: not os.path.exists(f"/proc/{second}"), "the daemon's end")
        daemon.start()
        self.equal(daemon.inspect("on")["State"]["Running"], True, "the container")
        daemon.docker("rm", "-f", "on")


class Health(Case):
    def test_healthy_and_not(self):
        name = self.run_detached("--health-cmd", "test -e /sick && echo ill && exit 1; echo well", "--health-interval", "20ms",
                                 "--health-retries", "2")
        status = lambda: self.field(name, "{{.State.Health.Status}}")
        eventually(lambda: status() == "healthy", "health")
        self.docker("ps", "--filter", f"name={name}", "--filter", "health=healthy", "--format", "{{.Status}}",
                    out=re.compile(r"\(healthy\)"))
        self.docker("exec", name, "touch", "/sick")
        eventually(lambda: status() == "unhealthy", "sickness")
        log = lambda: self.daemon.inspect(name)["State"]["Health"]["Log"]
        eventually(lambda: len(log()) == 5, "five results")
        self.equal((log()[-1]["ExitCode"], log()[-1]["Output"]), (1, "ill\n"), "the last result")
        self.docker("exec", name, "rm", "/sick")
        eventually(lambda: status() == "healthy", "health again")
        filters = urllib.parse.quote(json.dumps({"container": [name], "event": ["health_status"]}))
        _, _, events = self.daemon.http("GET", f"/events?since=0&until={time.time():.9f}&filters={filters}")
        actions = [json.loads(line)["Action"] for line in events.splitlines()]
        self.equal(actions[:2], ["health_status: healthy", "health_status: unhealthy"], "events")

    def test_slow_checks_fail(self):
        name = self.run_detached("--health-cmd", "echo slow; sleep 1000", "--health-interval", "20ms",
                                 "--health-timeout", "50ms", "--health-retries", "1")
        eventually(lambda: self.field(name, "{{.State.Health.Status}}") == "unhealthy", "sickness")
        last = self.daemon.inspect(name)["State"]["Health"]["Log"][-1]
        self.equal(last["ExitCode"], -1, "exit code")
        if not last["Output"].startswith("Health check exceeded timeout (50ms)"):
            self.fail(f"output: {last['Output']!r}")


class Use(Case):
    @host_case
    def test_stats(self):
        name = self.run_detached(command=("sh", "-c", "while :; do :; done"))
        line = self.docker("stats", "--no-stream", "--format", "{{json .}}", name).out
        row = json.loads(line.splitlines()[-1])
        self.equal((row["Name"], row["PIDs"]), (name, "1"), "row")
        if float(row["CPUPerc"].rstrip("%")) <= 0 or row["MemUsage"].startswith("0B"):
            self.fail(f"use: {row}")
        self.moss("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", name, out=f"{name} 1")
        status, _, frame = self.daemon.http("GET", f"/containers/{name}/stats?stream=0&one-shot=1")
        self.equal((status, frame["name"], frame["preread"]), (200, "/" + name, "0001-01-01T00:00:00Z"), "frame")
        self.docker("stop", "-t", "0", name)
        self.docker("stats", "--no-stream", "--format", "{{.Name}}", name, out=name)


class Logging(Case):
    def test_rotation(self):
        name = self.name()
        self.docker("run", "-d", "--name", name, "--log-opt", "max-size=2k", "--log-opt", "max-file=3", "--log-opt", "labels=kind",
                    "--label", "kind=x", "busybox", "seq", "1", "500")
        self.docker("wait", name)
        lines = self.docker("logs", name).out.split()
        first = int(lines[0])
        self.equal(lines, [str(number) for number in range(first, 501)], "lines")
        if not 300 < first < 490:
            self.fail(f"first line {first}")
        self.docker("logs", "--tail", "30", name, out="\n".join(str(number) for number in range(471, 501)))
        self.docker("logs", "--details", "--tail", "1", name, out="kind=x 500")

    def test_bind_of_the_usual_socket_is_this_engines(self):
        name = self.run_detached("-v", "/var/run/docker.sock:/var/run/docker.sock")
        self.docker("exec", name, "test", "-S", "/var/run/docker.sock")
        self.equal(self.daemon.inspect(name)["Mounts"][0]["Source"], "/var/run/docker.sock", "source")
        inode = self.docker("exec", name, "stat", "-c", "%i", "/var/run/docker.sock").out.strip()
        self.equal(inode, str(os.stat(self.daemon.socket).st_ino), "inode")
