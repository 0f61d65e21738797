"""The runtime directory is deleted under running containers, as logind does when a user's last session ends."""

import errno
import os
import re
import shutil
import signal

import harness
from harness import check, eventually, fail, host_case, once, run
from test_faults import Own, children_named, parent

READY = "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done"


class Deleted(Own):
    """Words for it."""

    def delete(self):
        try:
            shutil.rmtree(self.daemon.env["XDG_RUNTIME_DIR"])
        except OSError as error:
            # A daemon that lives may make its socket while the rest is being deleted.
            if error.errno != errno.ENOTEMPTY or self.daemon.process.poll() is not None:
                raise

    def begin(self, *names):
        """Containers that end with 3 when they are stopped; the pids of their first processes."""
        for name in names:
            self.docker("run", "-d", "--name", name, "busybox", "sh", "-c", READY)
        for name in names:
            eventually(lambda name=name: self.docker("logs", name).out == "up\n", f"{name} is up")
        return [self.daemon.inspect(name)["State"]["Pid"] for name in names]

    def keeper(self):
        named = children_named(self.daemon, "keeper")
        return [pid for pid in named if parent(pid) not in named][0]

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: gone(pid), f"process {pid} ended")

    def answers(self):
        eventually(lambda: os.path.exists(self.daemon.socket) and self.docker("version", code=None).code == 0,
                   "the daemon's socket made anew; its log:\n" + self.daemon.log(), 30)

    def all_works(self, name, pid):
        """Everything that can be done with a container that goes on running."""
        state = self.daemon.inspect(name)["State"]
        if (state["Running"], state["Pid"]) != (True, pid):
            fail(f"docker inspect {name}", f"running, pid {pid}", state)
        self.docker("exec", name, "echo", "in", out="in")
        self.docker("logs", name, out="up")
        self.docker("start", name)
        self.docker("run", "--rm", "busybox", "echo", "ok", out="ok")
        check(self.daemon.leaks())
        self.docker("stop", name)
        self.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name, out="exited 3")
        if not gone(pid):
            fail(f"docker stop {name}", "its first process ended", pid)
        self.docker("start", name)
        self.docker("rm", "-f", name)


def gone(pid):
    """Whether a process has ended; a zombie has, and one that is just being forgotten."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


@once
class WithADaemon(Deleted):
    @host_case
    def test_everything_goes_on(self):
        pid, = self.begin("cc")
        self.delete()
        self.answers()
        self.all_works("cc", pid)

    def test_a_verb_gets_through(self):
        pid, = self.begin("cc")
        self.delete()
        self.daemon.moss("ps", "--format", "{{.Names}}", out="cc")
        self.all_works("cc", pid)

    def test_the_next_daemon_finds_all(self):
        pid, = self.begin("cc")
        self.delete()
        self.answers()
        self.daemon.kill()
        self.daemon.start()
        self.all_works("cc", pid)

    def test_a_daemon_that_hangs_is_told_of(self):
        self.delete()
        self.answers()
        self.daemon.process.send_signal(signal.SIGSTOP)
        self.addCleanup(self.daemon.process.send_signal, signal.SIGCONT)
        self.delete()
        pid = self.daemon.process.pid
        self.daemon.moss("ps", code=1, err=re.compile(rf"pid {pid}\) runs, but its socket .* was deleted"))
        self.daemon.process.send_signal(signal.SIGCONT)
        self.answers()

    def test_a_verb_waits_for_a_daemon_that_leaves(self):
        self.begin("cc")
        connection = self.daemon.connect()
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(20)
        self.daemon.process.terminate()
        eventually(lambda: not os.path.exists(self.daemon.socket), "the socket removed")
        self.daemon.moss("ps", "--format", "{{.Names}}", out="cc")
        connection.close()
        self.daemon.process.wait(20)
        self.daemon.moss("system", "stop")


@once
class WithoutADaemon(Deleted):
    def test_everything_goes_on(self):
        pid, = self.begin("cc")
        self.daemon.kill()
        self.delete()
        check(self.daemon.leaks())
        self.daemon.start()
        self.all_works("cc", pid)

    @host_case
    def test_ends_are_true(self):
        first, second = self.begin("cc", "killed")
        self.docker("run", "-d", "--rm", "--name", "removed", "busybox", "sh", "-c", READY)
        removed = self.daemon.inspect("removed")["State"]["Pid"]
        shims = [parent(pid) for pid in (first, second, removed)]
        self.daemon.kill()
        self.delete()
        # The container's own doing, a killed container, and one that was to be removed.
        os.kill(first, signal.SIGTERM)
        os.kill(shims[1], signal.SIGKILL)
        os.kill(removed, signal.SIGKILL)
        for pid in (first, second, removed, *shims):
            eventually(lambda pid=pid: gone(pid), f"process {pid} ended")
        self.daemon.start()
        states = {name: self.daemon.inspect(name)["State"] for name in ("cc", "killed")}
        codes = {name: (state["Running"], state["ExitCode"], state["Error"]) for name, state in states.items()}
        expected = {"cc": (False, 3, ""), "killed": (False, 137, "the container's shim was killed")}
        if codes != expected:
            fail("docker inspect", expected, codes)
        eventually(lambda: self.docker("inspect", "removed", code=None).code == 1, "the --rm container removed")

    def test_a_shim_that_hangs_has_not_ended(self):
        pid, = self.begin("cc")
        shim = parent(pid)
        self.daemon.kill()
        self.delete()
        os.kill(shim, signal.SIGSTOP)
        self.addCleanup(lambda: gone(shim) or os.kill(shim, signal.SIGCONT))
        self.daemon.start(patience=60)
        self.docker("inspect", "-f", "{{.State.Status}} {{.State.Pid}}", "cc", out=f"running {pid}")
        # No second one is started.
        self.docker("start", "cc")
        self.docker("stop", "cc", code=1, err=re.compile("shim cannot be reached"))
        if gone(pid):
            fail("docker start cc", "the container left alone", "its first process is gone")
        # Its end is noticed all the same.
        os.kill(shim, signal.SIGKILL)
        eventually(lambda: not self.daemon.inspect("cc")["State"]["Running"], "its end recorded")
        self.docker("rm", "cc")

    def test_a_shim_that_hung_is_found_again(self):
        """It goes on after a while, under a daemon that has given it up."""
        pid, = self.begin("cc")
        shim = parent(pid)
        self.daemon.kill()
        os.kill(shim, signal.SIGSTOP)
        self.addCleanup(lambda: gone(shim) or os.kill(shim, signal.SIGCONT))
        self.daemon.start(patience=60)
        self.docker("stop", "cc", code=1, err=re.compile("shim cannot be reached"))
        os.kill(shim, signal.SIGCONT)
        eventually(lambda: self.docker("exec", "cc", "true", code=None).code == 0, "a container in reach again", 60)
        self.all_works("cc", pid)

    def test_a_start_that_was_not_recorded(self):
        from test_races import change_record
        container = self.docker("create", "--name", "cc", "busybox", "sh", "-c", READY).out.strip()
        created = {"created": {"failure": None}}
        self.docker("start", "cc")
        eventually(lambda: self.docker("logs", "cc").out == "up\n", "cc is up")
        pid = self.daemon.inspect("cc")["State"]["Pid"]
        self.daemon.kill()
        self.delete()
        change_record(self.daemon, container, state=created)
        self.daemon.start()
        self.all_works("cc", pid)


@once
class WithoutAKeeper(Deleted):
    @host_case
    def test_everything_goes_on(self):
        pid, = self.begin("cc")
        self.daemon.kill()
        self.kill(self.keeper())
        self.delete()
        check(self.daemon.leaks())
        self.daemon.start()
        self.all_works("cc", pid)

    def test_with_the_daemon_alive(self):
        pid, = self.begin("cc")
        self.delete()
        self.kill(self.keeper())
        self.answers()
        self.all_works("cc", pid)


@once
class Stop(Deleted):
    """`moss system stop --containers` ends all and says the truth."""

    def stops(self, pids):
        keeper, shims = self.keeper(), [parent(pid) for pid in pids]
        self.daemon.moss("system", "stop", "--containers")
        self.ended(pids, shims, keeper)

    def ended(self, *pids):
        left = [pid for some in pids for pid in (some if isinstance(some, list) else [some]) if not gone(pid)]
        if left:
            fail("moss system stop --containers", "nothing left", [open(f"/proc/{pid}/cmdline").read() for pid in left])

    @host_case
    def test_with_a_daemon(self):
        pids = self.begin("cc", "dd")
        self.delete()
        self.stops(pids)
        if self.daemon.process.poll() is None:
            fail("moss system stop --containers", "the daemon ended", "it runs")

    def test_without_a_daemon(self):
        pids = self.begin("cc", "dd")
        self.daemon.kill()
        self.delete()
        self.stops(pids)
        self.daemon.start()
        self.docker("inspect", "-f", "{{.State.ExitCode}}", "cc", "dd", out="3\n3")

    def test_without_a_keeper(self):
        pids = self.begin("cc", "dd")
        shims = [parent(pid) for pid in pids]
        self.daemon.kill()
        self.kill(self.keeper())
        self.delete()
        self.daemon.moss("system", "stop", "--containers")
        self.ended(pids, shims, children_named(self.daemon, "keeper"))

    def test_what_cannot_be_stopped_is_told(self):
        pid, = self.begin("cc")
        shim = parent(pid)
        os.kill(shim, signal.SIGSTOP)
        self.addCleanup(lambda: gone(shim) or os.kill(shim, signal.SIGCONT))
        self.daemon.moss("system", "stop", "--containers", code=1, timeout=120)
        os.kill(shim, signal.SIGCONT)
        self.daemon.moss("system", "stop", "--containers")
        self.ended(pid, shim)


@once
class Check(Deleted):
    """`moss system check` sees what is left behind, also where the directory is gone."""

    def found(self):
        return run([harness.BIN, "system", "check"], env=self.daemon.env)

    def test_a_shim_without_a_record(self):
        pid, = self.begin("cc")
        container, shim = self.daemon.inspect("cc")["Id"], parent(pid)
        self.daemon.kill()
        place, aside = f"{self.daemon.data_home}/moss/containers/{container}", self.daemon.top + "/aside"
        line = re.compile(rf"process +{shim} \(moss-shim\): its container {container} has no record")
        os.rename(place, aside)
        check(self.found(), code=1, out=line)
        self.delete()
        check(self.found(), code=1, out=line)
        os.rename(aside, place)
        check(self.daemon.leaks())

    def test_containers_that_remove_themselves_are_none(self):
        for _ in range(20):
            self.docker("run", "--rm", "busybox", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=4 2>/dev/null")
            check(self.daemon.leaks(patience=5))
