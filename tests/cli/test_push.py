"""Pushing to a registry: what is sent and what is not, whose digest it gets, and what may go wrong on the way."""

import base64
import gzip
import io
import json
import os
import re
import socket
import tarfile
import tempfile
import threading
import time

import accounts
import registry
from accounts import PASSWORD, USER
from archive import ARCHITECTURE
from harness import BIN, Case, Daemon, eventually, need, once, run
from registry import digest, layer

DIGEST = re.compile(r"digest: (sha256:[0-9a-f]{64}) size: \d+")
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Gate(registry.Line):
    """A way to a registry that cuts each connection after `most` bytes on the way up, or swallows the rest."""

    def __init__(self, behind, most, cut=False):
        super().__init__(behind, most, cut)
        self.left = threading.Event()
        self.cuts = 0  # after this many it lets everything pass; never if it is none

    def up(self, near, far):
        passed = 0
        try:
            while data := near.recv(16384):
                passed += len(data)
                if passed > self.most and not self.open.is_set():
                    self.stopped.set()
                    if self.cut:
                        self.cuts -= 1
                        if self.cuts == 0:
                            self.open.set()
                        break
                    continue
                self.asked += data
                far.sendall(data)
        except OSError:
            pass
        if passed > self.most:
            self.left.set()
        try:
            far.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        # What was not read makes it a reset.
        near.close()


class PushCase(Case):
    """A case with a registry of its class; the images that it pushes are its own."""

    @classmethod
    def setUpClass(cls):
        cls.registry = registry.Registry()
        cls.addClassCleanup(cls.registry.close)
        cls.host = cls.registry.host

    def image(self, *names, **files):
        """An image of one layer with these files, under names; its id. Their repositories go with the case."""
        self.gone(*names)
        made = self.docker("import", "-", names[0], stdin=layer(**files)).out.strip()
        for name in names[1:]:
            self.docker("tag", names[0], name)
        return made

    def gone(self, *names):
        for name in names:
            self.addCleanup(self.docker, "rmi", "-f", name, code=None)

    def push(self, *args, daemon=None, **options):
        """Pushes; the result and the digest that it says."""
        result = (daemon or self.daemon).docker("push", *args, **options)
        found = DIGEST.search(result.out)
        return result, found and found.group(1)

    def manifest(self, name, reference, at=None):
        with (at or self.registry).ask("GET", f"/v2/{name}/manifests/{reference}", accept=True) as answer:
            return json.loads(answer.read())

    def gate(self, most, cut=False, behind=None):
        gate = Gate(behind or self.registry, most, cut)
        self.addCleanup(gate.close)
        return gate

    def own_daemon(self, **config):
        daemon = Daemon(start=False)
        self.addCleanup(daemon.close)
        os.makedirs(daemon.env["XDG_CONFIG_HOME"] + "/moss", exist_ok=True)
        with open(daemon.env["XDG_CONFIG_HOME"] + "/moss/daemon.json", "w", encoding="utf-8") as file:
            json.dump(config, file)
        return daemon.start()


class Names(PushCase):
    def test_there_and_back(self):
        name = f"{self.host}/a/back:1"
        made = self.image(name, back=os.urandom(3_000_000))
        diff_id = json.loads(self.field(name, "{{json .RootFS.Layers}}", "image"))[0]
        result, pushed = self.push(name)
        short = diff_id[7:19]
        self.equal(DIGEST.sub("digest: D size: N", result.out), f"The push refers to repository [{self.host}/a/back]\n"
                   f"{short}: Preparing\n{short}: Pushed\n1: digest: D size: N\n", "output")
        self.equal(self.field(name, "{{json .RepoDigests}}", "image"), f'["{self.host}/a/back@{pushed}"]', "RepoDigests")
        self.docker("rmi", name)
        self.docker("pull", name, out=re.compile("Digest: " + pushed))
        self.equal(self.field(name, "{{.Id}}", "image"), made, "id")
        document = self.manifest("a/back", "1")
        self.equal(document["mediaType"], DOCKER_MANIFEST, "media type")
        self.equal(document["config"]["digest"], made, "config")

    def test_pushed_twice(self):
        line = registry.Line(self.registry, 1 << 30)
        self.addCleanup(line.close)
        name = f"{line.host}/a/twice:1"
        self.image(name, f"{line.host}/a/twice:2", twice=os.urandom(10_000))
        _, first = self.push(name)
        begun = line.asked.count(b"POST /v2/")
        result, second = self.push(name)
        self.equal((second, line.asked.count(b"POST /v2/")), (first, begun), "digest and uploads of the second push")
        self.equal("Layer already exists" in result.out, True, f"output: {result.out}")
        # Another tag, another repository that is made anew: compressed again, it has the same digest.
        self.equal(self.push(f"{line.host}/a/twice:2")[1], first, "digest of the other tag")

    def test_two_at_once(self):
        line = registry.Line(self.registry, 1 << 30)
        self.addCleanup(line.close)
        names = [f"{line.host}/p/both:{number}" for number in (1, 2)]
        self.image(*names, both=os.urandom(3_000_000))
        found = []
        pushes = [threading.Thread(target=lambda name=name: found.append(self.push(name)[1])) for name in names]
        for push in pushes:
            push.start()
        for push in pushes:
            push.join()
        self.equal((len(found), len(set(found))), (2, 1), "digests of two pushes of one image")
        # The layer once, the config by each of them at most.
        begun = line.asked.count(b"POST /v2/p/both/blobs/uploads/")
        self.equal(begun <= 3, True, f"uploads that were begun: {begun}")
        self.equal([self.manifest("p/both", number)["layers"] for number in (1, 2)], [self.manifest("p/both", 1)["layers"]] * 2, "layers")

    def test_the_same_bytes_anywhere(self):
        other = registry.Registry()
        self.addCleanup(other.close)
        names = [f"{host}/a/same:1" for host in (self.host, other.host)]
        self.image(*names, same=os.urandom(1_000_000), text=b"text\n" * 500_000)
        self.equal(self.push(names[0])[1], self.push(names[1])[1], "digests in two registries")

    def test_mounted(self):
        names = [f"{self.host}/a/{which}:1" for which in ("first", "second")]
        self.image(*names, mounted=os.urandom(10_000))
        self.push(names[0])
        self.push(names[1], out=re.compile(": Mounted from a/first\n"))

    def test_all_tags(self):
        names = [f"{self.host}/a/all:{tag}" for tag in "12"]
        self.image(names[0], all=b"1")
        self.image(names[1], all=b"2")
        result, _ = self.push("-a", f"{self.host}/a/all")
        self.equal(re.findall(r"^(\d): digest", result.out, re.M), ["1", "2"], "tags")
        self.docker("push", "-a", names[0], code=1, err=re.compile("tag can't be used with --all-tags/-a"))

    def test_unknown(self):
        self.docker("push", f"{self.host}/a/none:1", code=1, out=f"The push refers to repository [{self.host}/a/none]",
                    err=f"An image does not exist locally with the tag: {self.host}/a/none")
        name = f"{self.host}/a/known:1"
        self.image(name, known=b"known")
        self.docker("push", f"{self.host}/a/known:2", code=1, err=f"tag does not exist: {self.host}/a/known:2")

    def test_nobody_there(self):
        host = f"127.0.0.1:{registry.free_port()}"
        self.image(f"{host}/a:1", a=b"a")
        self.docker("push", f"{host}/a:1", code=1, err=re.compile(
            f'Get "http://{host}/v2/": dial tcp {host}: connect: connection refused'))

    def test_hostile_parameters(self):
        for path, text in (("A/push?tag=1", "must be lowercase"), ("a/push?tag=a%20b", "invalid"),
                           ("a@sha256:" + "0" * 64 + "/push?tag=1", "cannot import digest reference"),
                           ("a/push?tag=1&platform=linux", "failed to parse platform")):
            status, _, body = self.daemon.http("POST", "/v1.47/images/" + path)
            self.equal((status, text in body["message"]), (400, True), f"{path}: {body}")

    @once
    def test_platform(self):
        name = f"{self.host}/a/platform:1"
        self.image(name, platform=b"platform")
        query = f"/v1.47/images/{self.host}/a/platform/push?tag=1&platform="
        status, _, body = self.daemon.http("POST", query + "%7B%22os%22:%22linux%22,%22architecture%22:%22s390x%22%7D")
        self.equal((status, "does not match the specified platform (linux/s390x)" in body["message"]), (404, True), str(body))
        status, _, _ = self.daemon.http("POST", query + f"%7B%22os%22:%22linux%22,%22architecture%22:%22{ARCHITECTURE}%22%7D")
        self.equal(status, 200, "status for the image's own platform")

    @once
    def test_messages(self):
        name = f"{self.host}/a/messages:1"
        self.image(name, messages=os.urandom(3 << 20))
        diff_id = json.loads(self.field(name, "{{json .RootFS.Layers}}", "image"))[0]
        status, headers, body = self.daemon.http("POST", f"/images/{self.host}/a/messages/push?tag=1")
        self.equal((status, headers["Content-Type"]), (200, "application/json"), "answer")
        lines = [json.loads(line) for line in body.split(b"\r\n") if line]
        self.equal(lines[0], {"status": f"The push refers to repository [{self.host}/a/messages]"}, "first message")
        self.equal(lines[1], {"status": "Preparing", "progressDetail": {}, "id": diff_id[7:19]}, "second message")
        sizes = [line["progressDetail"] for line in lines if line.get("status") == "Pushing"]
        self.equal(sizes[-1]["current"], sizes[-1]["total"], "last progress")
        pushed = self.manifest("a/messages", "1", None)
        size = len(json.dumps(pushed, indent=3))
        self.equal(lines[-1]["aux"]["Size"], size, "size")
        self.equal(lines[-1], {"progressDetail": {}, "aux": {"Tag": "1", "Digest": lines[-1]["aux"]["Digest"], "Size": size}},
                   "last message")
        self.equal(lines[-2], {"status": f"1: digest: {lines[-1]['aux']['Digest']} size: {size}"}, "message before it")

    @once
    def test_event(self):
        name = f"{self.host}/a/event:1"
        self.image(name, event=b"event")
        self.push(name)
        told = self.docker("events", "--since", "1", "--until", f"{time.time():.6f}", "--filter", "event=push",
                           "--format", "{{json .Actor}}")
        actors = [json.loads(line) for line in told.out.splitlines()]
        self.equal(actors[-1], {"ID": name, "Attributes": {"name": f"{self.host}/a/event"}}, "the last push")

    @once
    def test_others_can_read_it(self):
        skopeo, name = need("skopeo"), f"{self.host}/a/others:1"
        text = b"".join(b"%d\n" % number for number in range(400_000))
        self.image(name, others=text)
        self.push(name)
        with tempfile.TemporaryDirectory() as top:
            done = run([skopeo, "copy", "-q", "--insecure-policy", "--src-tls-verify=false", "docker://" + name, "dir:" + top])
            self.equal(done.code, 0, str(done))
            blob = self.manifest("a/others", "1")["layers"][0]["digest"].removeprefix("sha256:")
            with open(f"{top}/{blob}", "rb") as file, tarfile.open(fileobj=io.BytesIO(gzip.decompress(file.read()))) as tar:
                self.equal(tar.extractfile("others").read() == text, True, "the content is the same")

    @once
    def test_moss_push(self):
        name = f"{self.host}/a/moss:1"
        self.image(name, f"{self.host}/a/moss:latest", moss=b"moss")
        self.moss("push", name, out=re.compile(r": Preparing\n.*: Pushed\n1: digest: sha256:[0-9a-f]{64} size: \d+\n$"))
        self.moss("push", f"{self.host}/a/moss", out=re.compile("^Using default tag: latest\nThe push refers to"))
        self.moss("push", "-q", name, out=name)
        self.moss("push", "-a", f"{self.host}/a/moss", out=re.compile("1: digest(.|\n)*latest: digest"))
        self.moss("push", f"{self.host}/a/moss:2", code=1, err=re.compile(f"tag does not exist: {self.host}/a/moss:2"))


class Identity(PushCase):
    def test_same_registry(self):
        image = self.registry.push("i/from", "1", layer(a=os.urandom(1000)), layer(b=os.urandom(1000)))
        name, other = f"{self.host}/i/from:1", f"{self.host}/i/to:1"
        self.gone(name, other)
        self.docker("pull", name)
        self.docker("tag", name, other)
        result, pushed = self.push(other)
        self.equal((pushed, result.out.count("Mounted from i/from")), (image["digest"], 2), f"digest, mounts: {result}")
        self.equal(self.push(other)[1], image["digest"], "digest once more")

    def test_layers_that_were_here_before(self):
        data = layer(before=os.urandom(1000))
        first = f"{self.host}/i/own:1"
        self.gone(first)
        self.docker("import", "-", first, stdin=data)
        image = self.registry.push("i/before", "1", data)
        name, other = f"{self.host}/i/before:1", f"{self.host}/i/after:1"
        self.gone(name, other)
        self.docker("pull", name, out=re.compile("Already exists"))
        self.docker("tag", name, other)
        self.equal(self.push(other)[1], image["digest"], "digest")
        # What that manifest said of the layer counts for its image alone.
        pushed = self.push(first)[1]
        own = self.manifest("i/own", pushed)["layers"][0]["digest"]
        self.equal(own == digest(data), False, "the layer of another image is the one that was claimed")

    def test_another_registry(self):
        source = registry.Registry()
        self.addCleanup(source.close)
        known = layer(known=os.urandom(1000))
        self.docker("import", "-", "known:1", stdin=known)
        self.gone("known:1")
        image = source.push("i/streamed", "1", layer(streamed=os.urandom(3 << 20)), known)
        name, other = f"{source.host}/i/streamed:1", f"{self.host}/i/streamed:1"
        self.gone(name, other)
        self.docker("pull", name)
        self.docker("tag", name, other)
        self.equal(self.push(other)[1], image["digest"], "digest")

    def test_origin_gone(self):
        source = registry.Registry()
        image = source.push("i/gone", "1", layer(gone=os.urandom(1000)))
        name, other = f"{source.host}/i/gone:1", f"{self.host}/i/gone:1"
        self.gone(name, other)
        self.docker("pull", name)
        source.close()
        self.docker("tag", name, other)
        result, pushed = self.push(other)
        self.equal(f"The digest of {other} changed from {image['digest']} to {pushed}: layers had to be compressed again\n"
                   in result.out, True, f"output: {result}")
        self.docker("rmi", other)
        self.docker("pull", other, out=re.compile("Digest: " + pushed))

    def test_origin_lies(self):
        source = registry.Registry()
        self.addCleanup(source.close)
        data = layer(lies=os.urandom(100_000))
        image = source.push("i/lies", "1", data)
        name, other = f"{source.host}/i/lies:1", f"{self.host}/i/lies:1"
        self.gone(name, other)
        self.docker("pull", name)
        source.damage(data)
        self.docker("tag", name, other)
        pushed = self.push(other)[1]
        self.equal(pushed == image["digest"], False, "the digest is kept")
        self.docker("rmi", "-f", name, other)
        self.docker("pull", other)

    @once
    def test_kept_blobs(self):
        source, daemon = registry.Registry(), self.own_daemon(**{"keep-blobs": True})
        data = layer(kept=os.urandom(2_000_000))
        image = source.push("i/kept", "1", data)
        name, other = f"{source.host}/i/kept:1", f"{self.host}/i/kept:1"
        daemon.docker("pull", name)
        place = f"{daemon.data_home}/moss/layers/{digest(data).removeprefix('sha256:')}"
        with open(place + "/blob", "rb") as file:
            self.equal(digest(file.read()), digest(data), "the kept blob")
        size = daemon.http("GET", "/system/df")[2]["LayersSize"]
        self.equal(size >= 2_000_000 + len(data), True, f"layers and blobs are counted: {size}")
        source.close()
        daemon.kill()
        daemon.start()
        daemon.docker("tag", name, other)
        self.equal(self.push(other, daemon=daemon)[1], image["digest"], "digest")
        daemon.docker("rmi", name, other)
        self.equal(os.path.exists(place), False, "the blob is there after its image")

    @once
    def test_zstd(self):
        daemon = self.own_daemon(**{"push-compression": "zstd"})
        name = f"{self.host}/i/zstd:1"
        daemon.docker("import", "-", name, stdin=layer(zstd=b"zstd" * 100_000))
        pushed = self.push(name, daemon=daemon)[1]
        self.equal(self.manifest("i/zstd", pushed)["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd", "type")
        self.gone(name)
        self.docker("pull", name, out=re.compile("Digest: " + pushed))


class Guarded(PushCase):
    """A registry beside the open one that asks who one is."""

    def guard(self, auth):
        guarded = registry.Registry(beside=self.registry, auth=auth)
        self.addCleanup(guarded.close)
        self.addCleanup(self.docker, "logout", guarded.host, code=None)
        return guarded.host

    def directory(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return directory.name

    def test_passwords(self):
        host = self.guard(accounts.htpasswd(self.directory()))
        name = f"{host}/g/passwords:1"
        self.image(name, passwords=os.urandom(1000))
        self.docker("push", name, code=1, err="no basic auth credentials")
        self.moss("push", name, code=1, err=re.compile("no basic auth credentials"))
        self.docker("login", "-u", USER, "--password-stdin", host, stdin=PASSWORD)
        pushed = self.push(name)[1]
        self.moss("push", name, out=re.compile("Layer already exists\n.*" + pushed))
        wrong = '{"username":"%s","password":"wrong"}' % USER
        wrong = base64.urlsafe_b64encode(wrong.encode()).decode()
        status, _, body = self.daemon.http("POST", f"/images/{host}/g/passwords/push?tag=1", headers={"X-Registry-Auth": wrong})
        last = json.loads(body.split(b"\r\n")[-2])
        self.equal((status, last["error"]), (200, "unauthorized: authentication required"), "answer to a wrong password")

    def test_tokens(self):
        tokens = accounts.Tokens(self.directory())
        self.addCleanup(tokens.close)
        host = self.guard(tokens.auth())
        names = [f"{host}/g/{which}:1" for which in ("tokens", "mounted")]
        self.image(*names, tokens=os.urandom(1000))
        self.docker("push", names[0], code=1,
                    err="errors:\ndenied: requested access to the resource is denied\nunauthorized: authentication required")
        self.docker("login", "-u", USER, "--password-stdin", host, stdin=PASSWORD)
        self.push(names[0])
        self.push(names[1], out=re.compile("Mounted from g/tokens"))


class Faults(PushCase):
    @once
    def test_broken_off(self):
        gate = self.gate(3 << 20, cut=True)
        gate.cuts = 2
        name = f"{gate.host}/f/broken:1"
        self.image(name, broken=os.urandom(10 << 20))
        pushed = self.push(name)[1]
        self.equal(gate.cuts, 0, "cuts that are left")
        self.docker("rmi", name)
        self.docker("pull", f"{self.host}/f/broken:1", out=re.compile("Digest: " + pushed))
        self.gone(f"{self.host}/f/broken:1")

    @once
    def test_registry_gone_and_back(self):
        gate = self.gate(200_000, cut=True)
        name = f"{gate.host}/f/gone:1"
        self.image(name, gone=os.urandom(8 << 20))
        # Every connection passes something, but nothing of it is more than what the one before had passed.
        gate.most = 2000
        self.docker("push", name, code=1, err=re.compile("EOF|connection refused|reset|broken pipe"))
        gate.open.set()
        self.push(name)

    @once
    def test_client_gone(self):
        gate = self.gate(1 << 20)
        name = f"{gate.host}/f/left:1"
        self.image(name, left=os.urandom(8 << 20))
        client = self.daemon.start_client("push", name)
        self.equal(gate.stopped.wait(20), True, "the push is under way")
        client.kill()
        client.communicate()
        self.equal(gate.left.wait(20), True, "the connection to the registry is closed")
        self.equal(self.docker("version", code=None).code, 0, "the daemon is well")

    @once
    def test_damaged_layer(self):
        name = f"{self.host}/f/damaged:1"
        self.image(name, damaged=b"whole" * 10_000)
        diff_id = json.loads(self.field(name, "{{json .RootFS.Layers}}", "image"))[0].removeprefix("sha256:")
        with open(f"{self.daemon.data_home}/moss/layers/{diff_id}/fs/damaged", "r+b") as file:
            file.write(b"h")
        self.docker("push", name, code=1, err=re.compile(f"the layer sha256:{diff_id} is damaged"))

    @once
    def test_daemon_killed(self):
        gate, daemon = self.gate(1 << 20), Daemon()
        self.addCleanup(daemon.close)
        name = f"{gate.host}/f/killed:1"
        daemon.docker("import", "-", name, stdin=layer(killed=os.urandom(8 << 20)))
        client = daemon.start_client("push", name)
        self.equal(gate.stopped.wait(20), True, "the push is under way")
        daemon.kill()
        client.communicate(timeout=20)
        gate.open.set()
        daemon.start()
        check = run([BIN, "system", "check"], env=daemon.env)
        self.equal(os.listdir(daemon.data_home + "/moss/tmp"), [], f"scratch directories; {check}")
        self.push(name, daemon=daemon)

    @once
    def test_image_removed_meanwhile(self):
        gate = self.gate(1 << 20)
        name = f"{gate.host}/f/removed:1"
        self.image(name, removed=os.urandom(8 << 20))
        diff_id = json.loads(self.field(name, "{{json .RootFS.Layers}}", "image"))[0].removeprefix("sha256:")
        client = self.daemon.start_client("push", name)
        self.equal(gate.stopped.wait(20), True, "the push is under way")
        self.docker("rmi", name)
        place = f"{self.daemon.data_home}/moss/layers/{diff_id}"
        self.equal(os.path.isdir(place), True, "the layer is kept for the push")
        client.kill()
        client.communicate()
        eventually(lambda: not os.path.exists(place), "no layer after the push", 20)
