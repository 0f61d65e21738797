"""Real registries (Debian's docker-registry), open or guarded, images made up for them, and bad ways to them."""

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from archive import ARCHITECTURE
from harness import eventually, need

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest(data, algorithm="sha256"):
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def layer(**files):
    """An uncompressed layer with these files in its root."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def free_port(address="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


class Registry:
    """docker-registry with its storage in a directory of its own, or in another's: what was pushed to an open one
    is then pulled from one that is guarded by `auth` or served over `tls`, both as its configuration has them."""

    def __init__(self, beside=None, auth=None, tls=None, address="127.0.0.1"):
        program = os.environ.get("MOSS_TEST_REGISTRY") or need("docker-registry")
        self.top = tempfile.mkdtemp(prefix="mr.", dir="/tmp")
        self.host = f"{address}:{free_port(address)}"
        config = {"version": "0.1", "log": {"level": "error"},
                  "storage": {"filesystem": {"rootdirectory": (beside or self).top + "/store"}},
                  "http": {"addr": self.host, **({"tls": tls} if tls else {})}, **({"auth": auth} if auth else {})}
        with open(self.top + "/config.yml", "w", encoding="utf-8") as file:
            json.dump(config, file)
        with open(self.top + "/log", "wb") as log:
            self.process = subprocess.Popen([program, "serve", self.top + "/config.yml"], stdout=log, stderr=log)
        eventually(self.answers, "an answer of the registry", 30)

    def answers(self):
        try:
            socket.create_connection(tuple(self.host.split(":")), 10).close()
            return True
        except OSError:
            return False

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.top, ignore_errors=True)

    def ask(self, method, path, data=None, kind="application/octet-stream", accept=False):
        url = path if path.startswith("http") else f"http://{self.host}{path}"
        headers = {"Content-Type": kind} if data is not None else {}
        if accept:
            headers["Accept"] = "application/vnd.docker.distribution.manifest.v2+json, " + MANIFEST
        return urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30)

    def blob(self, name, data, algorithm="sha256"):
        where = self.ask("POST", f"/v2/{name}/blobs/uploads/", b"").headers["Location"]
        self.ask("PUT", where + ("&" if "?" in where else "?") + "digest=" + digest(data, algorithm), data)
        return {"digest": digest(data, algorithm), "size": len(data)}

    def manifest(self, name, tag, document):
        data = json.dumps(document).encode()
        self.ask("PUT", f"/v2/{name}/manifests/{tag or digest(data)}", data, document["mediaType"])
        return {"mediaType": document["mediaType"], "digest": digest(data), "size": len(data)}

    def push(self, name, tag, *layers, architecture=ARCHITECTURE, encoding="", encode=lambda data: data,
             algorithm="sha256"):
        """An image of layers, as they are or encoded; returns its manifest's descriptor."""
        config = json.dumps({"architecture": architecture, "os": "linux", "config": {"Cmd": ["/x"]},
                             "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]}}).encode()
        document = {"schemaVersion": 2, "mediaType": MANIFEST,
                    "config": {"mediaType": CONFIG, **self.blob(name, config, algorithm)},
                    "layers": [{"mediaType": LAYER + encoding, **self.blob(name, encode(data), algorithm)} for data in layers]}
        return {**self.manifest(name, tag, document), "platform": {"os": "linux", "architecture": architecture}}

    def damage(self, data):
        """Turns a byte of a stored blob around."""
        hexadecimal = digest(data).removeprefix("sha256:")
        path = f"{self.top}/store/docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
        with open(path, "r+b") as file:
            file.seek(len(data) // 2)
            byte = file.read(1)
            file.seek(len(data) // 2)
            file.write(bytes([byte[0] ^ 1]))
        os.sync()


class Line:
    """A way to a registry that stops each blob larger than `most` bytes at that point, or `cut`s it there."""

    def __init__(self, registry, most, cut=False):
        self.registry, self.most, self.cut = registry, most, cut
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.asked = b""
        self.open = threading.Event()
        self.stopped = threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            host, port = self.registry.host.split(":")
            far = socket.create_connection((host, int(port)))
            threading.Thread(target=self.up, args=(near, far), daemon=True).start()
            threading.Thread(target=self.down, args=(near, far), daemon=True).start()

    def up(self, near, far):
        try:
            while data := near.recv(65536):
                self.asked += data
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def down(self, near, far):
        """Passes on at most so many bytes of a connection, until the line is opened."""
        passed = 0
        try:
            while data := far.recv(16384):
                passed += len(data)
                if passed > self.most and not self.open.is_set():
                    self.stopped.set()
                    if self.cut:
                        break
                    self.open.wait(60)
                near.sendall(data)
        except OSError:
            pass
        for end in (near, far):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.open.set()
        self.listener.close()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Clients may hang up, and try TLS first."""


def serve(handler):
    """An HTTP server on loopback."""
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Front:
    """An HTTP server before a registry. `answer(request)` may answer by itself, and then returns true."""

    def __init__(self, registry, answer):
        self.registry, self.answer = registry, answer
        self.requests = []
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                front.requests.append((self.command, self.path, self.headers))
                try:
                    if not front.answer(self):
                        front.pass_on(self)
                except OSError:
                    self.close_connection = True

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = serve(Handler)
        self.host = "127.0.0.1:%d" % self.server.server_address[1]

    def pass_on(self, request):
        passed = {name: value for name, value in request.headers.items() if name.lower() in ("accept", "range")}
        asked = urllib.request.Request(f"http://{self.registry.host}{request.path}", headers=passed, method=request.command)
        try:
            got = urllib.request.urlopen(asked, timeout=30)
        except urllib.error.HTTPError as refusal:
            got = refusal
        with got:
            fields = {name: got.headers[name] for name in
                      ("Content-Type", "Content-Length", "Content-Range", "Docker-Content-Digest") if got.headers[name]}
            reply(request, got.status, got.read(), **fields)

    def count(self, part):
        return sum(part in path for _, path, _ in self.requests)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def reply(request, status, body=b"", **fields):
    """Answers a request to a Front; underscores in the names of fields are hyphens."""
    request.send_response(status)
    fields = {name.replace("_", "-"): value for name, value in fields.items()}
    fields.setdefault("Content-Length", str(len(body)))
    for name, value in fields.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
    return True


def index(*manifests):
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}
