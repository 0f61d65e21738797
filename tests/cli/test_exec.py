"""`docker exec`: streams, exit codes, terminals, and that it joins all of the container."""

import re
import time

import harness
from harness import Case, eventually, host_case, once


class Exec(Case):
    def setUp(self):
        super().setUp()
        self.box = self.run_detached("-e", "FROM_RUN=yes", "--hostname", "box")

    def exec(self, *args, **options):
        return self.docker("exec", *args, **options)

    def test_output_apart(self):
        self.exec(self.box, "sh", "-c", "echo out; echo err >&2", out="out", err="err")

    def test_exit_code(self):
        self.exec(self.box, "sh", "-c", "exit 19", code=19)

    def test_killed(self):
        self.exec(self.box, "sh", "-c", "kill -9 $$", code=137)

    def test_stdin(self):
        self.exec("-i", self.box, "cat", stdin="typed\n", out="typed")

    def test_large_stdin(self):
        self.exec("-i", self.box, "wc", "-c", stdin=b"x" * 3_000_000, out="3000000")

    @host_case
    def test_terminal(self):
        terminal = self.terminal("exec", "-it", self.box, "sh")
        terminal.expect("# ")
        time.sleep(0.5)  # older CLIs tell the size after the start
        terminal.send("tty; stty size\n")
        terminal.expect(r"/dev/pts/\d+")
        terminal.expect("30 100")
        terminal.resize(33, 77)
        time.sleep(0.3)
        terminal.send("stty size; exit 6\n")
        terminal.expect("33 77")
        self.equal(terminal.wait(), 6, "exit code")

    def test_left_by_its_keys(self):
        for client in (None, harness.BIN):
            terminal = self.terminal("exec", "-it", self.box, "sh", client=client)
            terminal.expect("# ")
            terminal.send("\x10\x11")
            terminal.expect("read escape sequence")
            self.equal(terminal.wait(), 1, "exit code")

    @host_case
    def test_same_namespaces(self):
        self.exec(self.box, "sh", "-c", "for n in pid mnt ipc uts net user cgroup; do "
                  "test $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) || echo $n; done; hostname", out="box")

    @host_case
    def test_same_confinement(self):
        self.exec(self.box, "grep", "-E", "^(CapEff|CapBnd|Seccomp|NoNewPrivs):", "/proc/self/status",
                  out=re.compile(r"(?s)CapEff:\t00000000a80425fb.*Seccomp:\t2"))

    def test_environment(self):
        self.exec("-e", "MORE=1", self.box, "sh", "-c", "echo $FROM_RUN $MORE $HOME", out="yes 1 /root")

    def test_user(self):
        self.exec("--user", "app", self.box, "sh", "-c", "id -un; echo $HOME", out="app\n/home/app")

    def test_workdir(self):
        self.exec("--workdir", "/tmp", self.box, "pwd", out="/tmp")

    def test_workdir_missing(self):
        self.exec("--workdir", "/no/such", self.box, "pwd", code=(126, 127))

    def test_privileged(self):
        result = self.exec("--privileged", self.box, "grep", "CapEff", "/proc/self/status")
        if int(result.out.split()[1], 16) & (1 << 21) == 0:
            self.fail(f"$ docker exec --privileged\nexpected: CAP_SYS_ADMIN\ngot: {result}")

    def test_detached(self):
        self.exec("-d", self.box, "sh", "-c", "echo done > /done", out="")
        eventually(lambda: self.exec(self.box, "cat", "/done", code=None).out == "done\n", "/done written")

    def test_not_found(self):
        result = self.exec(self.box, "nosuch", code=127)
        if 'exec: "nosuch": executable file not found in $PATH' not in result.out + result.err:
            self.fail(f"$ docker exec box nosuch\nexpected: executable file not found in $PATH\ngot: {result}")

    def test_not_executable(self):
        self.exec(self.box, "/etc/not-executable", code=126)

    def test_unknown_user(self):
        self.exec("--user", "nosuch", self.box, "true", code=1, out="", err=re.compile(
            "Error response from daemon: unable to find user nosuch: no matching entries in passwd file"))

    def test_not_running(self):
        name = self.name()
        self.docker("create", "--name", name, "busybox")
        self.exec(name, "true", code=1, err=re.compile("(?i)container [0-9a-f]{64} is not running"))

    def test_unknown_container(self):
        self.exec("nosuch", "true", code=1, err=re.compile("No such container: nosuch"))

    def test_ends_with_the_container(self):
        client = self.daemon.start_client("exec", self.box, "sleep", "1000")
        time.sleep(0.4)
        self.docker("kill", self.box)
        client.communicate(timeout=15)
        self.equal(client.returncode, 137, "exit code of docker exec")

    def test_goes_on_without_its_client(self):
        client = self.daemon.start_client("exec", self.box, "sh", "-c", "echo up; sleep 1; echo late > /late")
        client.stdout.readline()
        client.kill()
        client.communicate()
        eventually(lambda: self.exec(self.box, "cat", "/late", code=None).out == "late\n", "/late written")

    def test_no_descriptor_leaks_in(self):
        self.exec(self.box, "sh", "-c", "ls /proc/self/fd | tr '\\n' ' '", out=re.compile(r"^0 1 2 (3 )?$"))

    def test_execs_are_counted(self):
        for _ in range(3):
            self.exec(self.box, "true")
        eventually(lambda: self.field(self.box, "{{.ExecIDs}}") in ("[]", "<no value>", "<nil>"), "no ExecIDs left")


@once
class Many(Case):
    def test_thirty_at_once(self):
        box = self.run_detached()
        clients = [self.daemon.start_client("exec", box, "echo", str(n)) for n in range(30)]
        wrong = []
        for number, client in enumerate(clients):
            out, err = client.communicate(timeout=60)
            if client.returncode or out != f"{number}\n".encode():
                wrong.append((number, client.returncode, out, err))
        self.equal(wrong, [], "30 × docker exec at once: those that failed")
