"""Registries and images that attack or fail: each a clear error or a harmless image, and nothing left."""

import gzip
import json
import os
import re
import struct
import tarfile
import time
import unittest

import registry
from harness import Daemon, check, eventually, once
from registry import digest, layer, reply
from test_pull import PullCase


class Registries(PullCase):
    """A registry behind an HTTP server that answers some requests by itself."""

    def front(self, answer):
        front = registry.Front(self.registry, answer)
        self.addCleanup(front.close)
        return front

    def refused(self, front, name, err):
        self.docker("pull", f"{front.host}/{name}", code=1, err=err)
        self.docker("image", "inspect", f"{front.host}/{name}", code=1)
        self.equal(self.scratch(), [], "what is left in scratch directories")

    def test_wrong_length(self):
        data = layer(length=os.urandom(10_000))
        self.registry.push("h/length", "1", data)
        size = len(data)
        for wrong in (size - 1, size + 1):
            front = self.front(lambda request: "/blobs/" + digest(data) in request.path
                               and reply(request, 200, (data + b"x")[:wrong]))
            self.refused(front, "h/length:1", f"blob {digest(data)} has {wrong} bytes, expected {size}")
        self.equal(self.has_layer(data), False, "the layer is there")

    def test_no_room(self):
        """Refused before anything of it is fetched."""
        data = layer(room=b"room")
        self.registry.push("h/room", "1", data)
        asked = []

        def answer(request):
            if "/blobs/" + digest(data) in request.path:
                asked.append(request.path)
            if "/manifests/" not in request.path or request.command == "HEAD":
                return False
            with self.registry.ask("GET", request.path, accept=True) as found:
                document = json.loads(found.read())
            document["layers"][0]["size"] = 1 << 60
            return reply(request, 200, json.dumps(document).encode(), **{"Content-Type": document["mediaType"]})
        front = self.front(answer)
        self.refused(front, "h/room:1", re.compile(f"no space left on device: the layers take at least {1 << 60} bytes and [0-9]+ are free"))
        self.equal(asked, [], "requests for the layer")

    def test_redirects_without_end(self):
        data = layer(redirect=b"redirect")
        self.registry.push("h/redirect", "1", data)
        front = self.front(lambda request: "/blobs/" + digest(data) in request.path
                           and reply(request, 307, Location=request.path))
        self.refused(front, "h/redirect:1", re.compile("stopped after 10 redirects"))

    def test_huge_manifest(self):
        def answer(request):
            if "/manifests/" not in request.path:
                return False
            if "length" in request.path:
                request.send_response(200)
                request.send_header("Content-Length", str(100 << 20))
            else:
                request.send_response(200)
                request.send_header("Connection", "close")
                request.close_connection = True
            request.end_headers()
            if request.command != "HEAD":
                for _ in range(100):
                    request.wfile.write(b" " * (1 << 20))
            return True

        front = self.front(answer)
        pid = self.daemon.process.pid
        with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
        before = peak(pid)
        for name in ("h/length:1", "h/endless:1"):
            self.refused(front, name, re.compile("manifest is larger than 4194304 bytes"))
        self.equal(peak(pid) - before < 50_000, True, f"memory grew from {before} to {peak(pid)} kB")

    def test_index_of_itself(self):
        document = json.dumps(registry.index({"mediaType": registry.INDEX, "digest": digest(b"itself"), "size": 6,
                                              "platform": {"os": "linux", "architecture": registry.ARCHITECTURE}})).encode()
        front = self.front(lambda request: "/manifests/" in request.path and reply(
            request, 200, document, Content_Type=registry.INDEX))
        self.refused(front, "h/itself:1", re.compile("manifest verification failed for digest " + digest(b"itself")))

    def test_deep_index(self):
        inner = self.registry.push("h/deep", None, layer(deep=b"deep"))
        for depth in range(5):
            inner = {**self.registry.manifest("h/deep", None, registry.index(inner)),
                     "platform": {"os": "linux", "architecture": registry.ARCHITECTURE}}
        self.docker("pull", f"{self.host}/h/deep@{inner['digest']}", code=1, err=re.compile("nested deeper than 4 levels"))

    @once
    def test_slow(self):
        data = layer(slow=os.urandom(50_000))
        self.registry.push("h/slow", "1", data)

        def answer(request):
            if "/blobs/" + digest(data) not in request.path:
                return False
            request.send_response(200)
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            for start in range(0, len(data), 5000):
                request.wfile.write(data[start:start + 5000])
                time.sleep(0.1)
            return True

        front = self.front(answer)
        self.gone(f"{front.host}/h/slow:1")
        self.docker("pull", f"{front.host}/h/slow:1", out=re.compile("Pull complete"))


def peak(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return int(re.search(r"VmHWM:\s+(\d+)", file.read())[1])


def zstd(data):
    """A zstd frame of stored blocks (RFC 8878)."""
    most = 100_000
    pieces = [data[start:start + most] for start in range(0, len(data), most)]
    blocks = b"".join(struct.pack("<I", len(piece) << 3 | (piece is pieces[-1]))[:3] + piece for piece in pieces)
    return b"\x28\xb5\x2f\xfd" + b"\xe0" + struct.pack("<Q", len(data)) + blocks


def zstd_chunked(data):
    """Frames by themselves, then what only readers of zstd:chunked look at, in frames that all others skip."""
    skipped = b"manifest, tar-split and footer"
    half = len(data) // 2
    return zstd(data[:half]) + zstd(data[half:]) + b"\x50\x2a\x4d\x18" + struct.pack("<I", len(skipped)) + skipped


def estargz(data):
    """Members of gzip by themselves, the last one empty with a field of its own."""
    members = [gzip.compress(data[start:start + 1000]) for start in range(0, len(data), 1000)]
    field = b"SG" + struct.pack("<H", 22) + b"%016xSTARGZ" % 1234
    footer = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff" + struct.pack("<H", len(field)) + field + b"\x01\x00\x00\xff\xff" + bytes(8)
    return b"".join(members) + footer


class Encodings(PullCase):
    def test_all(self):
        for name, encoding, encode in (("plain", "", bytes), ("gzip", "+gzip", gzip.compress), ("estargz", "+gzip", estargz),
                                       ("zstd", "+zstd", zstd), ("chunked", "+zstd", zstd_chunked)):
            data = layer(**{name: os.urandom(300_000), "stargz.index.json": b"{}"})
            image = f"{self.host}/e/{name}:1"
            self.gone(image)
            self.registry.push("e/" + name, "1", data, encoding=encoding, encode=encode)
            self.docker("pull", image)
            self.equal(self.field(image, "{{json .RootFS.Layers}}", "image"), f'["{digest(data)}"]', "layers of " + name)

    @once
    def test_broken(self):
        for name, encoding, encode in (("gzip", "+gzip", gzip.compress), ("zstd", "+zstd", zstd)):
            data = layer(**{name: os.urandom(300_000)})
            self.registry.push("e/broken", name, data, encoding=encoding, encode=lambda data: encode(data)[:-1000])
            self.docker("pull", f"{self.host}/e/broken:{name}", code=1, err=re.compile("cannot decompress the layer"))
            self.equal((self.has_layer(data), self.scratch()), (False, []), "what is left")


def zeros(gigabytes):
    """A layer with one file of zeros, compressed: a few MB."""
    header = tarfile.TarInfo("zeros")
    header.size = gigabytes << 30
    block = gzip.compress(bytes(64 << 20))
    return gzip.compress(header.tobuf()) + block * (gigabytes << 4) + gzip.compress(bytes(1024))


@once
class Small(unittest.TestCase):
    """Filesystems without room: for bytes, and for files."""

    def daemon(self, variable):
        place = os.environ.get(variable)
        if not place:
            self.skipTest("a small filesystem is missing: as root, scripts/test mounts some")
        served = registry.Registry()
        self.addCleanup(served.close)
        daemon = Daemon(data_home=place)
        self.addCleanup(lambda: check(daemon.close()))
        return served, daemon

    def check_full(self, served, daemon, tag):
        """A pull that cannot be done leaves room for one that can."""
        name = served.host + "/full"
        served.push("full", "small", layer(small=b"small"))
        free = os.statvfs(daemon.data_home)
        daemon.docker("pull", f"{name}:{tag}", code=1, timeout=120, err=re.compile("(?i)no space left on device"))
        daemon.docker("image", "inspect", f"{name}:{tag}", code=1)
        left = os.listdir(daemon.data_home + "/moss/tmp") + os.listdir(daemon.data_home + "/moss/layers")
        # The layer of the image that is built in is there.
        if len(left) > 1:
            raise AssertionError(f"expected: nothing of the layer left\ngot: {left}")
        daemon.docker("pull", name + ":small")

        def is_back():
            now = os.statvfs(daemon.data_home)
            return now.f_bfree >= free.f_bfree * 0.9 and now.f_ffree >= free.f_ffree * 0.9

        eventually(is_back, f"room as before: {free}")

    def test_disk_full(self):
        served, daemon = self.daemon("MOSS_TEST_SMALL")
        served.push("full", "big", layer(big=os.urandom(16 << 20)))
        self.check_full(served, daemon, "big")

    def test_bomb(self):
        served, daemon = self.daemon("MOSS_TEST_SMALL")
        served.push("full", "bomb", b"", encoding="+gzip", encode=lambda _: zeros(10))
        self.check_full(served, daemon, "bomb")

    def test_no_inodes(self):
        served, daemon = self.daemon("MOSS_TEST_FEW_FILES")
        served.push("full", "files", layer(**{f"f{number}": b"" for number in range(5000)}))
        self.check_full(served, daemon, "files")


@once
class Bounds(unittest.TestCase):
    def test_entries(self):
        served, daemon = registry.Registry(), Daemon(start=False)
        self.addCleanup(served.close)
        self.addCleanup(lambda: check(daemon.close()))
        os.makedirs(daemon.env["XDG_CONFIG_HOME"] + "/moss")
        with open(daemon.env["XDG_CONFIG_HOME"] + "/moss/daemon.json", "w", encoding="utf-8") as file:
            file.write('{"max-layer-entries": 100}')
        daemon.start()
        for count in (90, 110):
            served.push("entries", str(count), layer(**{f"f{number}": b"" for number in range(count)}))
        daemon.docker("pull", served.host + "/entries:90")
        daemon.docker("pull", served.host + "/entries:110", code=1, err=re.compile("the layer is refused: it has more than 100 entries"))
