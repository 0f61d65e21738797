"""The API itself: versions, error bodies, hijacking, raw streams. No docker CLI in between."""

import json
import os
import re
import socket
import time

from harness import DRIVER, Case, Daemon, eventually, fail, once

MIN, MAX = (1, 22), (1, 55)


@once
class Versions(Case):
    def get(self, path, status=200, **options):
        got = self.daemon.http("GET", path, **options)
        if got[0] != status:
            fail("GET " + path, status, got[0::2])
        return got

    def test_ping(self):
        _, headers, body = self.get("/_ping")
        self.equal(body, b"OK", "body of /_ping")
        self.equal(headers["Api-Version"], "%d.%d" % MAX, "Api-Version")
        self.equal(headers["Ostype"], "linux", "Ostype")
        for header in ("Docker-Experimental", "Cache-Control", "Builder-Version", "Server"):
            if header not in headers:
                fail("GET /_ping", "a header " + header, dict(headers))

    def test_head_ping(self):
        status, headers, body = self.daemon.http("HEAD", "/_ping")
        self.equal((status, body, headers["Api-Version"]), (200, b"", "%d.%d" % MAX), "HEAD /_ping")

    def test_every_version(self):
        for minor in range(MIN[1], MAX[1] + 1):
            with self.subTest(minor):
                self.get(f"/v1.{minor}/version")

    def test_unversioned(self):
        _, _, body = self.get("/version")
        self.equal((body["ApiVersion"], body["MinAPIVersion"], body["Os"]), ("1.55", "1.22", "linux"), "/version")
        if not re.fullmatch(r"29\.\d+\.\d+\+moss\.\d+\.\d+\.\d+", body["Version"]):
            fail("GET /version", "Version like 29.x.y+moss.0.1.0", body["Version"])
        self.equal("moss" in [c["Name"] for c in body["Components"]], True, "a component moss")

    def test_too_new(self):
        _, _, body = self.get("/v1.99/version", 400)
        self.equal(body["message"], "client version 1.99 is too new. Maximum supported API version is 1.55", "message")

    def test_too_old(self):
        # As in Docker, errors are plain text below 1.24: such clients show JSON as it is.
        _, _, body = self.get("/v1.21/version", 400)
        if not body.startswith(b"client version 1.21 is too old. Minimum supported API version is 1.22"):
            fail("GET /v1.21/version", "is too old …", body)

    def test_unknown_path(self):
        _, _, body = self.get("/v1.44/nosuch", 404)
        self.equal(body, {"message": "page not found"}, "body")

    def test_wrong_method(self):
        status, _, body = self.daemon.http("DELETE", "/v1.44/version")
        self.equal((status in (404, 405), isinstance(body, dict)), (True, True), "404 or 405 with a JSON body")

    def test_swarm(self):
        for path in ("/v1.44/services", "/v1.44/nodes", "/v1.44/swarm", "/v1.44/tasks"):
            with self.subTest(path):
                _, _, body = self.get(path, 503)
                if "This node is not a swarm manager" not in body["message"]:
                    fail("GET " + path, "This node is not a swarm manager …", body)

    def test_plugins(self):
        self.equal(self.get("/v1.44/plugins")[2], [], "body")

    def test_later_routes(self):
        status, _, body = self.daemon.http("POST", "/v1.44/build", b"")
        self.equal((status, bool(body["message"])), (501, True), "POST /build")

    def test_info(self):
        _, _, body = self.get("/v1.44/info")
        for key, expected in {"Driver": DRIVER, "OSType": "linux", "LiveRestoreEnabled": True, "DefaultRuntime": None,
                              "CgroupDriver": None, "CgroupVersion": None, "SecurityOptions": None, "Warnings": None}.items():
            if key not in body or expected is not None and body[key] != expected:
                fail("GET /info", f"{key} = {expected}", body.get(key, "(absent)"))
        self.equal("name=rootless" in body["SecurityOptions"], True, "name=rootless in SecurityOptions")
        self.equal(any("name=seccomp" in option for option in body["SecurityOptions"]), True, "name=seccomp in SecurityOptions")

    def test_many_requests_on_one_connection(self):
        connection = self.daemon.connect()
        for _ in range(3):
            connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            if b"200 OK" not in connection.recv(4096):
                fail("GET /_ping again", "200 OK", "something else")
        connection.close()


@once
class Errors(Case):
    def test_a_daemon_that_waits_keeps_little_of_its_code_mapped(self):
        daemon = Daemon()
        self.addCleanup(daemon.close)

        def code():
            with open(f"/proc/{daemon.process.pid}/smaps", encoding="utf-8") as file:
                program = re.escape(os.readlink(f"/proc/{daemon.process.pid}/exe"))
                found = re.findall(rf" r-xp .*{program}\n(?:.*\n)*?Rss: +(\d+)", file.read())
            return sum(map(int, found))

        most = code()
        for _ in range(20):
            for path in ("/info", "/events?until=1", "/containers/json?all=1"):
                daemon.http("GET", path)
            most = max(most, code())
        eventually(lambda: code() < most / 2, f"less than half of {most} KiB")

    def post(self, path, body, status):
        got = self.daemon.http("POST", path, body)
        if got[0] != status or not isinstance(got[2], dict) or not got[2].get("message"):
            fail("POST " + path, f"{status} and a message", got[0::2])
        return got[2]["message"]

    def test_quotes_as_they_are(self):
        """As typed after curl; also when they are not a connection's first."""
        connection = self.daemon.connect()
        stream = connection.makefile("rb")
        for _ in range(2):
            connection.sendall(b'GET /v1.44/containers/json?filters={"label":["nosuch=label"]} HTTP/1.1\r\nHost: d\r\n\r\n')
            head = b"".join(iter(stream.readline, b"\r\n")).decode()
            length = int(re.search(r"(?i)^content-length: (\d+)", head, re.M).group(1))
            self.equal((head.splitlines()[0], stream.read(length)), ("HTTP/1.1 200 OK", b"[]\n"), "answer")

    def test_one_host_is_named(self):
        for fields, text in (("", b"400 Bad Request: missing required Host header"), ("Host: a\r\nHost: b\r\n", b"400 Bad Request")):
            connection = self.daemon.connect()
            connection.sendall(f"GET /_ping HTTP/1.1\r\n{fields}\r\n".encode())
            # To the end: the connection is closed.
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
            head, _, body = answer.partition(b"\r\n\r\n")
            self.equal((head.splitlines()[0], b"content-type: text/plain; charset=utf-8" in head.lower(), body),
                       (b"HTTP/1.1 400 Bad Request", True, text), f"answer to {fields!r}")
        connection = self.daemon.connect()
        connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        self.equal(connection.recv(12)[-3:], b"200", "status without a host by HTTP/1.0")

    def test_bad_json(self):
        self.post("/v1.44/containers/create", b"{", 400)
        json_body = {"Content-Type": "application/json"}
        status, _, body = self.daemon.http("POST", "/v1.44/volumes/create", b"{invalid", json_body)
        self.equal(status, 400, "status")
        self.equal(body["message"], "invalid JSON: invalid character 'i' looking for beginning of object key string", "Go's words")

    def test_wrong_content_type(self):
        status, _, body = self.daemon.http("POST", "/v1.44/containers/create", b"{}", {"Content-Type": "text/plain"})
        self.equal((status, "message" in body), (400, True), "status, message")

    def test_no_image(self):
        self.post("/v1.44/containers/create", {"Image": "nosuch:x"}, 404)

    def test_no_config(self):
        self.post("/v1.44/containers/create", {}, 400)

    def test_nulls_everywhere(self):
        status, _, body = self.daemon.http("POST", "/v1.44/containers/create", {
            "Image": "busybox", "Cmd": None, "Env": None, "Labels": None, "Volumes": None, "ExposedPorts": None, "Entrypoint": None,
            "HostConfig": {"Binds": None, "CapAdd": None, "Mounts": None, "LogConfig": None, "PortBindings": None, "RestartPolicy": None,
                           "Ulimits": None, "Devices": None, "Tmpfs": None}, "NetworkingConfig": None})
        self.equal((status, body.get("Warnings") is not None), (201, True), "POST /containers/create")
        self.daemon.http("DELETE", f"/v1.44/containers/{body['Id']}?force=1")

    def test_not_modified(self):
        name = self.run_detached()
        self.equal(self.daemon.http("POST", f"/v1.44/containers/{name}/start")[0], 304, "start of a running container")
        self.docker("kill", name)
        self.docker("wait", name)
        self.equal(self.daemon.http("POST", f"/v1.44/containers/{name}/stop")[0], 304, "stop of a stopped container")

    def test_not_found(self):
        for method, path, before in (("GET", "json", ""), ("POST", "start", ""), ("POST", "kill", "cannot kill container: nosuch: "),
                                     ("GET", "logs?stdout=1", ""), ("DELETE", "", "")):
            with self.subTest(path):
                status, _, body = self.daemon.http(method, f"/v1.44/containers/nosuch/{path}".rstrip("/"))
                self.equal((status, body), (404, {"message": before + "No such container: nosuch"}), method + " " + path)

    def test_bad_filters(self):
        self.equal(self.daemon.http("GET", "/v1.44/containers/json?filters=%7B")[0], 400, "status")

    def test_garbage_is_survived(self):
        for garbage in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"A" * 100_000, b"POST /v1.44/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"):
            connection = self.daemon.connect()
            try:
                connection.sendall(garbage)
            except OSError:
                pass
            connection.close()
        self.equal(self.daemon.http("GET", "/_ping")[0], 200, "/_ping after garbage")


@once
class Hijack(Case):
    """Attach and exec on the wire: the upgrade, frames, half-close, bytes sent early."""

    def create(self, **config):
        status, _, body = self.daemon.http("POST", "/v1.44/containers/create", {"Image": "busybox", **config})
        self.equal(status, 201, "POST /containers/create")
        self.addCleanup(self.daemon.http, "DELETE", f"/v1.44/containers/{body['Id']}?force=1")
        return body["Id"]

    def hijack(self, path, body=b"", upgrade=True, early=b""):
        connection = self.daemon.connect()
        head = f"POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        if upgrade:
            head += "Connection: Upgrade\r\nUpgrade: tcp\r\n"
        connection.sendall(head.encode() + b"\r\n" + body + early)
        answer = b""
        while b"\r\n\r\n" not in answer:
            block = connection.recv(1)
            if not block:
                break
            answer += block
        self.addCleanup(connection.close)
        return connection, answer.decode()

    @staticmethod
    def frames(connection):
        data = b""
        while block := connection.recv(65536):
            data += block
        found, at = [], 0
        while at + 8 <= len(data):
            size = int.from_bytes(data[at + 4:at + 8], "big")
            found.append((data[at], data[at + 8:at + 8 + size]))
            at += 8 + size
        return found

    @staticmethod
    def joined(frames, stream):
        return b"".join(data for kind, data in frames if kind == stream)

    def test_upgrade_and_frames(self):
        identity = self.create(Cmd=["sh", "-c", "echo out; echo err >&2"])
        connection, head = self.hijack(f"/v1.44/containers/{identity}/attach?stream=1&stdout=1&stderr=1")
        self.equal(head.splitlines()[0], "HTTP/1.1 101 UPGRADED", "status line")
        if not re.search(r"(?i)^content-type: application/vnd.docker.multiplexed-stream", head, re.M):
            fail("POST attach", "Content-Type: application/vnd.docker.multiplexed-stream", head)
        self.equal(self.daemon.http("POST", f"/v1.44/containers/{identity}/start")[0], 204, "start")
        frames = self.frames(connection)
        self.equal((self.joined(frames, 1), self.joined(frames, 2)), (b"out\n", b"err\n"), "streams")

    def test_older_content_type(self):
        identity = self.create(Cmd=["true"])
        _, head = self.hijack(f"/v1.41/containers/{identity}/attach?stream=1&stdout=1")
        if not re.search(r"(?i)^content-type: application/vnd.docker.raw-stream", head, re.M):
            fail("POST /v1.41/…/attach", "Content-Type: application/vnd.docker.raw-stream", head)

    def test_without_upgrade(self):
        identity = self.create(Cmd=["echo", "old"])
        connection, head = self.hijack(f"/v1.44/containers/{identity}/attach?stream=1&stdout=1", upgrade=False)
        self.equal(head.splitlines()[0], "HTTP/1.1 200 OK", "status line")
        self.daemon.http("POST", f"/v1.44/containers/{identity}/start")
        self.equal(b"old" in connection.recv(4096) + connection.recv(4096), True, "output in a 200 stream")

    def test_websocket(self):
        identity = self.create(Cmd=["sh", "-c", "read x; echo got $x; echo err >&2"], OpenStdin=True, StdinOnce=True)
        connection = self.daemon.connect()
        connection.sendall(f"GET /v1.44/containers/{identity}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: d\r\n"
                           "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
        stream = connection.makefile("rb")
        head = b"".join(iter(stream.readline, b"\r\n")).decode()
        self.equal(head.splitlines()[0], "HTTP/1.1 101 Switching Protocols", "status line")
        self.equal("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head.splitlines(), True, "the key's answer in " + head)
        self.daemon.http("POST", f"/v1.44/containers/{identity}/start")
        # A masked frame of text, by a mask that changes nothing.
        connection.sendall(b"\x81\x84\0\0\0\0hey\n")
        payloads = {2: b"", 8: b""}
        while True:
            first = stream.read(2)
            if not first:
                break
            payloads[first[0] & 15] += stream.read(first[1])
        # The two streams are not told apart, and come as they come.
        self.equal((sorted(payloads[2].splitlines()), payloads[8]), ([b"err", b"got hey"], b"\x03\xe8"), "frames")
        status, _, body = self.daemon.http("GET", f"/v1.44/containers/{identity}/attach/ws?stream=1")
        self.equal((status, body["message"]), (400, "not websocket protocol"), "no handshake")

    def test_half_close(self):
        identity = self.create(Cmd=["sh", "-c", "cat; echo end"], OpenStdin=True, StdinOnce=True, AttachStdin=True)
        connection, _ = self.hijack(f"/v1.44/containers/{identity}/attach?stream=1&stdin=1&stdout=1")
        self.daemon.http("POST", f"/v1.44/containers/{identity}/start")
        connection.sendall(b"typed\n")
        connection.shutdown(socket.SHUT_WR)
        self.equal(self.joined(self.frames(connection), 1), b"typed\nend\n", "output after the client's half-close")

    def test_end_of_input_ends_an_attach(self):
        """Unless input is for the first client only (StdinOnce): the container, and its output, go on alone."""
        identity = self.create(Cmd=["sh", "-c", "cat; echo end; sleep 1000"], OpenStdin=True)
        self.daemon.http("POST", f"/v1.44/containers/{identity}/start")
        connection, _ = self.hijack(f"/v1.44/containers/{identity}/attach?stream=1&stdin=1&stdout=1")
        connection.sendall(b"typed\n")
        self.equal(connection.recv(100), b"\x01\0\0\0\0\0\0\x06typed\n", "echo")
        connection.shutdown(socket.SHUT_WR)
        self.equal(connection.recv(100), b"", "after the client's half-close")
        self.equal(self.daemon.inspect(identity)["State"]["Running"], True, "running")

    def test_frames_are_for_the_start_to_say(self):
        name = self.run_detached()
        _, _, body = self.daemon.http("POST", f"/v1.44/containers/{name}/exec",
                                      {"Cmd": ["sh", "-c", "echo out; echo err >&2"], "AttachStdout": True, "AttachStderr": True})
        connection, head = self.hijack(f"/v1.44/exec/{body['Id']}/start", b'{"Tty":true}')
        self.equal("vnd.docker.raw-stream" in head, True, "a raw stream")
        data = b""
        while block := connection.recv(4096):
            data += block
        self.equal(data, b"out\n", "output")

    def test_early_bytes(self):
        identity = self.create(Cmd=["cat"], OpenStdin=True, StdinOnce=True, AttachStdin=True)
        connection, _ = self.hijack(f"/v1.44/containers/{identity}/attach?stream=1&stdin=1&stdout=1", early=b"early\n")
        self.daemon.http("POST", f"/v1.44/containers/{identity}/start")
        connection.shutdown(socket.SHUT_WR)
        self.equal(self.joined(self.frames(connection), 1), b"early\n", "bytes sent with the request")

    def test_raw_terminal(self):
        identity = self.create(Cmd=["echo", "x"], Tty=True)
        connection, head = self.hijack(f"/v1.44/containers/{identity}/attach?stream=1&stdout=1")
        if not re.search(r"(?i)^content-type: application/vnd.docker.raw-stream", head, re.M):
            fail("POST attach of a terminal", "Content-Type: application/vnd.docker.raw-stream", head)
        self.daemon.http("POST", f"/v1.44/containers/{identity}/start")
        data = b""
        while block := connection.recv(4096):
            data += block
        self.equal(data, b"x\r\n", "raw stream")

    def test_attach_with_logs(self):
        name = self.run_detached(command=("sh", "-c", "echo before; sleep 1; echo after"))
        time.sleep(0.3)
        connection, _ = self.hijack(f"/v1.44/containers/{name}/attach?stream=1&logs=1&stdout=1")
        self.equal(self.joined(self.frames(connection), 1), b"before\nafter\n", "output")

    def test_error_before_the_hijack(self):
        _, head = self.hijack("/v1.44/containers/nosuch/attach?stream=1&stdout=1")
        self.equal(head.splitlines()[0], "HTTP/1.1 404 Not Found", "status line")

    def test_exec(self):
        name = self.run_detached()
        _, _, body = self.daemon.http("POST", f"/v1.44/containers/{name}/exec",
                                      {"Cmd": ["sh", "-c", "echo x; exit 3"], "AttachStdout": True, "AttachStderr": True})
        connection, head = self.hijack(f"/v1.44/exec/{body['Id']}/start", b'{"Detach":false,"Tty":false}')
        self.equal(head.splitlines()[0], "HTTP/1.1 101 UPGRADED", "status line")
        self.equal(self.joined(self.frames(connection), 1), b"x\n", "output")
        _, _, state = self.daemon.http("GET", f"/v1.44/exec/{body['Id']}/json")
        self.equal((state["Running"], state["ExitCode"]), (False, 3), "exec inspect")

    def test_wait_next_exit(self):
        identity = self.create(Cmd=["sh", "-c", "exit 5"])
        connection = self.daemon.connect()
        connection.sendall(f"POST /v1.44/containers/{identity}/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        time.sleep(0.2)
        self.daemon.http("POST", f"/v1.44/containers/{identity}/start")
        data = b""
        while b'"StatusCode"' not in data:
            block = connection.recv(4096)
            if not block:
                break
            data += block
        connection.close()
        self.equal(b'"StatusCode":5' in data, True, "StatusCode 5 in the answer")

    def test_events_start_at_once(self):
        connection = self.daemon.connect()
        connection.sendall(b"GET /v1.44/events HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.settimeout(5)
        self.equal(b"200 OK" in connection.recv(4096), True, "head of the answer before any event")
        connection.close()


@once
class OldClients(Case):
    def test_1_22(self):
        for path in ("/v1.22/info", "/v1.22/version", "/v1.22/images/json", "/v1.22/containers/json?all=1", "/v1.22/images/busybox/json"):
            with self.subTest(path):
                self.equal(self.daemon.http("GET", path)[0], 200, "GET " + path)

    def test_virtual_size_until_1_43(self):
        for version, expected in (("1.43", True), ("1.44", False)):
            _, _, body = self.daemon.http("GET", f"/v{version}/images/json")
            self.equal("VirtualSize" in body[0], expected, f"VirtualSize in {version}")

    def test_images_get_through_slashes(self):
        self.docker("tag", "busybox", "a/b/c/d:1")
        self.equal(self.daemon.http("GET", "/v1.44/images/a/b/c/d:1/json")[0], 200, "status")
        self.equal(self.daemon.http("DELETE", "/v1.44/images/a/b/c/d:1")[0], 200, "status")

    def test_json_is_json(self):
        json.dumps(self.daemon.http("GET", "/v1.44/system/df")[2])
