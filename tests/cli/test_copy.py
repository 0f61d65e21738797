"""cp in both directions, diff, export, commit."""

import base64
import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
import urllib.parse

from harness import Case, host_case, once


class Copy(Case):
    def setUp(self):
        super().setUp()
        self.place = tempfile.mkdtemp(prefix="mt.cp.", dir="/tmp")
        self.addCleanup(subprocess.run, ["rm", "-rf", self.place], check=False)

    def write(self, name, text, mode=0o644):
        path = os.path.join(self.place, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def read(self, name):
        with open(os.path.join(self.place, name), encoding="utf-8") as file:
            return file.read()

    def members(self, data):
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return {member.name: member for member in archive}

    def archive(self, name, path):
        status, headers, data = self.daemon.http("GET", f"/containers/{name}/archive?path={urllib.parse.quote(path)}")
        self.equal(status, 200, f"status of {path}: {data}")
        return json.loads(base64.b64decode(headers["X-Docker-Container-Path-Stat"])), self.members(data)

    def test_running_both_ways(self):
        name = self.run_detached()
        self.write("tree/a/file", "content", 0o750)
        os.symlink("a/file", self.place + "/tree/link")
        self.docker("cp", self.place + "/tree", f"{name}:/tmp")
        self.docker("exec", name, "sh", "-c", "cat /tmp/tree/link; stat -c %a /tmp/tree/a/file", out="content750")
        self.docker("exec", name, "sh", "-c", "echo changed > /tmp/tree/a/file; ln /tmp/tree/a/file /tmp/tree/hard")
        self.docker("cp", f"{name}:/tmp/tree/.", self.place + "/back")
        self.equal((self.read("back/a/file"), self.read("back/hard"), os.readlink(self.place + "/back/link")),
                   ("changed\n", "changed\n", "a/file"), "what came back")
        self.docker("cp", f"{name}:/nosuch", self.place, code=1, err=re.compile("Could not find the file /nosuch in container|No such container:path"))
        self.docker("cp", self.place + "/tree/a/file", f"{name}:/nosuch/", code=1, err=re.compile("(?i)no such directory|could not find"))
        self.moss("cp", self.place + "/tree", f"{name}:/tmp/by-moss")
        self.moss("cp", f"{name}:/tmp/by-moss", self.place + "/moss")
        self.moss("cp", f"{name}:/tmp/by-moss/a/file", self.place + "/moss/renamed")
        self.equal((self.read("moss/a/file"), self.read("moss/renamed")), ("content", "content"), "by moss")

    def test_created_and_stopped(self):
        name = self.name()
        volume = name + "-v"
        self.addCleanup(self.docker, "volume", "rm", "-f", volume, code=None)
        self.docker("create", "--name", name, "-v", volume + ":/vol", "-v", self.place + ":/host:ro", "busybox",
                    "sh", "-c", "cat /in /vol/in; echo out > /out; rm /bin/vi")
        self.write("in", "hello\n")
        self.docker("cp", self.place + "/in", f"{name}:/in")
        self.docker("cp", self.place + "/in", f"{name}:/vol/in")
        self.docker("cp", self.place + "/in", f"{name}:/host/in2", code=1, err=re.compile("mounted volume is marked read-only"))
        self.docker("start", "-a", name, out="hello\nhello")
        self.docker("cp", f"{name}:/out", self.place)
        self.docker("cp", f"{name}:/vol/in", self.place + "/vol")
        self.docker("cp", f"{name}:/etc/hostname", self.place + "/hostname")
        self.equal(self.read("hostname"), self.field(name, "{{.Config.Hostname}}") + "\n", "/etc/hostname of its last run")
        self.docker("cp", f"{name}:/host/in", self.place + "/host")
        self.equal((self.read("out"), self.read("vol"), self.read("host")), ("out\n", "hello\n", "hello\n"), "files")
        self.docker("cp", f"{name}:/bin/vi", self.place, code=1, err=re.compile("Could not find the file|No such container:path"))
        self.docker("start", "-a", name, out="hello\nhello", code=None)

    def test_streams_owners_and_refusals(self):
        name = self.name()
        self.docker("create", "--name", name, "--read-only", "-u", "7:8", "busybox", "true")
        self.write("f", "x")
        self.docker("cp", self.place + "/f", f"{name}:/f", code=1, err=re.compile("container rootfs is marked read-only"))
        other = self.name()
        self.docker("create", "--name", other, "-u", "7:8", "busybox", "true")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            member = tarfile.TarInfo("owned")
            member.uid, member.gid, member.size = 1234, 567, 1
            archive.addfile(member, io.BytesIO(b"x"))
        self.docker("cp", "-", f"{other}:/tmp", stdin=packed.getvalue())
        stat, members = self.archive(other, "/tmp/owned")
        self.equal((members["owned"].uid, members["owned"].gid, stat["size"]), (1234, 567, 1), "owner")
        self.docker("cp", "-a", "-", f"{other}:/tmp", stdin=packed.getvalue())
        _, members = self.archive(other, "/tmp/owned")
        self.equal((members["owned"].uid, members["owned"].gid), (7, 8), "owner")
        for path, status in [("/nosuch", 404), ("/etc/passwd", 400)]:
            got, _, body = self.daemon.http("PUT", f"/containers/{other}/archive?path={path}", packed.getvalue(),
                                            {"Content-Type": "application/x-tar"})
            self.equal(got, status, f"{path}: {body}")
        self.equal(self.daemon.http("GET", f"/containers/{other}/archive")[2],
                   {"message": "bad parameter: path cannot be empty"}, "answer")

    @host_case
    def test_links_stay_inside(self):
        name = self.run_detached()
        secret = self.write("secret", "of the host")
        self.docker("exec", name, "sh", "-c", f"ln -s {secret} /out; ln -s / /root-link; ln -s ../../../../../../etc /up; "
                                              "ln -s /etc/hostname /name; ln -s /proc/1/root /magic")
        stat, members = self.archive(name, "/out")
        self.equal((members["out"].issym(), stat["linkTarget"]), (True, secret), "a link")
        self.docker("cp", "-L", f"{name}:/out", self.place + "/got", code=1)
        _, members = self.archive(name, "/up/hostname")
        self.equal(list(members), ["hostname"], "what is archived")
        self.docker("cp", "-L", f"{name}:/name", self.place + "/name")
        self.equal(self.read("name"), self.docker("exec", name, "cat", "/etc/hostname").out, "host name")
        self.equal(self.daemon.http("GET", f"/containers/{name}/archive?path=/magic/etc/passwd")[0], 500, "status")
        # What an archive's own links lead to is the container's, as with dockerd.
        evil = io.BytesIO()
        with tarfile.open(fileobj=evil, mode="w") as archive:
            link = tarfile.TarInfo("l")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc"
            archive.addfile(link)
            member = tarfile.TarInfo("l/evil")
            archive.addfile(member)
        got, _, _ = self.daemon.http("PUT", f"/containers/{name}/archive?path=/tmp", evil.getvalue())
        self.equal(got, 200, "status")
        self.docker("exec", name, "test", "-f", "/etc/evil")
        self.equal(os.path.lexists("/etc/evil"), False, "the host's /etc/evil")

    def test_swapped_links_reach_nothing_of_the_host(self):
        name = self.run_detached(command=("sh", "-c", "mkdir /d /real; echo inside > /real/f; "
                                          f"while :; do ln -sfn {self.place} /d/x; ln -sfn /real /d/x; done"))
        self.write("f", "of the host")
        self.write("new/made", "x")
        for _ in range(10):
            got = self.docker("cp", f"{name}:/d/x/f", "-", code=None).out
            if "of the host" in got:
                self.fail("a file of the host was read")
            self.docker("cp", self.place + "/new/made", f"{name}:/d/x/made", code=None)
        self.equal(sorted(os.listdir(self.place)), ["f", "new"], "files of the host")

    @once
    def test_docker_py(self):
        name = self.run_detached()
        program = f"""
import docker, io, tarfile
client = docker.from_env()
box = client.containers.get({name!r})
data = io.BytesIO()
with tarfile.open(fileobj=data, mode="w") as archive:
    member = tarfile.TarInfo("new/file"); member.size = 5
    archive.addfile(member, io.BytesIO(b"hello"))
assert box.put_archive("/tmp", data.getvalue())
stream, stat = box.get_archive("/tmp/new")
back = tarfile.open(fileobj=io.BytesIO(b"".join(stream)))
assert back.extractfile("new/file").read() == b"hello", back.getnames()
assert stat["name"] == "new", stat
assert {{"Kind": 1, "Path": "/tmp/new"}} in box.diff(), box.diff()
image = box.commit("py-commit", "one", changes=["CMD [\\"cat\\", \\"/tmp/new/file\\"]"])
try:
    assert client.containers.run(image, remove=True) == b"hello"
finally:
    client.images.remove(image.id)
box.pause(); box.unpause(); box.update(mem_limit="64m", memswap_limit="64m")
names = tarfile.open(fileobj=io.BytesIO(b"".join(box.export()))).getnames()
assert "tmp/new/file" in names and "bin/sh" in names
"""
        done = subprocess.run([os.environ.get("MOSS_TEST_PYTHON", "python3"), "-c", program], env=self.daemon.env,
                              capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            self.fail(done.stderr)


class Changes(Case):
    def test_diff_export_commit(self):
        name = self.name()
        self.docker("run", "--name", name, "busybox", "sh", "-c",
                    "rm /bin/vi; echo x > /etc/passwd; mkdir -p /new/deep; rm -r /home; ln -s a /new/link; chmod 4755 /new")
        changes = self.docker("diff", name).out.splitlines()
        for line in ("C /etc", "C /etc/passwd", "A /new", "A /new/deep", "A /new/link", "C /bin", "D /bin/vi", "D /home"):
            if line not in changes:
                self.fail(f"$ docker diff\nexpected: {line}\ngot: {changes}")
        exported = subprocess.run([self.daemon_docker(), "export", name], env=self.daemon.env, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(exported)) as archive:
            members = {member.name: member for member in archive}
        self.equal(("new/deep" in members, "bin/vi" in members, "home" in members, "bin/sh" in members),
                   (True, False, False, True), "exported")
        tag = name.replace("_", "-") + ":made"
        self.docker("commit", "-a", "me", "-m", "why", "-c", "ENV A=b", "-c", 'CMD ["sh", "-c", "echo $A; ls /new; cat /etc/passwd"]',
                    name, tag, out=re.compile("^sha256:[0-9a-f]{64}$", re.M))
        self.addCleanup(self.docker, "rmi", "-f", tag, code=None)
        self.docker("run", "--rm", tag, out="b\ndeep\nlink\nx")
        self.docker("run", "--rm", tag, "sh", "-c", "test ! -e /bin/vi && test ! -e /home && stat -c %a /new", out="4755")
        image = json.loads(self.docker("inspect", tag).out)[0]
        self.equal((image["Author"], image["Comment"], len(image["RootFS"]["Layers"])), ("me", "why", 2), "image")
        self.docker("history", "--no-trunc", tag, out=re.compile("why"))
        self.parents(tag, image)

    def parents(self, tag, image):
        """Docker's rules of images that were committed from others, as its classic builder has them too."""
        base = self.field("busybox", "{{.Id}}", "image")
        self.equal(image["Parent"], base, "Parent")
        ids = self.docker("history", "--no-trunc", "--format", "{{.ID}}", tag).out.split()
        self.equal(ids[:2], [image["Id"], base], "ids in the history")
        self.docker("rmi", "-f", base, code=1, err=re.compile(r"unable to delete [0-9a-f]{12} \(cannot be forced\) - image has dependent child images"))
        # A container of it makes another, and the one in between loses its name.
        name, top = self.name(), tag.replace(":made", ":top")
        self.docker("create", "--name", name, tag, "x")
        made = self.docker("commit", name, top).out.strip()
        self.docker("rm", name)
        self.docker("rmi", tag, out="Untagged: " + tag)
        shown = lambda *flags: self.docker("images", "-q", "--no-trunc", *flags).out.split()
        self.equal([image["Id"] in shown(*flags) for flags in ((), ("-a",), ("-f", "dangling=true"))], [False, True, False], "whether it is shown")
        self.docker("image", "prune", "-f")
        self.docker("image", "inspect", image["Id"])
        self.docker("rmi", top, out=re.compile(f"Deleted: {made}\n(.*\n)*Deleted: {image['Id']}\n"))
        self.docker("image", "inspect", "busybox")

    def daemon_docker(self):
        from harness import _state
        return _state["docker"]

    def test_commit_running(self):
        name = self.run_detached(command=("sh", "-c", "echo here > /f; sleep 1000"))
        tag = name.replace("_", "-")
        self.docker("commit", name, tag)
        self.addCleanup(self.docker, "rmi", "-f", tag, code=None)
        self.equal(self.field(name, "{{.State.Status}}"), "running", "state")
        self.docker("run", "--rm", tag, "cat", "/f", out="here")
        self.moss("diff", name, out=re.compile("^A /f$", re.M))


class Bound(Case):
    def test_a_volume_that_is_a_directory_of_the_host(self):
        place = tempfile.mkdtemp(prefix="mt.vol.", dir="/tmp")
        self.addCleanup(subprocess.run, ["rm", "-rf", place], check=False)
        volume = "bound-volume"
        self.docker("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=" + place, volume, out=volume)
        self.addCleanup(self.docker, "volume", "rm", "-f", volume, code=None)
        self.in_container("-v", volume + ":/v", shell="echo here > /v/f")
        with open(place + "/f", encoding="utf-8") as file:
            self.equal(file.read(), "here\n", "the file")
        self.docker("volume", "create", "-o", "type=none", "other-volume", code=1, err=re.compile('missing required option: "device"'))
