"""A real registry on loopback (Debian's docker-registry), images made up for it, and a bad line to it."""

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
import urllib.request

from archive import ARCHITECTURE
from harness import eventually, need

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(**files):
    """An uncompressed layer with these files in its root."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Registry:
    """docker-registry with its storage in a directory of its own."""

    def __init__(self):
        program = os.environ.get("MOSS_TEST_REGISTRY") or need("docker-registry")
        self.top = tempfile.mkdtemp(prefix="mr.", dir="/tmp")
        self.host = f"127.0.0.1:{free_port()}"
        with open(self.top + "/config.yml", "w", encoding="utf-8") as file:
            file.write("version: 0.1\nlog: {level: error}\n"
                       f"storage: {{filesystem: {{rootdirectory: {self.top}/store}}}}\n"
                       f"http: {{addr: '{self.host}'}}\n")
        with open(self.top + "/log", "wb") as log:
            self.process = subprocess.Popen([program, "serve", self.top + "/config.yml"], stdout=log, stderr=log)
        eventually(self.answers, "an answer of the registry")

    def answers(self):
        try:
            return self.ask("GET", "/v2/").status == 200
        except OSError:
            return False

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.top, ignore_errors=True)

    def ask(self, method, path, data=None, kind="application/octet-stream"):
        url = path if path.startswith("http") else f"http://{self.host}{path}"
        headers = {"Content-Type": kind} if data is not None else {}
        return urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30)

    def blob(self, name, data):
        where = self.ask("POST", f"/v2/{name}/blobs/uploads/", b"").headers["Location"]
        self.ask("PUT", where + ("&" if "?" in where else "?") + "digest=" + digest(data), data)
        return {"digest": digest(data), "size": len(data)}

    def manifest(self, name, tag, document):
        data = json.dumps(document).encode()
        self.ask("PUT", f"/v2/{name}/manifests/{tag or digest(data)}", data, document["mediaType"])
        return {"mediaType": document["mediaType"], "digest": digest(data), "size": len(data)}

    def push(self, name, tag, *layers, architecture=ARCHITECTURE):
        """An image of uncompressed layers; returns its manifest's descriptor, and its config's digest in it."""
        config = json.dumps({"architecture": architecture, "os": "linux", "config": {"Cmd": ["/x"]},
                             "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]}}).encode()
        document = {"schemaVersion": 2, "mediaType": MANIFEST,
                    "config": {"mediaType": CONFIG, **self.blob(name, config)},
                    "layers": [{"mediaType": LAYER, **self.blob(name, data)} for data in layers]}
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


def index(*manifests):
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}
