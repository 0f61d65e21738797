"""How fast containers start and what they cost, beside Debian's podman + crun, with no network on both sides."""

import os
import re
import statistics
import subprocess
import time

from common import CACHE, Bench

IMAGE, ARCHIVE = "nginx:1", "nginx.tar"  # a Debian system in two layers
MANY = 50


class Starts(Bench):
    """Runs, execs, fifty at a time, a hundred at once."""

    contended = (0, 0)  # bytes of the daemon's log that are of starts in parallel

    def measure(self):
        for engine in filter(None, (self.docker, self.podman)):
            self.run(engine, "load", "-i", f"{CACHE}/images/{ARCHIVE}")
        for part in (self.starts, self.execs, self.many, self.parallel, self.phases):
            part()

    def shim_of(self, name):
        pid = int(self.run(self.docker, "inspect", "-f", "{{.State.Pid}}", name))
        return self.proc(pid, "status", "PPid")

    def starts(self):
        rest = ["--rm", "--network", "none", IMAGE, "true"]
        version, docker, moss, podman = self.compare(
            [self.docker, "--version"], [self.docker, "run", *rest], [self.moss, "run", *rest],
            [self.podman, "run", *rest] if self.podman else None)
        share = podman * 0.08 if podman else None
        self.row("docker --version", version, None)
        if podman:
            self.row("podman run --rm IMG true", podman, None)
        self.row("docker run --rm IMG true", docker, version + share if share else None,
                 note=f"{(docker - version) / podman:.3f} of podman over the CLI's start; at most 0.08" if podman else "")
        self.row("moss run --rm IMG true", moss, share, note=f"{moss / podman:.3f} of podman; at most 0.08" if podman else "")

    def execs(self):
        self.run(self.docker, "run", "-d", "--name", "box", "--network", "none", IMAGE, "sleep", "1000")
        if self.podman:
            self.run(self.podman, "run", "-d", "--name", "box", "--network", "none", IMAGE, "sleep", "1000")
        moss, docker, podman = self.compare([self.moss, "exec", "box", "true"], [self.docker, "exec", "box", "true"],
                                            [self.podman, "exec", "box", "true"] if self.podman else None)
        if podman:
            self.row("podman exec box true", podman, None)
        self.row("docker exec box true", docker, None)
        self.row("moss exec box true", moss, podman * 0.1 if podman else None, note=f"{moss / podman:.3f} of podman; at most 0.1" if podman else "")
        time.sleep(2)  # it lets go of what it needed while it was busy
        self.row("shim alone, PSS", self.proc(self.shim_of("box"), "smaps_rollup", "Pss") / 1024, 1, "MiB")
        self.run(self.docker, "rm", "-f", "box")
        if self.podman:
            self.run(self.podman, "rm", "-f", "-t", "0", "box")

    def many(self):
        def loop(engine):
            begun = time.perf_counter()
            for number in range(MANY):
                self.time(engine, "run", "-d", "--name", f"m{number}", "--network", "none", IMAGE, "sleep", "1000")
            return (time.perf_counter() - begun) * 1000

        podman = loop(self.podman) if self.podman else None
        if podman:
            self.row(f"{MANY} × podman run -d", podman, None)
            conmons = [self.proc(pid, "smaps_rollup", "Pss") for pid in self.children("conmon")]
            if conmons:
                self.row("conmon, PSS each", statistics.mean(conmons) / 1024, None, "MiB")
            self.run(self.podman, "rm", "-f", "-a", "-t", "0")
        self.row(f"{MANY} × moss run -d", loop(self.moss), podman * 0.2 if podman else None)
        self.run(self.docker, "rm", "-f", *self.run(self.docker, "ps", "-aq").split())
        self.row(f"{MANY} × docker run -d", loop(self.docker), podman * 0.2 if podman else None)
        time.sleep(1)
        shims = [self.proc(self.shim_of(f"m{number}"), "smaps_rollup", "Pss") for number in range(MANY)]
        self.row(f"shims over {MANY} containers, PSS each", statistics.mean(shims) / 1024, 0.3, "MiB")
        self.row("keeper, PSS", self.proc(self.keeper(), "smaps_rollup", "Pss") / 1024, None, "MiB")
        self.row(f"daemon with {MANY} containers, RSS", self.proc(self.daemon.pid, "status", "VmRSS") / 1024, 20, "MiB")
        self.run(self.docker, "rm", "-f", *self.run(self.docker, "ps", "-aq").split())

    def children(self, word):
        """This user's processes whose command line has `word` and our directory or environment."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    command = file.read().decode("utf-8", "replace")
                with open(f"/proc/{pid}/environ", "rb") as file:
                    environment = file.read().decode("utf-8", "replace")
            except OSError:
                continue
            if word in command.split("\0", 3)[0:2][-1] + command.split("\0")[0] and self.top in command + environment:
                found.append(int(pid))
        return found

    def parallel(self):
        before = os.path.getsize(self.top + "/daemon.log")
        begun = time.perf_counter()
        children = [subprocess.Popen([self.docker, "run", "--rm", "--network", "none", IMAGE, "true"], env=self.env, stdin=self.null,
                                     stdout=self.null, stderr=subprocess.PIPE) for _ in range(100)]
        wrong = [child.stderr.read() for child in children if child.wait()]
        self.row("100 parallel docker run --rm", (time.perf_counter() - begun) * 1000, None, note=f"{len(wrong)} failed; none may")
        for text in wrong[:3]:
            print("    ", text.decode("utf-8", "replace").strip())
        self.contended = (before, os.path.getsize(self.top + "/daemon.log"))

    def phases(self):
        """The start's phases, which the daemon logs at debug level as `phases=[("clone", NS), …]`.

        Those of starts in parallel are apart: they wait for each other, and have no target.
        """
        with open(self.top + "/daemon.log", "rb") as file:
            log = file.read()
        begin, end = self.contended
        self.phases_in(log[:begin] + log[end:], "one at a time", 5)
        self.phases_in(log[begin:end], "in parallel", None)

    def phases_in(self, log, how, target):
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.decode("utf-8", "replace"))
        starts = [{name: int(time) for name, time in re.findall(r'"(\w+)", (\d+)', found)}
                  for found in re.findall(r"phases=\[([^\]]*)\]", text)]
        if not starts:
            print(f"the daemon's log has no phases= line of starts {how}")
            return
        total = 0.0
        for phase in starts[-1]:
            median = statistics.median(start.get(phase, 0) for start in starts) / 1e6
            total += median
            self.row(f"  phase {phase}, {how}", median, None)
        self.row(f"all phases, medians of {len(starts)} starts {how}", total, target)
