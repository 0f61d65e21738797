"""Clients that leave without a goodbye, requests that meet, engines that break off, and a daemon killed between two of its steps."""

import json
import os
import signal
import socket
import threading
import time

import harness
from harness import check, eventually, fail, once, run
from test_faults import Own, children_named, parent


def record_of(daemon, container):
    return f"{daemon.data_home}/moss/containers/{container}/record.json"


def change_record(daemon, container, **fields):
    """Rewrites a record as a daemon that was killed would have left it; files of the user's own id."""
    path = record_of(daemon, container)
    with open(path, encoding="utf-8") as file:
        record = json.load(file)
    record.update(fields)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(record, file)


@once
class KilledBetweenSteps(Own):
    """What is on disk when the daemon dies at the worst moment, made by hand."""

    def test_started_and_not_recorded(self):
        container = self.docker("create", "--name", "cc", "busybox", "sh", "-c", "echo up; exec sleep 1000").out.strip()
        with open(record_of(self.daemon, container), encoding="utf-8") as file:
            created = json.load(file)["state"]
        self.docker("start", "cc")
        pid = self.daemon.inspect("cc")["State"]["Pid"]
        self.daemon.kill()
        change_record(self.daemon, container, state=created)
        self.daemon.start()
        state = self.daemon.inspect("cc")["State"]
        if (state["Running"], state["Pid"]) != (True, pid):
            fail("docker inspect", f"running, pid {pid}", state)
        self.docker("exec", "cc", "echo", "in", out="in")
        self.docker("rm", "-f", "cc")

    def test_ran_and_nothing_of_it_recorded(self):
        container = self.docker("create", "--name", "cc", "busybox", "sh", "-c", "echo up; sleep 0.5; exit 7").out.strip()
        with open(record_of(self.daemon, container), encoding="utf-8") as file:
            created = json.load(file)["state"]
        self.docker("start", "cc")
        self.daemon.kill()
        change_record(self.daemon, container, state=created)
        time.sleep(1)
        self.daemon.start()
        self.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "cc", out="exited 7")
        self.docker("rm", "cc")

    def test_failed_start_stays_one(self):
        self.docker("create", "--name", "cc", "busybox", "nosuch")
        self.docker("start", "cc", code=1)
        before = self.daemon.inspect("cc")["State"]
        self.daemon.kill()
        self.daemon.start()
        after = self.daemon.inspect("cc")["State"]
        if before != after:
            fail("docker inspect", before, after)

    def test_created_and_not_in_its_place(self):
        container = self.docker("create", "--name", "cc", "busybox", "true").out.strip()
        self.daemon.kill()
        place = os.path.dirname(record_of(self.daemon, container))
        os.rename(place, os.path.join(os.path.dirname(place), "." + container))
        self.daemon.start()
        self.docker("ps", "-aq", out="")
        self.docker("run", "--rm", "--name", "cc", "busybox", "echo", "ok", out="ok")

    def test_power_cut(self):
        kept = self.docker("create", "busybox", "true").out.strip()
        lost = self.docker("create", "--rm", "busybox", "true").out.strip()
        self.daemon.kill()
        with open(record_of(self.daemon, lost), "w", encoding="utf-8"):
            pass
        self.daemon.start()
        self.docker("ps", "-aq", "--no-trunc", out=kept)
        if os.path.exists(os.path.dirname(record_of(self.daemon, lost))):
            fail("a daemon with an empty record", "no container's directory", "it is there")

    def test_failed_start_of_what_removes_itself(self):
        failed = self.docker("create", "busybox", "nosuch").out.strip()
        self.docker("start", failed, code=1)
        with open(record_of(self.daemon, failed), encoding="utf-8") as file:
            state = json.load(file)["state"]
        other = self.docker("create", "--rm", "busybox", "nosuch").out.strip()
        self.daemon.kill()
        change_record(self.daemon, other, state=state)
        self.daemon.start()
        self.docker("ps", "-aq", "--no-trunc", out=failed)

    def test_two_of_one_name(self):
        ids = [self.docker("create", "--name", name, "busybox", "true").out.strip() for name in ("cc", "dd")]
        self.daemon.kill()
        change_record(self.daemon, ids[1], name="cc")
        self.daemon.start()
        names = set(self.docker("ps", "-a", "--format", "{{.Names}}").out.split())
        if len(names) != 2 or "cc" not in names or not names - {"cc"} <= set(ids):
            fail("docker ps -a", f"cc and one of {ids}", names)
        self.docker("rm", *ids)


@once
class Meeting(Own):
    """Requests for one container at one time."""

    def pause(self, pid):
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(lambda: os.path.exists(f"/proc/{pid}") and os.kill(pid, signal.SIGCONT))

    def keeper(self):
        named = children_named(self.daemon, "keeper")
        return [pid for pid in named if parent(pid) not in named][0]

    def test_remove_does_not_kill_what_is_starting(self):
        self.docker("create", "--name", "cc", "busybox", "sleep", "1000")
        keeper = self.keeper()
        self.pause(keeper)
        starting = self.daemon.start_client("start", "cc")
        time.sleep(0.5)
        removing = self.daemon.start_client("rm", "cc")
        time.sleep(0.5)
        os.kill(keeper, signal.SIGCONT)
        starting.communicate(timeout=20)
        removed = removing.communicate(timeout=20)
        if removing.returncode == 0:
            fail("docker rm of a container that is being started", "a refusal", removed)
        self.docker("inspect", "-f", "{{.State.Running}}", "cc", out="true")
        self.docker("rm", "-f", "cc")

    def test_restart_keeps_a_container_that_removes_itself(self):
        self.docker("run", "-d", "--rm", "--name", "cc", "busybox", "sleep", "1000")
        first = self.daemon.inspect("cc")
        self.docker("restart", "-t", "0", "cc")
        second = self.daemon.inspect("cc")
        if first["Id"] != second["Id"] or not second["State"]["Running"] or first["State"]["Pid"] == second["State"]["Pid"]:
            fail("docker restart of a --rm container", "the same container, running anew", second["State"])
        self.docker("kill", "cc")
        eventually(lambda: self.docker("inspect", "cc", code=None).code == 1, "the --rm container removed")

    def attach(self, name, **more):
        connection = self.daemon.connect()
        query = "&".join(f"{key}={value}" for key, value in {"stream": 1, "stdout": 1, **more}.items())
        connection.sendall(f"POST /v1.44/containers/{name}/attach?{query} HTTP/1.1\r\nHost: x\r\n"
                           "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
        return connection

    def test_a_restart_that_waits_holds_nobody_else_up(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
        restart = self.daemon.start_client("restart", "-t", "-1", "cc")
        time.sleep(0.5)
        clients = [self.attach("cc") for _ in range(40)]
        for _ in range(40):
            clients.append(self.daemon.connect())
            clients[-1].sendall(b"POST /v1.44/containers/cc/start HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        time.sleep(1)
        begun = time.monotonic()
        self.docker("run", "--rm", "busybox", "true", timeout=20)
        took = time.monotonic() - begun
        if took > 1.8:
            fail("docker run beside a restart that waits", "as fast as ever", f"{took:.1f} s")
        for client in clients:
            client.close()
        restart.kill()
        restart.communicate()
        self.docker("kill", "cc", timeout=20)
        eventually(lambda: self.daemon.inspect("cc")["State"]["Running"], "the restart's start")
        self.docker("rm", "-f", "cc")

    def test_an_exec_that_hangs_delays_no_start(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sleep", "1000")
        shim = parent(self.daemon.inspect("cc")["State"]["Pid"])
        self.pause(shim)
        hanging = self.daemon.start_client("exec", "cc", "true")
        time.sleep(0.5)
        begun = time.monotonic()
        self.docker("run", "--rm", "busybox", "true")
        took = time.monotonic() - begun
        os.kill(shim, signal.SIGCONT)
        hanging.communicate(timeout=20)
        if took > 1.8:
            fail("docker run beside an exec that hangs", "as fast as ever", f"{took:.1f} s")
        self.docker("rm", "-f", "cc")


@once
class Leaving(Own):
    """A client that has left costs nothing any more."""

    def info(self, field):
        return self.daemon.http("GET", "/info")[2][field]

    def test_events(self):
        for _ in range(5):
            connection = self.daemon.connect()
            connection.sendall(b'GET /v1.44/events?filters=%7B%22container%22:%5B%22nosuch%22%5D%7D&until=9999999999 HTTP/1.1\r\nHost: x\r\n\r\n')
            connection.recv(20)
            connection.close()
        eventually(lambda: self.info("NEventsListener") == 0, "no listener left")

    def test_attach_before_the_start(self):
        self.docker("create", "--name", "cc", "busybox", "echo", "hi")
        before = self.info("NFd")
        for _ in range(30):
            connection = self.daemon.connect()
            connection.sendall(b"POST /v1.44/containers/cc/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
                               b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            connection.recv(20)
            connection.close()
        eventually(lambda: self.info("NFd") < before + 10, "the descriptors of clients that left are closed")
        self.docker("start", "-a", "cc", out="hi")

    def test_attach_with_a_log_that_nobody_reads(self):
        self.docker("run", "--name", "cc", "busybox", "sh", "-c", "yes | head -c 3000000")
        clients = []
        for _ in range(40):
            connection = self.daemon.connect()
            connection.sendall(b"POST /v1.44/containers/cc/attach?logs=1&stdout=1&stream=1 HTTP/1.1\r\nHost: x\r\n"
                               b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            clients.append(connection)
        time.sleep(0.5)
        begun = time.monotonic()
        self.docker("run", "--rm", "busybox", "true")
        took = time.monotonic() - begun
        if took > 1.8:
            fail("docker run beside clients that do not read", "as fast as ever", f"{took:.1f} s")
        for client in clients:
            client.close()


@once
class Hung(Own):
    """An engine that breaks off is told of, with a status."""

    def test_load_into_an_engine_that_breaks_off(self):
        top = self.daemon.top
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(top + "/fake.sock")
        listener.listen(4)

        def break_off():
            connection = listener.accept()[0]
            connection.recv(100)
            connection.close()

        server = threading.Thread(target=break_off, daemon=True)
        server.start()
        words = ("load", "-i", harness.need_image("busybox.tar"))
        result = run([harness.BIN, "-H", "unix://" + top + "/fake.sock", *words], env=self.daemon.env)
        listener.close()
        check(result, code=1)
        if not result.err.strip():
            fail(result.command, "a sentence", result)
