"""`docker logs`: what is kept, tails, times, and following."""

import re
import threading
import time

from harness import Case, eventually, fail


class Logs(Case):
    def finished(self, shell):
        name = self.name()
        self.docker("run", "--name", name, "busybox", "sh", "-c", shell)
        return name

    def test_both_streams(self):
        name = self.finished("echo out; echo err >&2")
        self.docker("logs", name, out="out", err="err")

    def test_unfinished_line(self):
        name = self.finished("printf 'no newline'")
        self.equal(self.docker("logs", name).out, "no newline", "log")

    def test_empty_lines_and_utf8(self):
        name = self.finished("printf 'a\\n\\n\\303\\274\\n'")
        self.equal(self.docker("logs", name).out, "a\n\n\u00fc\n", "log")

    def test_long_line(self):
        name = self.finished("head -c 100000 /dev/zero | tr '\\0' x; echo; echo end")
        lines = self.docker("logs", name).out.splitlines()
        self.equal((len(lines), len(lines[0]), lines[-1]), (2, 100000, "end"), "lines, length of the first, the last")

    def test_tail(self):
        name = self.finished("seq 1 1000")
        self.docker("logs", "--tail", "2", name, out="999\n1000")
        self.docker("logs", "--tail", "0", name, out="")
        self.equal(len(self.docker("logs", "--tail", "all", name).out.splitlines()), 1000, "lines of --tail all")
        self.equal(len(self.docker("logs", "--tail", "5000", name).out.splitlines()), 1000, "lines of --tail 5000")

    def test_timestamps(self):
        name = self.finished("echo x")
        self.docker("logs", "-t", name, out=re.compile(r"^2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z x$", re.M))

    def test_since(self):
        name = self.finished("echo early; sleep 1.2; echo late")
        stamp = self.docker("logs", "-t", "--tail", "1", name).out.split()[0]
        self.docker("logs", "--since", stamp, name, out="late")
        self.docker("logs", "--since", "1h", name, out="early\nlate")

    def test_until(self):
        name = self.finished("echo early; sleep 1.2; echo late")
        first = self.docker("logs", "-t", name).out.split()[0]
        self.docker("logs", "--until", first[:19] + ".999999999Z", name, out="early")

    def test_follow_to_the_end(self):
        name = self.run_detached(command=("sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done"))
        self.docker("logs", "-f", name, out="1\n2\n3", timeout=20)

    def test_follow_finished(self):
        self.docker("logs", "-f", self.finished("echo x"), out="x", timeout=10)

    def test_follow_with_tail(self):
        name = self.run_detached(command=("sh", "-c", "seq 1 5; sleep 1; echo last"))
        time.sleep(0.3)
        self.docker("logs", "-f", "--tail", "1", name, out="5\nlast", timeout=20)

    def test_follow_is_live(self):
        name = self.run_detached("-i", command=("cat",))
        client = self.daemon.start_client("logs", "-f", name)
        writer = self.daemon.start_client("attach", name)
        writer.stdin.write(b"now\n")
        writer.stdin.flush()
        lines = []
        reader = threading.Thread(target=lambda: lines.append(client.stdout.readline()))
        reader.start()
        reader.join(5)
        for process in (client, writer):
            process.kill()
            process.communicate()
        self.equal(lines, [b"now\n"], "docker logs -f while the container runs")

    def test_follow_client_gone(self):
        name = self.run_detached(command=("sh", "-c", "while :; do echo x; sleep 0.05; done"))
        client = self.daemon.start_client("logs", "-f", name)
        client.stdout.readline()
        client.kill()
        client.communicate()
        time.sleep(0.2)
        self.equal(self.field(name, "{{.State.Running}}"), "true", "running")

    def test_terminal(self):
        name = self.name()
        self.docker("run", "-t", "--name", name, "busybox", "echo", "x")
        self.equal(self.docker("logs", name).out, "x\r\n", "log of a terminal")

    def test_json_file(self):
        name = self.finished("echo out; echo err >&2")
        path = self.field(name, "{{.LogPath}}")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if not re.search(r'^\{"log":"out\\n","stream":"stdout","time":"2\d{3}-[^"]*Z"\}$', text, re.M):
            self.fail(f"$ cat {path}\nexpected: Docker's json-file lines\ngot: {text}")

    def test_driver_none(self):
        name = self.name()
        self.docker("run", "--log-driver", "none", "--name", name, "busybox", "echo", "x", out="x")
        self.docker("logs", name, code=1, err=re.compile("configured logging driver does not support reading"))

    def test_unknown(self):
        self.docker("logs", "nosuch", code=1, err=re.compile("No such container: nosuch"))

    def test_of_a_failed_start(self):
        name = self.name()
        self.docker("run", "--name", name, "busybox", "nosuch", code=127)
        self.docker("logs", name, out="")

    def test_survives_a_restart_of_the_container(self):
        name = self.finished("echo again")
        self.docker("start", "-a", name, out="again")
        eventually(lambda: self.docker("logs", name).out == "again\nagain\n", "both runs in the log")

    def test_frames_are_records_but_for_the_cli(self):
        """Who does not join frames gets one a line, as from dockerd; both get the same text."""
        name = self.finished("seq 1 20000; echo err >&2")
        path = f"/containers/{name}/logs?stdout=1&stderr=1&timestamps=1"

        def frames(agent):
            body = self.daemon.http("GET", path, headers={"User-Agent": agent})[2]
            found = []
            while body:
                length = 8 + int.from_bytes(body[4:8], "big")
                found.append((body[0], body[8:length]))
                body = body[length:]
            return found

        apart, joined = frames("docker-sdk-python/7.0"), frames("Docker-Client/28.2.2 (linux)")
        self.equal((len(apart), all(text.count(b"\n") == 1 for _, text in apart)), (20001, True), "a frame a line")
        if len(joined) > 100:
            fail("frames for the docker CLI", "some", len(joined))
        for kind in (1, 2):
            text = [b"".join(text for what, text in some if what == kind) for some in (apart, joined)]
            self.equal(text[0] == text[1], True, f"the same text of stream {kind}")
