"""Where logs go: files that are compressed, the driver `local`, syslog servers, and who waits for whom."""

import os
import queue
import re
import socket
import ssl
import threading

from accounts import Authority
from harness import Case, eventually, once

ANY = re.compile(r"[\s\S]")


class Server:
    """A syslog server: what it gets goes into a queue, by lines."""

    def __init__(self, case, kind, address=None, family=socket.AF_INET, context=None):
        self.socket = socket.socket(family, kind)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(address or ("127.0.0.1", 0))
        self.lines, self.connections = queue.Queue(), []
        self.kind, self.context = kind, context
        if kind == socket.SOCK_STREAM:
            self.socket.listen(8)
        threading.Thread(target=self.accept if kind == socket.SOCK_STREAM else self.receive, daemon=True).start()
        case.addCleanup(self.close)

    def accept(self):
        while True:
            try:
                connection = self.socket.accept()[0]
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.read, args=(connection,), daemon=True).start()

    def read(self, connection):
        try:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
                self.connections.append(connection)
            with connection.makefile("rb") as file:
                for line in file:
                    self.lines.put(line.decode())
        except OSError:
            pass

    def receive(self):
        while True:
            try:
                self.lines.put(self.socket.recv(65536).decode())
            except OSError:
                return

    def port(self):
        return self.socket.getsockname()[1]

    def next(self):
        return self.lines.get(timeout=60)

    def close(self):
        for held in [self.socket, *self.connections]:
            try:
                held.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            held.close()


@once
class Drivers(Case):
    def test_compressed_files(self):
        name = self.name()
        self.docker("run", "--name", name, "--log-opt", "max-size=2k", "--log-opt", "max-file=3", "--log-opt", "compress=true",
                    "busybox", "seq", "1", "500", out=ANY)
        path = self.field(name, "{{.LogPath}}")
        for number, there in (("", True), (".1.gz", True), (".2.gz", True), (".1", False), (".3.gz", False), (".1.gz.part", False)):
            self.equal(os.path.exists(path + number), there, "log" + number)
        lines = self.docker("logs", name).out.split()
        self.equal(lines, [str(number) for number in range(int(lines[0]), 501)], "lines")
        self.docker("logs", "--tail", "40", name, out="\n".join(str(number) for number in range(461, 501)))
        other = self.name()
        self.docker("create", "--name", other, "--log-opt", "compress=true", "busybox", "true")
        self.docker("start", other, code=1, err=re.compile(
            "compress cannot be true when max-file is less than 2 or max-size is not set"))

    def test_local(self):
        name = self.name()
        self.docker("run", "--name", name, "--log-driver", "local", "--log-opt", "tag={{.Name}}", "busybox",
                    "sh", "-c", "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x", out=ANY, err="err")
        inspected = self.daemon.inspect(name)
        self.equal(inspected["LogPath"], "", "LogPath")
        path = f"{self.daemon.data_home}/moss/containers/{inspected['Id']}/local-logs/container.log"
        with open(path, "rb") as file:
            text = file.read()
        self.equal((text[:4], text[4:12]), (b"\0\0\0" + text[3:4], b"\n\x06std" + text[9:12]), "an entry of Docker's local driver")
        self.docker("logs", name, out="out\n" + "x" * 20000, err="err")
        self.docker("logs", "--details", "--tail", "3", name, out=re.compile(f"tag={name} x"))
        self.docker("info", "--format", "{{.Plugins.Log}}", out="[journald json-file local syslog]")

    def test_nobody_waits_where_the_log_may_not_be_waited_for(self):
        """A server that takes connections and reads nothing."""
        listener = socket.socket()
        self.addCleanup(listener.close)
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        name = self.name()
        self.docker("run", "-d", "--name", name, "--log-driver", "syslog", "--log-opt", f"syslog-address=tcp://127.0.0.1:{listener.getsockname()[1]}",
                    "--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=64k", "busybox",
                    "sh", "-c", "yes 0123456789012345678901234567890123456789 | head -c 30000000; touch /written; exec sleep 1000", out=ANY)
        eventually(lambda: self.docker("exec", name, "test", "-e", "/written", code=None).code == 0, "all is written", 60)
        connection = listener.accept()[0]
        # Whoever closes it now ends the waiting of what delivers.
        connection.close()
        listener.close()
        self.docker("rm", "-f", name)

    def test_a_file_by_another_process(self):
        name = self.name()
        self.docker("run", "--name", name, "--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=4m", "busybox",
                    "sh", "-c", "seq 1 2000; printf end", out=ANY)
        self.docker("logs", "--tail", "2", name, out="2000\nend")
        self.equal(len(self.docker("logs", name).out.split()), 2001, "lines")


@once
class Syslog(Case):
    def test_udp_and_the_copy(self):
        server, name = Server(self, socket.SOCK_DGRAM), self.name()
        options = ("--log-driver", "syslog", "--log-opt", f"syslog-address=udp://127.0.0.1:{server.port()}")
        self.docker("run", "--name", name, *options, "--log-opt", "tag={{.Name}}/x", "--log-opt", "syslog-facility=local3",
                    "busybox", "sh", "-c", "echo out; echo; echo err >&2", out="out", err="err")
        # Which stream comes first is not said.
        got = sorted([server.next(), server.next()])
        for text, pattern in zip(got, (rf"<155>\w\w\w [ \d]\d \d\d:\d\d:\d\d {name}/x\[\d+\]: err\n", rf"<158>\w\w\w [ \d]\d \d\d:\d\d:\d\d {name}/x\[\d+\]: out\n")):
            if not re.fullmatch(pattern, text):
                self.fail(f"expected: {pattern}\ngot: {text}")
        self.docker("logs", name, out="out", err="err")
        self.equal(self.field(name, "{{.LogPath}}"), "", "LogPath")
        alone = self.name()
        self.docker("run", "--name", alone, *options, "--log-opt", "cache-disabled=true", "--log-opt", "syslog-format=rfc5424micro",
                    "--hostname", "inside", "busybox", "echo", "x", out="x")
        pattern = r"<30>1 2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d) \S+ ([0-9a-f]{12}) \d+ \2 - x\n"
        text = server.next()
        if not re.fullmatch(pattern, text):
            self.fail(f"expected: {pattern}\ngot: {text}")
        self.docker("logs", alone, code=1, err=re.compile("configured logging driver does not support reading"))

    def test_tcp_and_a_server_that_is_restarted(self):
        server, name = Server(self, socket.SOCK_STREAM), self.name()
        port = server.port()
        self.docker("run", "-di", "--name", name, "--log-driver", "syslog", "--log-opt", f"syslog-address=tcp://127.0.0.1:{port}",
                    "busybox", "cat", out=ANY)
        writer = self.daemon.start_client("attach", name)
        self.addCleanup(writer.communicate)
        self.addCleanup(writer.kill)
        for text in ("one", "two"):
            writer.stdin.write(text.encode() + b"\n")
            writer.stdin.flush()
            self.equal(server.next().partition("]: ")[2], text + "\n", "a message")
            server.close()
            server = Server(self, socket.SOCK_STREAM, ("127.0.0.1", port))
        server.close()
        self.docker("logs", name, out="one\ntwo")
        other = self.name()
        self.docker("create", "--name", other, "--log-driver", "syslog", "--log-opt", f"syslog-address=tcp://127.0.0.1:{port}", "busybox")
        self.docker("start", other, code=1, err=re.compile(
            "failed to create task for container: failed to initialize logging driver: "
            f"dial tcp 127.0.0.1:{port}: connect: connection refused"))

    def test_tls(self):
        authority = Authority(self.daemon.top + "/tls")
        own = authority.server("server", "127.0.0.1")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own["certificate"], own["key"])
        context.load_verify_locations(authority.directory + "/ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        server, name = Server(self, socket.SOCK_STREAM, context=context), self.name()
        known = ("syslog-tls-cert=" + own["certificate"], "syslog-tls-key=" + own["key"])
        trusted = (*known, f"syslog-tls-ca-cert={authority.directory}/ca.crt")
        address = f"syslog-address=tcp+tls://127.0.0.1:{server.port()}"

        def run(*options, **expected):
            words = [word for option in (address, *options) for word in ("--log-opt", option)]
            self.docker("run", "--rm", "--name", name, "--log-driver", "syslog", *words, "busybox", "echo", "a", "secret", **expected)

        run(*trusted, "syslog-format=rfc5424", 'tag={{upper .Name | printf "%s!"}}', out="a secret")
        text = server.next()
        length, _, message = text.partition(" ")
        self.equal(int(length), len(message), "the length of a message")
        if not re.fullmatch(rf"<30>1 \S+ \S+ {name.upper()}! \d+ {name.upper()}! - a secret\n", message):
            self.fail(f"got: {text}")
        run(*known, "syslog-tls-skip-verify=", "tag={{.Name}}", out="a secret")
        self.equal(server.next().partition(f" {name}[")[2].partition("]: ")[2], "a secret\n", "a message")
        run(*known, code=125, err=re.compile("failed to initialize logging driver: tls: failed to verify certificate: x509: certificate signed by "
                                             "unknown authority"))
        # The client tells by the words.
        run("syslog-tls-ca-cert=/nonexistent", code=127, err=re.compile('could not read CA certificate "/nonexistent": open /nonexistent: no such file'))

    def test_unix(self):
        path = self.daemon.top + "/log"
        server, name = Server(self, socket.SOCK_DGRAM, path, socket.AF_UNIX), self.name()
        self.docker("run", "--rm", "--name", name, "--log-driver", "syslog", "--log-opt", f"syslog-address=unixgram://{path}",
                    "busybox", "echo", "by unix", out="by unix")
        self.equal(server.next().partition("]: ")[2], "by unix\n", "a message")
        self.docker("create", "--log-driver", "syslog", "--log-opt", "syslog-address=unix:///nonexistent", "busybox", code=1,
                    err=re.compile("stat /nonexistent: no such file or directory"))

    def test_journald(self):
        """Where there is a journal its socket takes messages; elsewhere the start says so."""
        name = self.name()
        self.docker("create", "--name", name, "--log-driver", "journald", "busybox", "echo", "x", out=ANY)
        if os.path.exists("/run/systemd/journal/socket"):
            self.docker("start", "-a", name, out="x")
            self.docker("logs", name, out="x")
        else:
            self.docker("start", name, code=1, err=re.compile(
                "failed to create task for container: failed to initialize logging driver: journald is not enabled on this host"))
