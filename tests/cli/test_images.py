"""Images: load, list, inspect, history, tag, rmi, import; and what a layer may hold."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import tempfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import archive
import registry
from harness import Case, need, need_image, once, run


def busybox_layer():
    """The tar of busybox's only layer."""
    with archive.tarfile.open(need_image("busybox.tar")) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
        return tar.extractfile(manifest[0]["Layers"][0]).read()


class Load(Case):
    def test_docker_archive(self):
        self.docker("load", "-i", need_image("busybox.tar"), out="Loaded image: busybox:latest")

    def test_stdin(self):
        with open(need_image("busybox.tar"), "rb") as file:
            self.docker("load", stdin=file.read(), out=re.compile("Loaded image: busybox:latest"))

    def test_quiet(self):
        self.docker("load", "-q", "-i", need_image("busybox.tar"), out="Loaded image: busybox:latest")

    def test_gzipped(self):
        with open(need_image("busybox.tar"), "rb") as file:
            self.docker("load", stdin=gzip.compress(file.read(), 1), out=re.compile("Loaded image: busybox:latest"))

    def test_oci_layout(self):
        self.docker("load", "-i", need_image("busybox-oci.tar"), out=re.compile("Loaded image: busybox:oci"))
        self.docker("run", "--rm", "busybox:oci", "echo", "ok", out="ok")

    def test_as_engines_save_now(self):
        self.docker("load", "-i", need_image("busybox-save.tar"), out=re.compile("Loaded image: busybox:save"))
        self.docker("run", "--rm", "busybox:save", "echo", "ok", out="ok")

    def test_layers_are_shared(self):
        self.docker("load", "-i", need_image("busybox-oci.tar"))
        layers = {self.field(f"busybox:{tag}", "{{json .RootFS.Layers}}", "image") for tag in ("latest", "oci")}
        self.equal(len(layers), 1, "different sets of layers")

    def test_multi_layer_oci(self):
        self.docker("load", "-i", need_image("debian-oci.tar"), timeout=240)
        self.docker("run", "--rm", "debian:oci", "cat", "/etc/debian_version", out=re.compile(r"^12\."))
        self.docker("rmi", "debian:oci")


class Save(Case):
    """Several images in one archive, which is docker-archive and OCI layout at once."""

    def setUp(self):
        super().setUp()
        self.made = {}
        for name in ("saved/one:1", "saved/two:1"):
            self.addCleanup(self.docker, "rmi", "-f", name, code=None)
            layer = registry.layer(name=name.encode())
            self.made[name] = self.docker("import", "-", name, stdin=layer).out.strip()
        self.docker("tag", "saved/one:1", "saved/one:2")
        self.addCleanup(self.docker, "rmi", "-f", "saved/one:2", code=None)
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = self.directory.name + "/saved.tar"
        self.docker("save", "-o", self.path, "saved/one", "saved/two:1")

    @once
    def test_platform(self):
        platform = lambda name: urllib.parse.quote(json.dumps({"os": "linux", "architecture": name}))
        one, other = platform(archive.ARCHITECTURE), platform("s390x")
        for query, status, text in (
                (f"v1.48/images/get?names=saved/one&platform={other}", 500, "no suitable export target found for platform linux/s390x"),
                (f"v1.51/images/get?names=saved/one&platform={one}&platform={other}", 400, "multiple platform parameters are not supported in this"),
                (f"v1.52/images/get?names=saved/one&platform={one}&platform={other}", 400, "multiple platforms not supported for this image store"),
                ("v1.48/images/get?names=saved/one&platform=linux", 400, "failed to parse platform: "),
                ("v1.48/images/get?names=saved/one&platform={}", 400, "both OS and Architecture must be provided"),
                (f"v1.47/images/get?names=saved/none&platform={other}", 404, "No such image: saved/none")):
            got, _, body = self.daemon.http("GET", "/" + query)
            self.equal((got, text in body["message"]), (status, True), f"{query}: {body}")
        here = "linux/" + archive.ARCHITECTURE
        self.docker("rmi", "-f", *self.made)
        self.daemon.moss("load", "-i", self.path, "--platform", "linux/s390x", out="")
        self.docker("image", "inspect", "saved/two:1", code=1)
        self.daemon.moss("load", "-i", self.path, "--platform", here, out=re.compile("Loaded image: saved/two:1"))
        self.daemon.moss("save", "-o", self.path, "--platform", here, "saved/two:1")
        self.daemon.moss("save", "-o", self.path, "--platform", "linux/s390x", "saved/two:1", code=1, err=re.compile("no suitable export target"))

    def test_both_forms(self):
        with archive.tarfile.open(self.path) as tar:
            names = tar.getnames()
            documents = {name: json.load(tar.extractfile(name))
                         for name in ("manifest.json", "index.json", "oci-layout", "repositories")}
        self.equal(len(names), len(set(names)), "entries, each once")
        listed = {item["Config"].replace("blobs/sha256/", "sha256:"): item["RepoTags"] for item in documents["manifest.json"]}
        self.equal(listed, {self.made["saved/one:1"]: ["saved/one:1", "saved/one:2"], self.made["saved/two:1"]: ["saved/two:1"]},
                   "images and tags of manifest.json")
        annotations = [one["annotations"]["io.containerd.image.name"] for one in documents["index.json"]["manifests"]]
        self.equal(annotations, [f"docker.io/saved/{name}" for name in ("one:1", "one:2", "two:1")], "names of index.json")
        self.equal(documents["oci-layout"], {"imageLayoutVersion": "1.0.0"}, "oci-layout")
        self.equal({name: sorted(tags) for name, tags in documents["repositories"].items()},
                   {"saved/one": ["1", "2"], "saved/two": ["1"]}, "repositories")

    def test_back_by_any_compression_and_order(self):
        with open(self.path, "rb") as file:
            plain = file.read()
        out = io.BytesIO()
        with archive.tarfile.open(self.path) as tar, archive.tarfile.open(fileobj=out, mode="w") as reversed_tar:
            for entry in reversed(tar.getmembers()):
                reversed_tar.addfile(entry, tar.extractfile(entry) if entry.isfile() else None)
        forms = {"plain": plain, "gzip": gzip.compress(plain, 1), "bzip2": bz2.compress(plain), "xz": lzma.compress(plain),
                 "reversed": out.getvalue(), "reversed xz": lzma.compress(out.getvalue())}
        for form, data in forms.items():
            with self.subTest(form):
                self.docker("rmi", "saved/one:1", "saved/one:2", "saved/two:1")
                loaded = self.docker("load", stdin=data).out
                self.equal(sorted(re.findall("Loaded image: (.*)", loaded)), ["saved/one:1", "saved/one:2", "saved/two:1"], "names")
                for name, identity in self.made.items():
                    self.equal(self.field(name, "{{.Id}}", "image"), identity, name)

    @once
    def test_event(self):
        told = self.docker("events", "--since", "1", "--until", f"{time.time():.6f}", "--filter", "event=save", "--format", "{{.Actor.ID}}")
        self.equal(sorted(told.out.split()[-2:]), sorted(self.made.values()), "the last images that were saved")

    @once
    def test_others_can_read_it(self):
        skopeo = need("skopeo")
        for source in (f"docker-archive:{self.path}:saved/two:1", f"oci-archive:{self.path}:2"):
            with tempfile.TemporaryDirectory() as top:
                done = run([skopeo, "copy", "-q", "--insecure-policy", source, "dir:" + top])
                self.equal(done.code, 0, f"{source}: {done}")


class Inspect(Case):
    def test_fields(self):
        got = json.loads(self.docker("image", "inspect", "debian:bookworm").out)[0]
        for field, expected in {"RepoTags": ["debian:bookworm"], "Os": "linux", "Architecture": archive.ARCHITECTURE,
                                "Created": archive.CREATED}.items():
            self.equal(got[field], expected, field)
        self.equal(len(got["RootFS"]["Layers"]), 3, "number of layers")
        self.equal(got["RootFS"]["Type"], "layers", "RootFS.Type")
        self.equal(got["Config"]["Cmd"], ["bash"], "Config.Cmd")
        self.equal(got["Size"] > 50_000_000, True, "Size over 50 MB")

    def test_id_is_that_of_the_config(self):
        with archive.tarfile.open(need_image("busybox.tar")) as tar:
            manifest = json.load(tar.extractfile("manifest.json"))
        self.equal(self.field("busybox", "{{.Id}}", "image"), "sha256:" + manifest[0]["Config"].removesuffix(".json"), "Id")

    def test_by_id_and_prefix(self):
        identity = self.field("busybox", "{{.Id}}", "image")
        for name in (identity, identity[7:], identity[7:19], "docker.io/library/busybox:latest", "busybox:latest"):
            with self.subTest(name):
                self.equal(self.field(name, "{{.Id}}", "image"), identity, "Id by " + name)

    def test_unknown(self):
        self.docker("image", "inspect", "nosuch", code=1, err=re.compile("No such image: nosuch(:latest)?"))


class List(Case):
    def setUp(self):
        super().setUp()
        self.docker("image", "inspect", "debian:bookworm")

    def test_list(self):
        self.docker("images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}", out=re.compile(r"^debian:bookworm \d+(\.\d+)?MB$", re.M))

    def test_by_name(self):
        self.docker("images", "--format", "{{.Repository}}", "debian", out="debian")

    def test_filters(self):
        self.docker("images", "--filter", "reference=busy*", "--filter", "label=form=latest", "--format", "{{.Repository}}:{{.Tag}}", out="busybox:latest")

    def test_digests_and_no_trunc(self):
        self.docker("images", "--no-trunc", "-q", "debian", out=re.compile("^sha256:[0-9a-f]{64}$", re.M))

    @once
    def test_tree(self):
        """As docker draws it, but for colours where no terminal is."""
        drawn = self.docker("images", "--tree", code=None)
        if drawn.code:
            self.skipTest("this docker draws no trees")
        self.moss("images", "--tree", out=re.sub("\x1b\\[[0-9]+m", "", drawn.out).strip())
        self.moss("images", "--tree", "-q", code=1, err="--quiet is not yet supported with --tree")

    def test_history(self):
        self.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", "busybox", out="ADD busybox /")
        self.equal(len(self.docker("history", "-q", "debian:bookworm").out.split()), 3, "lines of history")


class Tag(Case):
    def test_tag_and_untag(self):
        self.docker("tag", "busybox", "other/name:1")
        self.docker("run", "--rm", "other/name:1", "echo", "ok", out="ok")
        self.docker("rmi", "other/name:1", out="Untagged: other/name:1")
        self.docker("image", "inspect", "busybox")

    def test_registry_with_port(self):
        self.docker("tag", "busybox", "localhost:5000/a/b/c:x")
        self.docker("images", "--format", "{{.Repository}}:{{.Tag}}", out=re.compile("^localhost:5000/a/b/c:x$", re.M))
        self.docker("rmi", "localhost:5000/a/b/c:x")

    def test_invalid(self):
        self.docker("tag", "busybox", "UPPER:x", code=1, err=re.compile("(?i)invalid reference format|must be lowercase"))

    def test_unknown(self):
        self.docker("tag", "nosuch", "x:1", code=1, err=re.compile("No such image: nosuch(:latest)?"))

    def test_moves(self):
        self.docker("tag", "busybox", "moving:1")
        self.docker("tag", "debian:bookworm", "moving:1")
        self.equal(self.field("moving:1", "{{.Id}}", "image"), self.field("debian:bookworm", "{{.Id}}", "image"), "Id")
        self.docker("rmi", "moving:1")


class Remove(Case):
    def small(self, tag, *layers):
        """Loads a small image of its own."""
        work = self.daemon.top + "/small-" + self.id().rsplit(".", 1)[1]
        os.makedirs(work, exist_ok=True)
        layers = layers or (archive.Layer().file("only", self.id()),)
        paths = [layer.write(f"{work}/{n}.tar") for n, layer in enumerate(layers)]
        path = archive.write_docker_archive(work + "/image.tar", [archive.Image([tag] if tag else None, paths, Cmd=["/x"])])
        return self.docker("load", "-i", path)

    def test_last_name(self):
        self.small("small:1")
        self.docker("rmi", "small:1", out=re.compile(r"(?s)Untagged: small:1\n.*Deleted: sha256:[0-9a-f]{64}"))
        self.docker("image", "inspect", "small:1", code=1)

    def test_without_a_name(self):
        identity = re.search(r"Loaded image ID: (sha256:[0-9a-f]{64})", self.small(None).out)
        if not identity:
            self.fail("$ docker load\nexpected: Loaded image ID: sha256:…\ngot: " + self.small(None).out)
        self.docker("rmi", identity[1])

    def test_in_use_by_stopped(self):
        self.small("small:2")
        name = self.name()
        self.docker("create", "--name", name, "small:2")
        self.docker("rmi", "small:2", code=1, err=re.compile(
            "conflict: unable to .*small:2.* - container [0-9a-f]{12} is using its referenced image [0-9a-f]{12}"))
        self.docker("rm", name)
        self.docker("rmi", "small:2")

    def test_force_leaves_a_stopped_container_its_files(self):
        work = self.daemon.top + "/forced"
        os.makedirs(work)
        with open(work + "/layer.tar", "wb") as tar:
            tar.write(busybox_layer())
        with archive.tarfile.open(work + "/layer.tar", "a") as tar:
            tar.addfile(archive.tarfile.TarInfo("only-here"))
        self.docker("import", work + "/layer.tar", "forced:1")
        name = self.name()
        self.docker("create", "--name", name, "forced:1", "ls", "/only-here")
        self.docker("rmi", "-f", "forced:1", out=re.compile("Deleted: sha256:"))
        self.docker("image", "inspect", "forced:1", code=1)
        # Nor does a collection take them.
        self.docker("image", "prune", "-f")
        self.docker("start", "-a", name, out="/only-here")
        layers = self.daemon.data_home + "/moss/layers"
        before = len(os.listdir(layers))
        self.docker("rm", name)
        self.equal(len(os.listdir(layers)), before - 1, "layers")

    def test_by_id_with_two_names(self):
        self.small("small:3")
        self.docker("tag", "small:3", "small:4")
        identity = self.field("small:3", "{{.Id}}", "image")[7:19]
        self.docker("rmi", "-f", identity)
        self.docker("image", "inspect", "small:4", code=1)

    def test_running_container_protects(self):
        self.run_detached()
        identity = self.field("busybox:latest", "{{.Id}}", "image")[7:19]
        self.docker("rmi", identity, code=1, err=re.compile("conflict: unable to delete [0-9a-f]{12} "))

    def test_unknown(self):
        self.docker("rmi", "nosuch", code=1, err=re.compile("No such image: nosuch(:latest)?"))

    def test_prune(self):
        self.small(None)
        self.docker("image", "prune", "-f", out=re.compile("Total reclaimed space|deleted"))

    def test_loaded_again_under_the_same_name(self):
        self.small("again:1", archive.Layer().file("first", "1"))
        first = self.field("again:1", "{{.Id}}", "image")
        self.small("again:1", archive.Layer().file("second", "2"))
        self.equal(self.field("again:1", "{{.Id}}", "image") == first, False, "still the first image")
        self.docker("rmi", "again:1")
        self.docker("rmi", first)


@once
class Import(Case):
    def test_import(self):
        layer = busybox_layer()
        self.docker("import", "-c", "CMD [\"echo\", \"imported\"]", "-c", "ENV a=b\nLABEL c=$a", "-m", "a message", "-", "imported:1",
                    stdin=layer, out=re.compile("^sha256:[0-9a-f]{64}$", re.M))
        self.docker("run", "--rm", "imported:1", out="imported")
        self.docker("run", "--rm", "imported:1", "sh", "-c", "echo $a", out="b")
        self.equal(self.docker("image", "inspect", "--format", "{{.Config.Labels.c}}", "imported:1").out.strip(), "b", "label")
        self.docker("import", "--platform", "linux/s390x", "-", "imported:3", stdin=layer)
        warning = (r"The requested image's platform \(linux/s390x\) does not match the detected host platform "
                   r"\(linux/(amd64/v[1-4]|arm64/v8|[^/]*)\) and no specific platform was requested")
        self.docker("create", "--name", "of-another", "imported:3", "true", err=re.compile(warning))
        self.docker("rm", "of-another")
        self.docker("rmi", "imported:3")
        self.docker("import", "-c", "RUN true", "-", "imported:2", stdin=layer, code=1, err=re.compile("RUN is not a valid change command"))
        self.equal(self.docker("history", "--format", "{{.Comment}}", "imported:1").out.strip(), "a message", "comment")
        self.docker("rmi", "imported:1")

    def test_from_the_web(self):
        layer, short = busybox_layer(), 1000

        class Files(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/moved":
                    self.send_response(302)
                    self.send_header("Location", "/layer.tar")
                elif self.path in ("/layer.tar", "/broken"):
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(layer)))
                else:
                    self.send_response(404)
                self.end_headers()
                if self.path == "/layer.tar":
                    self.wfile.write(layer)
                elif self.path == "/broken":
                    self.wfile.write(layer[:short])

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        try:
            self.docker("import", url + "moved", "web:1", out=re.compile(f"Downloading from {url}moved.*^sha256:[0-9a-f]{{64}}$", re.M | re.S))
            self.docker("run", "--rm", "web:1", "echo", "from the web", out="from the web")
            self.docker("import", url + "none", "web:2", code=1, err=re.compile(f"failed to GET {url}none with status 404 Not Found"))
            self.docker("import", url + "broken", "web:2", code=1, err=re.compile("EOF"))
            status, _, answer = self.daemon.http("POST", "/images/create?fromSrc=ftp://127.0.0.1/a&repo=web")
            self.equal((status, answer["message"]), (400, 'Get "ftp://127.0.0.1/a": unsupported protocol scheme "ftp"'), "answer")
            self.docker("image", "inspect", "web:2", code=1)
            self.docker("rmi", "web:1")
        finally:
            server.shutdown()
            server.server_close()


class Contents(Case):
    """What scripts/images put in the odd layers of debian:bookworm must come out of a container."""

    def odd(self, shell, out):
        self.docker("run", "--rm", "-w", "/odd", "debian:bookworm", "sh", "-c", shell, out=out)

    def test_whiteout(self):
        self.odd("ls -d removed 2>&1 | grep -c 'No such'", "1")

    def test_opaque(self):
        self.odd("ls opaque", "above")

    def test_no_whiteout_is_seen(self):
        self.odd("find / -xdev -name '.wh.*' | wc -l", "0")

    def test_kinds_change(self):
        self.odd("cat becomes-file; ls becomes-dir", "a file now\ninside")

    def test_upper_wins(self):
        self.odd("cat changed absolute", "second\nsecond")

    def test_hardlink(self):
        self.odd("test linked -ef original && stat -c %h linked", "2")

    def test_symlinks(self):
        self.odd("readlink absolute dangling", "/odd/changed\n/nowhere/at/all")

    def test_modes(self):
        self.odd("stat -c %a setuid setgid sticky mode-0000", "4755\n2755\n1777\n0")

    def test_owner(self):
        self.odd("stat -c %u:%g owner-app", "1234:4321")

    def test_owner_beyond_the_range(self):
        self.odd("stat -c %u:%g owner-beyond", "65534:65534")

    def test_nanoseconds(self):
        self.odd("stat -c %.9Y nanoseconds", "1700000000.123456789")

    def test_names(self):
        self.odd("cat nnnnnnnnnn* d*rer", "a name of 200 bytes\nnot ASCII")

    def test_fifo(self):
        self.odd("test -p fifo && echo fifo", "fifo")

    def test_device_left_out(self):
        self.odd("test -e device || echo none", "none")

    def test_file_capability(self):
        self.odd("getcap capable", re.compile(r"capable cap_net_raw[=+]ep|capable cap_net_raw=p|capable cap_net_raw"))

    def test_user_xattr(self):
        self.odd("getfattr --only-values -n user.colour xattr", "green")
