"""Pulling from a registry: names, platforms, messages, and what may go wrong on the way."""

import gzip
import json
import os
import re
import time

import registry
from archive import ARCHITECTURE
from harness import BIN, Case, Daemon, eventually, need, need_image, once, run
from registry import digest, layer

OTHER = "arm64" if ARCHITECTURE != "arm64" else "amd64"
SMALL = layer(small=b"small")
BIG = layer(big=os.urandom(8 << 20))


class PullCase(Case):
    """A case with a registry; the layers that it pulls are its own."""

    @classmethod
    def setUpClass(cls):
        cls.registry = registry.Registry()
        cls.addClassCleanup(cls.registry.close)
        cls.host = cls.registry.host

    def line(self, most=1 << 20, cut=False):
        line = registry.Line(self.registry, most, cut)
        self.addCleanup(line.close)
        return line

    def gone(self, *names):
        for name in names:
            self.addCleanup(self.docker, "rmi", "-f", name, code=None)

    def has_layer(self, data, daemon=None):
        daemon = daemon or self.daemon
        return os.path.isdir(f"{daemon.data_home}/moss/layers/{digest(data).removeprefix('sha256:')}")

    def scratch(self):
        return os.listdir(self.daemon.data_home + "/moss/tmp")


class Names(PullCase):
    def test_tag_and_again(self):
        name, image = f"{self.host}/a/tag:1", self.registry.push("a/tag", "1", SMALL)
        self.gone(name)
        short = digest(SMALL)[7:19]
        self.docker("pull", name, out=f"1: Pulling from a/tag\n{short}: Pulling fs layer\n{short}: Verifying Checksum\n"
                    f"{short}: Download complete\n{short}: Pull complete\nDigest: {image['digest']}\n"
                    f"Status: Downloaded newer image for {name}\n{name}")
        self.docker("pull", name, out=f"1: Pulling from a/tag\nDigest: {image['digest']}\n"
                    f"Status: Image is up to date for {name}\n{name}")
        self.equal(self.field(name, "{{json .RepoDigests}}", "image"), f'["{self.host}/a/tag@{image["digest"]}"]', "RepoDigests")

    def test_layers_that_are_here(self):
        first, second = f"{self.host}/a/shared:1", f"{self.host}/a/shared:2"
        self.registry.push("a/shared", "1", SMALL)
        self.registry.push("a/shared", "2", SMALL, layer(two=b"2"))
        self.gone(first, second)
        self.docker("pull", first)
        self.docker("pull", second, out=re.compile(digest(SMALL)[7:19] + ": Already exists"))

    def test_digest(self):
        image = self.registry.push("a/digest", "1", layer(digest=b"digest"))
        name = f"{self.host}/a/digest@{image['digest']}"
        self.gone(name)
        self.docker("pull", name, out=re.compile(f"^{re.escape(name)}: Pulling from a/digest\n(.|\n)*Downloaded newer image"))
        self.docker("pull", name, out=re.compile("Image is up to date"))
        self.equal(self.field(name, "{{json .RepoTags}}", "image"), "[]", "RepoTags")

    def test_sha512(self):
        """Layers and config by another algorithm; the image's id is a sha256 all the same."""
        self.registry.push("names/long", "1", layer(long=b"long"), encoding="+gzip", encode=gzip.compress, algorithm="sha512")
        name = f"{self.host}/names/long:1"
        self.addCleanup(self.docker, "rmi", "-f", name, code=None)
        for _ in range(2):
            self.docker("pull", name)
        self.equal(re.sub("[0-9a-f]{64}", "X", self.field(name, "{{.Id}} {{.RootFS.Layers}}", "image")), "sha256:X [sha256:X]", "id and layers")

    def test_all_tags(self):
        for tag in "12":
            self.registry.push("a/all", tag, layer(all=tag.encode()))
            self.gone(f"{self.host}/a/all:{tag}")
        self.docker("pull", "-a", f"{self.host}/a/all", out=re.compile(f"newer image for {self.host}/a/all\n"))
        self.docker("image", "inspect", f"{self.host}/a/all:1", f"{self.host}/a/all:2")

    def test_unknown(self):
        self.registry.push("a/known", "1", SMALL)
        for name in ("a/known:2", "a/unknown:1"):
            self.docker("pull", f"{self.host}/{name}", code=1, err="Error response from daemon: manifest for "
                        f"{self.host}/{name} not found: manifest unknown: manifest unknown")
        status, _, body = self.daemon.http("POST", f"/images/create?fromImage={self.host}/a/known&tag=2")
        self.equal((status, body["message"][:12]), (404, "manifest for"), "answer")

    def test_nobody_there(self):
        host = f"127.0.0.1:{registry.free_port()}"
        self.docker("pull", f"{host}/a", code=1, err=re.compile(
            f'daemon: .*Get "http://{host}/v2/": dial tcp {host}: connect: connection refused'))

    def test_moved_tag(self):
        name = f"{self.host}/a/moved:1"
        self.gone(name)
        for number in (1, 2):
            image = self.registry.push("a/moved", "1", layer(moved=b"%d" % number))
            self.docker("pull", name, out=re.compile("Downloaded newer image"))
            self.equal(image["digest"] in self.field(name, "{{.RepoDigests}}", "image"), True, "the new digest is known")

    def test_run_pulls(self):
        skopeo, name = need("skopeo"), f"{self.host}/busybox:run"
        run([skopeo, "copy", "-q", "--insecure-policy", "--dest-tls-verify=false",
             "docker-archive:" + need_image("busybox.tar"), "docker://" + name])
        self.gone(name)
        for client in (self.docker, self.moss):
            client("rmi", "-f", name, code=None)
            client("run", "--rm", name, "echo", "ran", out="ran", err=re.compile(f"Unable to find image '{name}' locally"))
        self.docker("rmi", name)
        self.moss("run", "--rm", "--pull", "never", name, code=125, err=re.compile("No such image: " + name))

    @once
    def test_moss_pull(self):
        name = f"{self.host}/a/moss:1"
        image = self.registry.push("a/moss", "1", layer(moss=b"moss"))
        self.gone(name)
        self.moss("pull", name, out=re.compile(f"Digest: {image['digest']}\nStatus: Downloaded newer image for {name}\n{name}\n$"))
        self.moss("pull", "-q", name, out=name)


class Platforms(PullCase):
    def setUp(self):
        super().setUp()
        images = [self.registry.push("p/index", None, layer(arch=arch.encode()), architecture=arch)
                  for arch in (OTHER, ARCHITECTURE)]
        self.index = self.registry.manifest("p/index", "1", registry.index(*images))
        self.name = f"{self.host}/p/index:1"
        self.gone(self.name)

    def test_the_hosts(self):
        self.docker("pull", self.name, out=re.compile("Digest: " + self.index["digest"]))
        self.equal(self.field(self.name, "{{.Architecture}}", "image"), ARCHITECTURE, "Architecture")
        self.docker("image", "inspect", f"{self.host}/p/index@{self.index['digest']}")

    def test_another(self):
        self.docker("pull", "--platform", "linux/" + OTHER, self.name)
        self.equal(self.field(self.name, "{{.Architecture}}", "image"), OTHER, "Architecture")
        self.docker("pull", self.name, out=re.compile("Downloaded newer image"))

    @once
    def test_moss_creates_another(self):
        self.docker("pull", self.name)
        self.moss("create", "--rm", "--name", "another", "--platform", "linux/" + OTHER, self.name, "x", err=re.compile("Unable to find image"))
        self.equal(self.field(self.name, "{{.Architecture}}", "image"), OTHER, "Architecture")
        self.docker("rm", "another")

    def test_none(self):
        self.docker("pull", "--platform", "linux/s390x", self.name, code=1, out="1: Pulling from p/index",
                    err="no matching manifest for linux/s390x in the manifest list entries")

    def test_single_images_are_taken_with_a_warning(self):
        name = f"{self.host}/p/single:1"
        self.registry.push("p/single", "1", SMALL)
        self.gone(name)
        self.docker("pull", "--platform", "linux/" + OTHER, name, out=re.compile(
            re.escape(f"WARNING: image with reference {name} was found but its platform (linux/{ARCHITECTURE}) does not match "
                      f"the specified platform (linux/{OTHER})")))


class Messages(PullCase):
    @once
    def test_fields(self):
        self.registry.push("m/fields", "1", BIG)
        self.gone(f"{self.host}/m/fields:1")
        status, headers, body = self.daemon.http("POST", f"/v1.47/images/create?fromImage={self.host}/m/fields&tag=1")
        self.equal((status, headers["Content-Type"]), (200, "application/json"), "answer")
        lines = [json.loads(line) for line in body.split(b"\r\n") if line]
        short = digest(BIG)[7:19]
        self.equal(lines[0], {"status": "Pulling from m/fields", "id": "1"}, "first message")
        self.equal(lines[1], {"status": "Pulling fs layer", "progressDetail": {}, "id": short}, "second message")
        coming = [line["progressDetail"] for line in lines if line["status"] == "Downloading"]
        self.equal(coming[-1], {"current": len(BIG), "total": len(BIG)}, "last progress")
        self.equal([line["status"] for line in lines[-6:-2]],
                   ["Verifying Checksum", "Download complete", "Extracting", "Pull complete"], "last messages")


class Faults(PullCase):
    def test_wrong_digest(self):
        bad = layer(bad=os.urandom(100_000))
        self.registry.push("f/bad", "1", SMALL, bad)
        self.registry.damage(bad)
        self.docker("pull", f"{self.host}/f/bad:1", code=1,
                    err="filesystem layer verification failed for digest " + digest(bad))
        self.docker("image", "inspect", f"{self.host}/f/bad:1", code=1)
        self.equal((self.has_layer(bad), self.scratch()), (False, []), "what is left")

    def test_wrong_diff_id(self):
        data, other = layer(wrong=b"1"), layer(wrong=b"2")
        config = json.dumps({"architecture": ARCHITECTURE, "os": "linux",
                             "rootfs": {"type": "layers", "diff_ids": [digest(other)]}}).encode()
        self.registry.manifest("f/diff", "1", {
            "schemaVersion": 2, "mediaType": registry.MANIFEST,
            "config": {"mediaType": registry.CONFIG, **self.registry.blob("f/diff", config)},
            "layers": [{"mediaType": registry.LAYER, **self.registry.blob("f/diff", data)}]})
        self.docker("pull", f"{self.host}/f/diff:1", code=1, err="layers from manifest don't match image configuration")
        self.equal((self.has_layer(data), self.has_layer(other), self.scratch()), (False, False, []), "what is left")

    @once
    def test_registry_gone_and_back(self):
        first, big = layer(first=os.urandom(100)), layer(gone=os.urandom(8 << 20))
        self.registry.push("f/gone", "1", first, big)
        line = self.line(cut=True)
        # Every connection passes a MiB, so blobs go on where they stopped; this one passes nothing more.
        line.most = 200_000
        self.docker("pull", f"{line.host}/f/gone:1", code=1, out=re.compile("Retrying in [0-9]+ seconds?"),
                    err=re.compile("EOF|connection refused|reset"))
        self.equal((self.has_layer(first), self.has_layer(big), self.scratch()), (True, False, []), "what is left")
        line.open.set()
        self.gone(f"{line.host}/f/gone:1")
        self.docker("pull", f"{line.host}/f/gone:1", out=re.compile(digest(first)[7:19] + ": Already exists"))

    @once
    def test_client_gone(self):
        first, big = layer(first=os.urandom(100)), layer(client=os.urandom(8 << 20))
        self.registry.push("f/client", "1", first, big)
        line = self.line()
        client = self.daemon.start_client("pull", f"{line.host}/f/client:1")
        self.equal(line.stopped.wait(20), True, "the pull is under way")
        client.kill()
        client.communicate()
        eventually(lambda: not self.scratch() and not self.has_layer(first), "nothing left of the pull")
        self.equal(self.has_layer(big), False, "the layer is there")

    @once
    def test_two_pulls_of_one_layer(self):
        big = layer(two=os.urandom(8 << 20))
        for tag in "12":
            self.registry.push("f/two", tag, big, layer(tag=tag.encode()))
        line = self.line()
        self.gone(f"{line.host}/f/two:1", f"{line.host}/f/two:2")
        clients = [self.daemon.start_client("pull", f"{line.host}/f/two:{tag}") for tag in "12"]
        self.equal(line.stopped.wait(20), True, "a pull is under way")
        eventually(lambda: line.asked.count(b"/manifests/") >= 2, "both pulls are under way")
        line.open.set()
        for client in clients:
            out, err = client.communicate(timeout=60)
            self.equal((client.returncode, b"Pull complete" in out), (0, True), f"end of a pull: {err}")
        self.equal(line.asked.count(f"/blobs/{digest(big)} ".encode()), 1, "times that the layer was asked for")

    @once
    def test_the_first_of_two_pulls_is_cancelled(self):
        big = layer(first=os.urandom(8 << 20))
        for tag in "12":
            self.registry.push("f/first", tag, big, layer(first=tag.encode()))
        line = self.line()
        self.gone(f"{line.host}/f/first:2")
        first = self.daemon.start_client("pull", f"{line.host}/f/first:1")
        self.equal(line.stopped.wait(20), True, "a pull is under way")
        second = self.daemon.connect()
        self.addCleanup(second.close)
        second.sendall(f"POST /images/create?fromImage={line.host}/f/first&tag=2 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        told = b""
        # What the first has of the layer is told of to the second too.
        while f'"Downloading","progressDetail":{{"current":'.encode() not in told or digest(big)[7:19].encode() not in told:
            told += second.recv(65536)
        first.kill()
        first.communicate(timeout=20)
        time.sleep(0.5)  # for the daemon to notice
        line.open.set()
        while b"Status: " not in told:
            told += second.recv(65536)
        self.equal(line.asked.count(f"/blobs/{digest(big)} ".encode()), 1, "times that the layer was asked for")

    @once
    def test_bars_of_moss(self):
        layers = [layer(bar=os.urandom(8 << 20)) for _ in range(2)]
        self.registry.push("f/bars", "1", *layers)
        line = self.line()
        self.gone(f"{line.host}/f/bars:1")
        terminal = self.daemon.terminal("pull", f"{line.host}/f/bars:1", client=BIN)
        self.addCleanup(terminal.close)
        terminal.expect(r"[0-9a-f]{12}: Downloading \[=*> +\] +[0-9.]+[kM]?B/8\.4MB")
        terminal.expect(r"\x1b\[2KTotal: \[=*> +\] +[0-9.]+[kM]?B/16\.8MB")
        line.open.set()
        terminal.expect(r"\x1b\[2KDigest: sha256:")
        self.equal(terminal.wait(30), 0, "exit status")

    @once
    def test_daemon_killed(self):
        first, big = layer(first=os.urandom(100)), layer(killed=os.urandom(8 << 20))
        self.registry.push("f/killed", "1", first, big)
        line, daemon = self.line(), Daemon()
        self.addCleanup(daemon.close)
        client = daemon.start_client("pull", f"{line.host}/f/killed:1")
        self.equal(line.stopped.wait(20), True, "the pull is under way")
        eventually(lambda: self.has_layer(first, daemon), "the first layer is in place")
        daemon.kill()
        client.communicate(timeout=20)
        daemon.start()
        line.open.set()
        self.equal(self.has_layer(big, daemon), False, "the second layer is there")
        daemon.docker("pull", f"{line.host}/f/killed:1", out=re.compile(digest(first)[7:19] + ": Already exists"))
        check = run([BIN, "system", "check"], env=daemon.env)
        self.equal(os.listdir(daemon.data_home + "/moss/tmp"), [], f"scratch directories; {check}")

    def test_hostile_parameters(self):
        for query, status, text in (
                ("fromImage=A", 400, "must be lowercase"),
                ("fromImage=scratch", 403, "'scratch' is a reserved name"),
                ("fromImage=a&tag=a%20b", 400, "invalid tag format"),
                ("fromImage=a&platform=a/b/c/d", 400, "cannot parse platform specifier")):
            got, _, body = self.daemon.http("POST", "/images/create?" + query)
            self.equal((got, text in body["message"]), (status, True), f"{query}: {body}")
