"""What a container's life costs beside Debian's podman: its log, copies, long lists, the daemon's death, many clients at once.

MOSS_BENCH_PARTS names parts (`logs output copies lists death clients parallel idle`); all run if nothing is said.
"""

import http.client
import json
import os
import resource
import select
import signal
import socket
import statistics
import subprocess
import threading
import time

from common import CACHE, PARTS, Bench

IMAGE, ARCHIVE = "nginx:1", "nginx.tar"  # a Debian system: its yes and head are fast
LINES = 1_000_000
SIZE = 200_000_000
LINE = "x" * 99
MANY = 1000


class Life(Bench):
    """Medians of few runs where one takes long."""

    programs = {"podman": "podman", "crun": "crun"}

    def measure(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        del soft
        parts = (self.logs, self.output, self.copies, self.lists, self.death, self.clients, self.parallel, self.idle)
        wanted = PARTS.split() or [part.__name__ for part in parts]
        for engine in filter(None, (self.docker, self.podman if {"logs", "output", "copies"} & set(wanted) else None)):
            self.run(engine, "load", "-i", f"{CACHE}/images/{ARCHIVE}")
        for part in parts:
            if part.__name__ in wanted:
                part()

    def run_to_end(self, engine, name, script):
        extra = ["--log-driver", "k8s-file"] if engine == self.podman else []
        self.run(engine, "run", "-d", "--name", name, "--network", "none", "--shm-size", "1g", *extra, IMAGE, "sh", "-c", script)
        self.run(engine, "wait", name)

    def remove(self, *names):
        self.run(self.docker, "rm", "-f", "-v", *names)
        if self.podman:
            subprocess.run([self.podman, "rm", "-f", "-t", "0", *names], env=self.env, capture_output=True, check=False)

    def logs(self):
        for engine in filter(None, (self.docker, self.podman)):
            self.run_to_end(engine, "said", f"seq 1 {LINES}")
        podman, docker, moss = self.compare([self.podman, "logs", "said"] if self.podman else None, [self.docker, "logs", "said"],
                                            [self.moss, "logs", "said"], runs=3)
        if podman:
            self.row("podman logs of 1,000,000 lines", podman, None)
        for what, took in (("docker", docker), ("moss", moss)):
            self.row(f"{what} logs of 1,000,000 lines", took, podman * 0.5 if podman else None, note=f"{took / podman:.3f} of podman" if podman else "")
        self.remove("said")

    def output(self):
        """From the container's first byte to its last, by its own clock; one program, that does no more than copy."""
        script = f"yes {LINE} | head -c {SIZE} > /dev/shm/text; a=$(date +%s%N); cat /dev/shm/text; b=$(date +%s%N); echo; echo took $((b - a))"
        runs = {}
        for engine in 5 * list(filter(None, (self.docker, self.podman))):
            self.run_to_end(engine, "loud", script)
            took = self.run(engine, "logs", "--tail", "1", "loud").rsplit(" ", 1)[1]
            runs.setdefault(engine, []).append(SIZE / (int(took) / 1e9) / 1e6)
            self.remove("loud")
        speeds = {engine: statistics.median(found) for engine, found in runs.items()}
        podman = speeds.get(self.podman)
        if podman:
            self.row("output into podman's log", podman, None, "MB/s")
        moss = speeds[self.docker]
        self.row("output into the log", moss, podman * 3 if podman else None, "MB/s", f"{moss / podman:.2f} of podman" if podman else "", least=True)

    def copies(self):
        path = self.top + "/big"
        with open(path, "wb") as file:
            for _ in range(SIZE // 1_000_000):
                file.write(os.urandom(1_000_000))
        for engine in filter(None, (self.docker, self.podman)):
            self.run(engine, "run", "-d", "--name", "box", "--network", "none", IMAGE, "sleep", "1000")
        for what, words in (("in", (path, "box:/big")), ("out", ("box:/big", self.top + "/back"))):
            podman, docker, moss = self.compare(*([engine, "cp", *words] if engine else None for engine in (self.podman, self.docker, self.moss)), runs=5)
            if podman:
                self.row(f"podman cp of 200 MB {what}", podman, None)
            for name, took in (("docker", docker), ("moss", moss)):
                self.row(f"{name} cp of 200 MB {what}", took, podman / 2 if podman else None, note=f"{podman / took:.2f} × podman's speed" if podman else "")
        self.remove("box")

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.runtime + "/moss.sock")
        return connection

    def ask(self, client, method, path, body=None):
        """One request on a connection that stays; its time in ms, and the answer."""
        begun = time.perf_counter()
        client.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = client.getresponse()
        data = answer.read()
        took = (time.perf_counter() - begun) * 1000
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {data}")
        return took, data

    def client(self):
        client = http.client.HTTPConnection("docker")
        client.sock = self.connect()
        return client

    def lists(self):
        client = self.client()
        created = [self.ask(client, "POST", f"/containers/create?name=c{number}", {"Image": IMAGE, "Cmd": ["true"]})[0] for number in range(MANY)]
        self.row(f"create, median of {MANY}", statistics.median(created), 5)
        times = [self.ask(client, "GET", "/containers/json?all=1")[0] for _ in range(20)]
        self.row(f"list of {MANY} containers", statistics.median(times), 30)
        times = [self.ask(client, "GET", f"/containers/c{number}/json")[0] for number in range(0, MANY, 5)]
        self.row("inspect", statistics.median(times), 2)
        begun = time.perf_counter()
        for number in range(MANY):
            self.ask(client, "DELETE", f"/containers/c{number}")
        self.row("remove, mean", (time.perf_counter() - begun) * 1000 / MANY, None)

    def held(self, count):
        """Containers that run on."""
        client = self.client()
        for number in range(count):
            self.ask(client, "POST", f"/containers/create?name=h{number}",
                     {"Image": IMAGE, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}})
            self.ask(client, "POST", f"/containers/h{number}/start")
        return [f"h{number}" for number in range(count)]

    def death(self):
        names = self.held(100)
        times = []
        for _ in range(5):
            self.daemon.send_signal(signal.SIGKILL)
            self.daemon.wait()
            begun = time.perf_counter()
            self.daemon = subprocess.Popen([self.moss, "daemon", "--supervised"], env=self.env, stdin=self.null, stdout=self.log, stderr=self.log)
            while True:
                try:
                    data = self.ask(self.client(), "GET", "/containers/json")[1]
                    break
                except OSError:
                    time.sleep(0.001)
            times.append((time.perf_counter() - begun) * 1000)
            if len(json.loads(data)) != 100:
                raise SystemExit(f"{len(json.loads(data))} of 100 containers run")
            time.sleep(1)
        self.row("killed daemon answers again, 100 containers", statistics.median(times), 150)
        self.remove(*names)

    def clients(self):
        """A thousand follow events and the log of one container, and each gets what comes."""
        self.run(self.docker, "run", "-di", "--name", "talk", "--network", "none", IMAGE, "cat")
        talk = subprocess.Popen([self.docker, "attach", "talk"], env=self.env, stdin=subprocess.PIPE, stdout=self.null)
        followers = []
        for number in range(MANY):
            connection = self.connect()
            path = "/events" if number % 2 else "/containers/talk/logs?follow=1&stdout=1"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: docker\r\n\r\n".encode())
            followers.append(connection)
        time.sleep(1)
        before = self.proc(self.daemon.pid, "status", "VmRSS")
        begun = time.perf_counter()
        talk.stdin.write(b"the word\n")
        talk.stdin.flush()
        self.run(self.docker, "kill", "-s", "WINCH", "talk")
        waiting, texts, poll = {}, {}, select.poll()
        for number, connection in enumerate(followers):
            waiting[connection.fileno()] = (connection, b'"kill"' if number % 2 else b"the word")
            poll.register(connection, select.POLLIN)
        while waiting and time.perf_counter() - begun < 30:
            for number, _ in poll.poll(1000):
                connection, word = waiting.get(number, (None, None))
                if connection:
                    texts[number] = texts.get(number, b"") + connection.recv(65536)
                    if word in texts[number]:
                        del waiting[number]
                        poll.unregister(number)
        self.row(f"{MANY} followers have a message", (time.perf_counter() - begun) * 1000, None, note=f"{len(waiting)} have not; none may")
        self.row("daemon with them, RSS", before / 1024, None, "MiB")
        for connection in followers:
            connection.close()
        talk.kill()
        talk.wait()
        self.remove("talk")

    def parallel(self):
        wrong = []

        def life(number):
            try:
                client = self.client()
                self.ask(client, "POST", f"/containers/create?name=p{number}", {"Image": IMAGE, "Cmd": ["sleep", "1000"]})
                self.ask(client, "POST", f"/containers/p{number}/start")
                self.ask(client, "DELETE", f"/containers/p{number}?force=1")
            except (SystemExit, OSError, http.client.HTTPException) as error:
                wrong.append(str(error))

        begun = time.perf_counter()
        threads = [threading.Thread(target=life, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.row("200 parallel creates, starts, removes", (time.perf_counter() - begun) * 1000, None, note=f"{len(wrong)} failed; none may")
        for text in wrong[:3]:
            print("    ", text)

    def switches(self, pids):
        """Voluntary context switches by thread: it woke up, and waits again."""
        threads = [f"{pid}/task/{thread}" for pid in pids for thread in os.listdir(f"/proc/{pid}/task")]
        return {thread: self.proc(thread, "status", "voluntary_ctxt_switches") for thread in threads}

    def idle(self):
        names = self.held(20)
        ids = json.loads(self.run(self.docker, "inspect", *names))
        shims = [self.proc(one["State"]["Pid"], "status", "PPid") for one in ids]
        time.sleep(12)  # what was needed while they started is given back: threads without work last ten seconds
        who = {"daemon": [self.daemon.pid], "keeper": [self.keeper()], "20 shims": shims}
        before = {name: self.switches(pids) for name, pids in who.items()}
        time.sleep(10)
        for name, pids in who.items():
            # A thread that has ended has woken up for it.
            after = self.switches(pids)
            wakes = sum(abs(after.get(thread, 0) - before[name].get(thread, 0)) for thread in {*after, *before[name]})
            self.row(f"wake-ups of {name} in 10 s of idleness", wakes, 0, "")
        self.remove(*names)
