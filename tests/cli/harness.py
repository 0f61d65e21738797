"""Starts a real daemon in directories of its own and drives it by real clients.

One daemon serves all cases of a run (`shared()`); a case that breaks things starts its own
(`Daemon()`). Nothing here knows how moss works inside: programs, the socket, files of /proc.

Set by `scripts/test`:
    MOSS_TEST_BIN      the moss binary
    MOSS_TEST_IMAGES   the directory that scripts/images filled
    MOSS_TEST_DOCKER   docker CLIs, separated by colons; every case runs once with each
    MOSS_TEST_SMALL    an empty directory on a filesystem of a few MB, for a disk that fills up
    MOSS_TEST_FEW_FILES  an empty directory on a filesystem that has room for few files
    MOSS_TEST_PYTHON   a Python that can import docker
    MOSS_TEST_RUST     a Rust toolchain's directory
    MOSS_TEST_SLOW     how many times longer than usual to wait for anything (scripts/vm)
    MOSS_TEST_VM       the machine is thrown away afterwards (scripts/vm)
    MOSS_TEST_CASE     seconds after which a case has failed, and its beginning is told too (scripts/vm)

May be set by hand:
    MOSS_TEST_DRIVER   the storage driver of every daemon that is not given one
"""

import http.client
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

BIN = os.environ.get("MOSS_TEST_BIN", "moss")
DRIVER = os.environ.get("MOSS_TEST_DRIVER", "overlay2")
IMAGES = os.environ.get("MOSS_TEST_IMAGES", "/var/cache/moss-test/images")
# A hung command fails its case; nothing here should take a tenth of it on an idle machine.
SLOW = int(os.environ.get("MOSS_TEST_SLOW", "1"))
TIMEOUT = 60 * SLOW

_state = {"docker": "docker", "round": 0, "shared": None}


def use_docker(path, round_number):
    """Which CLI the cases use from now on; round 0 also runs the cases marked `once`."""
    _state.update(docker=path, round=round_number)


def once(test):
    """Marks a case (or class of cases) that has nothing to do with which docker CLI is used."""
    test.once = True
    return test


def host_case(test):
    """Marks a case (or class of cases) whose outcome depends on the host's kernel, systemd, cgroups or logind:
    `scripts/vm` runs those on another host."""
    test.host_case = True
    return test


def vm_case(test):
    """Marks a case (or class of cases) that changes the user's own settings, so that it is for a machine that is
    thrown away: only `scripts/vm` runs it."""
    test.vm_case = True
    return host_case(test)


def is_marked(case, mark):
    """Whether a case, or its class, has a mark."""
    return getattr(type(case), mark, False) or getattr(getattr(case, case._testMethodName, case), mark, False)


def wanted(case):
    """Whether a case runs in this round."""
    if is_marked(case, "vm_case") and not os.environ.get("MOSS_TEST_VM"):
        return False
    return not (_state["round"] and is_marked(case, "once"))


class Result:
    """What a command did."""

    def __init__(self, command, code, out, err):
        self.command, self.code, self.out, self.err = command, code, out, err

    def __str__(self):
        return f"exit {self.code}\nstdout: {clip(self.out)}\nstderr: {clip(self.err)}"


def clip(text, most=2000):
    return text if len(text) <= most else text[:most] + f"… ({len(text)} characters)"


def matches(text, want):
    """A string is compared without surrounding space, a compiled pattern is searched for."""
    if want is None:
        return True
    if isinstance(want, re.Pattern):
        return want.search(text) is not None
    return text.strip() == want


def fail(command, expected, got):
    shown = command if isinstance(command, str) else shlex.join(command)
    raise AssertionError(f"$ {shown}\nexpected: {expected}\ngot: {got}")


def check(result, code=0, out=None, err=None):
    """Holds a result to what was expected of it; `code` may be a tuple of codes or None for any."""
    codes = code if isinstance(code, tuple) else (code,)
    if code is not None and result.code not in codes:
        fail(result.command, f"exit {code}", result)
    for stream, want in (("out", out), ("err", err)):
        if not matches(getattr(result, stream), want):
            shown = want.pattern if isinstance(want, re.Pattern) else repr(want)
            fail(result.command, f"std{stream} {shown}", result)
    return result


def run(command, env=None, stdin=None, timeout=TIMEOUT):
    """Runs a command to its end, with `stdin` (text or bytes) as its input."""
    if isinstance(stdin, str):
        stdin = stdin.encode()
    try:
        done = subprocess.run(command, env=env, timeout=timeout, capture_output=True,
                              **({"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}))
    except subprocess.TimeoutExpired as late:
        got = b"stdout: " + (late.stdout or b"") + b"\nstderr: " + (late.stderr or b"")
        fail(command, f"an end within {timeout} s", got.decode("utf-8", "replace"))
    return Result(command, done.returncode, done.stdout.decode("utf-8", "replace"),
                  done.stderr.decode("utf-8", "replace"))


def eventually(condition, what, timeout=10.0):
    """Waits for `condition()` to be true and returns its value."""
    deadline = time.monotonic() + timeout * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"expected: {what} within {timeout} s\ngot: nothing of it")
        time.sleep(0.02)


def remove_tree(path):
    """Deletes a tree that may hold files of the user's subordinate ids."""
    shutil.rmtree(path, ignore_errors=True)
    if os.path.exists(path):
        subprocess.run(["unshare", "--user", "--map-root-user", "--map-auto", "rm", "-rf", path],
                       check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(path, ignore_errors=True)


class Daemon:
    """A daemon of our own in temporary XDG directories."""

    def __init__(self, start=True, data_home=None):
        # Short, because socket paths end at 107 bytes.
        self.top = tempfile.mkdtemp(prefix="mt.", dir="/tmp")
        self.data_home = data_home or self.top + "/data"
        self.env = {
            "HOME": self.top + "/home", "PATH": os.environ["PATH"], "TERM": "xterm", "LANG": "C.UTF-8",
            "USER": os.environ.get("USER", ""), "RUST_BACKTRACE": "1",
            "XDG_RUNTIME_DIR": self.top + "/run", "XDG_DATA_HOME": self.data_home,
            "XDG_CONFIG_HOME": self.top + "/config", "DOCKER_CONFIG": self.top + "/docker",
        }
        for directory in (self.env["HOME"], self.env["XDG_RUNTIME_DIR"], self.data_home,
                          self.env["XDG_CONFIG_HOME"], self.env["DOCKER_CONFIG"]):
            os.makedirs(directory, 0o700, exist_ok=True)
        self.socket = self.top + "/run/moss.sock"
        self.env["DOCKER_HOST"] = "unix://" + self.socket
        self.process, self.has_debian = None, False
        self.under = []  # a program that runs the daemon's, with its arguments
        self.log_path = self.top + "/daemon.log"
        if start:
            self.start()

    def start(self, *flags, patience=20, supervised=True):
        """Starts `moss daemon` and waits until it answers. One that is not `supervised` by the case is started
        again by the keeper when it is killed."""
        flags += ("--supervised",) if supervised else ()
        if "MOSS_TEST_DRIVER" in os.environ and "--storage-driver" not in flags:
            flags += ("--storage-driver", DRIVER)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([*self.under, BIN, "daemon", *flags], env=self.env, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True)

        def answers():
            if self.process.poll() is not None:
                fail([BIN, "daemon", *flags], "a running daemon", f"exit {self.process.returncode}\n{self.log()}")
            try:
                return self.http("GET", "/_ping")[0] == 200
            except OSError:
                return False

        eventually(answers, "an answer to /_ping; daemon's log:\n" + self.log(), patience)
        return self

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()[-3000:]

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def keeper(self):
        """The keeper's pid, as it says itself; None while there is no telling."""
        try:
            with open(self.env["XDG_RUNTIME_DIR"] + "/moss/keeper.json", encoding="utf-8") as file:
                return json.load(file)["pid"]
        except (OSError, ValueError):
            return None

    def stop(self, timeout=20):
        """SIGTERM, as an administrator or systemd would; returns the exit code."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout * SLOW)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                fail([BIN, "daemon"], f"an end within {timeout} s of SIGTERM", self.log())
        return self.process.returncode

    def moss(self, *args, code=0, out=None, err=None, **options):
        return check(run([BIN, *args], env=self.env, **options), code, out, err)

    def docker(self, *args, code=0, out=None, err=None, **options):
        return check(run([_state["docker"], *args], env=self.env, **options), code, out, err)

    def start_client(self, *args, **options):
        """A docker CLI that goes on running, with pipes."""
        return subprocess.Popen([_state["docker"], *args], env=self.env, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def terminal(self, *args, client=None):
        """A docker CLI, or another client, on a terminal of its own."""
        return Terminal([client or _state["docker"], *args], self.env)

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT)
        connection.connect(self.socket)
        return connection

    def http(self, method, path, body=None, headers=None):
        """One request; returns status, headers and body (parsed where it is JSON)."""
        client = http.client.HTTPConnection("docker")
        client.sock = self.connect()
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        client.request(method, path, body, headers)
        answer = client.getresponse()
        data = answer.read()
        client.close()
        if answer.headers.get_content_type() == "application/json" and data:
            try:
                data = json.loads(data)
            except ValueError:
                pass
        return answer.status, answer.headers, data

    def inspect(self, name):
        return json.loads(self.docker("inspect", name).out)[0]

    def load(self, *names):
        for name in names:
            self.docker("load", "-i", need_image(name), timeout=240)

    def close(self):
        """Ends everything and deletes the directories; returns what `moss system check` said."""
        try:
            if self.process and self.process.poll() is None:
                ids = self.docker("ps", "-aq", code=None).out.split()
                if ids:
                    self.docker("rm", "-f", *ids, code=None)
                self.wait_for_trash()
                self.stop()
            # The keeper too, whose directory must not go before it does.
            self.moss("system", "stop", "--containers", code=None)
            return self.leaks()
        finally:
            remove_tree(self.top)
            if not self.data_home.startswith(self.top):
                remove_tree(self.data_home + "/moss")

    def wait_for_trash(self, patience=30):
        """Lets the daemon remove what was thrown away: one that is stopped leaves that to the next."""
        trash = self.data_home + "/moss/trash"
        deadline = time.monotonic() + patience * SLOW
        while os.path.isdir(trash) and os.listdir(trash) and time.monotonic() < deadline:
            time.sleep(0.05)

    def leaks(self, patience=10):
        """`moss system check`, given a little time: processes take a moment to end."""
        deadline = time.monotonic() + patience * SLOW
        while True:
            result = run([BIN, "system", "check"], env=self.env)
            # What another case left was that case's failure.
            foreign = re.compile(r"/tmp/mt\.(?!" + re.escape(self.top.removeprefix("/tmp/mt.")) + ")")
            lines = result.out.splitlines()
            if lines and all(foreign.search(line) for line in lines):
                result.code = 0
            if result.code == 0 or time.monotonic() > deadline:
                return result
            time.sleep(0.1)


class Terminal:
    """A program on a pseudo terminal, typed at and read like a person would."""

    def __init__(self, command, env, rows=30, columns=100):
        self.command, self.seen = command, ""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                os.execve(command[0] if "/" in command[0] else shutil.which(command[0]), command, env)
            finally:
                os._exit(127)
        self.resize(rows, columns)

    def resize(self, rows, columns):
        import fcntl
        import struct
        import termios
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, text):
        os.write(self.master, text.encode())

    def read(self, timeout):
        ready, _, _ = select.select([self.master], [], [], timeout)
        if not ready:
            return None
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: the other side is closed
            data = b""
        self.seen += data.decode("utf-8", "replace")
        return data

    def expect(self, pattern, timeout=15):
        """Reads until `pattern` shows up in what has not been matched yet, and returns the match."""
        deadline = time.monotonic() + timeout * SLOW
        while True:
            found = re.search(pattern, self.seen)
            if found:
                self.seen = self.seen[found.end():]
                return found
            left = deadline - time.monotonic()
            if left <= 0 or self.read(left) in (None, b""):
                found = re.search(pattern, self.seen)
                if found:
                    continue
                fail(self.command, f"output matching {pattern!r}", repr(clip(self.seen)))

    def wait(self, timeout=15):
        """Waits for the end and returns the exit code."""
        deadline = time.monotonic() + timeout * SLOW
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = None
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                fail(self.command, f"an end within {timeout} s", repr(clip(self.seen)))
            self.read(0.05)

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)


def shared():
    """The daemon that most cases use, with busybox:latest loaded."""
    if _state["shared"] is None:
        daemon = Daemon()
        try:
            daemon.load("busybox.tar")
        except BaseException:
            daemon.close()
            raise
        _state["shared"] = daemon
    return _state["shared"]


def close_shared():
    """Ends the shared daemon; returns its `moss system check`, or None where none was started."""
    daemon, _state["shared"] = _state["shared"], None
    return daemon.close() if daemon else None


def need_image(name):
    path = os.path.join(IMAGES, name)
    if not os.path.exists(path):
        raise unittest.SkipTest(f"image {name} is missing: scripts/images builds it as root")
    return path


def need(program):
    path = shutil.which(program)
    if not path:
        raise unittest.SkipTest(f"{program} is not installed")
    return path


class Case(unittest.TestCase):
    """A case against the shared daemon, with the words the cases are written in."""

    def setUp(self):
        self.daemon = shared()
        self.names = 0

    def docker(self, *args, **options):
        # The big image is loaded by the first case that names it.
        if "debian:bookworm" in args and not self.daemon.has_debian:
            self.daemon.load("debian.tar")
            self.daemon.has_debian = True
        return self.daemon.docker(*args, **options)

    def moss(self, *args, **options):
        return self.daemon.moss(*args, **options)

    def name(self):
        """A container name of this case alone; the container is removed at its end."""
        self.names += 1
        name = f"{self.id().rsplit('.', 1)[1].removeprefix('test_')}-{self.names}"
        self.addCleanup(self.docker, "rm", "-f", "-v", name, code=None)
        return name

    def run_detached(self, *args, image="busybox", command=("sleep", "1000")):
        """`docker run -d` under a name of this case; returns the name."""
        name = self.name()
        self.docker("run", "-d", "--name", name, *args, image, *command, out=re.compile(r"^[0-9a-f]{64}\n$"))
        return name

    def in_container(self, *args, image="busybox", shell=None, **options):
        """`docker run --rm … image sh -c SHELL`; returns its result."""
        return self.docker("run", "--rm", *args, image, "sh", "-c", shell, **options)

    def field(self, name, template, kind="container"):
        """One field by `docker inspect --format`."""
        return self.docker("inspect", "--type", kind, "--format", template, name).out.strip()

    def terminal(self, *args, client=None):
        if "debian:bookworm" in args:
            self.docker("image", "inspect", "debian:bookworm")
        terminal = self.daemon.terminal(*args, client=client)
        self.addCleanup(terminal.close)
        return terminal

    def equal(self, got, expected, what):
        if got != expected:
            raise AssertionError(f"{what}\nexpected: {expected!r}\ngot: {got!r}")
