"""Binds and volumes: `-v`, `--mount`, named, anonymous, copied up, read-only."""

import os
import re

from harness import Case, host_case


class Binds(Case):
    def directory(self):
        path = f"{self.daemon.top}/bind-{self.id().rsplit('.', 1)[1]}"
        os.makedirs(path, exist_ok=True)
        return path

    @host_case
    def test_both_ways(self):
        here = self.directory()
        with open(here + "/in", "w", encoding="utf-8") as file:
            file.write("from outside\n")
        self.in_container("-v", here + ":/x", shell="cat /x/in; echo inside > /x/out", out="from outside")
        with open(here + "/out", encoding="utf-8") as file:
            self.equal(file.read(), "inside\n", "what the container wrote")
        self.equal(os.stat(here + "/out").st_uid, os.getuid(), "owner of what the container's root wrote")

    @host_case
    def test_read_only(self):
        self.in_container("-v", self.directory() + ":/x:ro", shell="touch /x/y", code=1, err=re.compile("Read-only file system"))

    def test_file(self):
        path = self.directory() + "/file"
        with open(path, "w", encoding="utf-8") as file:
            file.write("one file\n")
        self.in_container("-v", path + ":/etc/one", shell="cat /etc/one", out="one file")

    def test_missing_source_is_made(self):
        path = self.directory() + "/made"
        self.in_container("-v", path + ":/x", shell="test -d /x && echo ok", out="ok")
        self.equal(os.path.isdir(path), True, "the source directory made")

    def test_mount_missing_source(self):
        self.docker("run", "--rm", "--mount", "type=bind,source=/no/such,target=/x", "busybox", "true", code=125,
                    err=re.compile('invalid mount config for type "bind": bind source path does not exist: /no/such'))

    def test_mount_read_only(self):
        self.in_container("--mount", f"type=bind,source={self.directory()},target=/x,readonly", shell="touch /x/y", code=1,
                          err=re.compile("Read-only"))

    def test_relative_target(self):
        self.docker("run", "--rm", "-v", self.directory() + ":x", "busybox", "true", code=125,
                    err=re.compile("(?i)invalid volume specification|mount path must be absolute|invalid mount path"))

    @host_case
    def test_target_through_a_symlink_stays_inside(self):
        self.docker("run", "--rm", "-v", self.directory() + ":/odd/dangling", "debian:bookworm", "ls", "-d", "/nowhere/at/all", out="/nowhere/at/all")
        self.equal(os.path.exists("/nowhere"), False, "/nowhere made on the host")

    def test_inspect(self):
        here = self.directory()
        name = self.run_detached("-v", here + ":/x:ro")
        mount = self.daemon.inspect(name)["Mounts"][0]
        self.equal({key: mount[key] for key in ("Type", "Source", "Destination", "RW", "Propagation")},
                   {"Type": "bind", "Source": here, "Destination": "/x", "RW": False, "Propagation": "rprivate"}, "Mounts[0]")


class Volumes(Case):
    def volume(self):
        name = "v-" + self.id().rsplit(".", 1)[1].lower().replace("_", "-")
        self.addCleanup(self.docker, "volume", "rm", "-f", name, code=None)
        return name

    def test_named_is_kept(self):
        volume = self.volume()
        self.in_container("-v", volume + ":/x", shell="echo kept > /x/y")
        self.in_container("-v", volume + ":/x", shell="cat /x/y", out="kept")

    def test_copies_the_image_up(self):
        self.in_container("-v", self.volume() + ":/home", shell="ls -ld /home/app | awk '{print $3}'", out="app")

    def test_nocopy(self):
        self.in_container("-v", self.volume() + ":/home:nocopy", shell="ls /home | wc -l", out="0")

    def test_anonymous_goes_with_rm(self):
        name = self.run_detached("-v", "/data")
        volume = self.field(name, "{{(index .Mounts 0).Name}}")
        self.docker("volume", "inspect", volume)
        self.docker("rm", "-f", "-v", name)
        self.docker("volume", "inspect", volume, code=1)

    def test_anonymous_of_run_rm(self):
        before = set(self.docker("volume", "ls", "-q").out.split())
        self.in_container("-v", "/data", shell="touch /data/x")
        self.equal(set(self.docker("volume", "ls", "-q").out.split()) - before, set(), "volumes left by run --rm")

    def test_in_use(self):
        volume = self.volume()
        self.run_detached("-v", volume + ":/x")
        self.docker("volume", "rm", volume, code=1, err=re.compile(f"remove {volume}: volume is in use - \\[[0-9a-f]{{64}}\\]"))

    def test_create_inspect_list_remove(self):
        volume = self.volume()
        self.docker("volume", "create", "--label", "k=v", volume, out=volume)
        self.equal(self.field(volume, "{{.Driver}} {{.Scope}} {{.Labels.k}}", "volume"), "local local v", "volume inspect")
        self.docker("volume", "ls", "-q", "--filter", "label=k=v", out=volume)
        self.docker("volume", "rm", volume, out=volume)
        self.docker("volume", "inspect", volume, code=1, err=re.compile("(?i)no such volume"))

    def test_volumes_from(self):
        name = self.run_detached("-v", "/data", command=("sh", "-c", "echo from > /data/x; sleep 1000"))
        self.in_container("--volumes-from", name, shell="for i in 1 2 3; do cat /data/x && break; sleep 0.2; done", out="from")

    def test_user_of_a_volume(self):
        self.in_container("--user", "app", "-v", self.volume() + ":/home/app", shell="touch /home/app/x && echo ok", out="ok")

    def run_by_api(self, body, out=None, fails=None, keep=False):
        """Creates a container, runs it to its end, and compares its output; or how its start fails. Its id."""
        status, _, made = self.daemon.http("POST", "/v1.48/containers/create", body)
        self.equal(status, 201, f"create: {made}")
        identity = made["Id"]
        self.addCleanup(self.docker, "rm", "-f", "-v", identity, code=None)
        status, _, answer = self.daemon.http("POST", f"/v1.48/containers/{identity}/start")
        if fails:
            self.equal((status, answer["message"].startswith(fails[1])), (fails[0], True), f"start: {answer}")
            return identity
        self.equal(status, 204, f"start: {answer}")
        self.docker("wait", identity)
        got = self.docker("logs", identity)
        output = got.out + got.err
        right = out.search(output) if isinstance(out, re.Pattern) else out == output
        self.equal(bool(right), True, f"output {output!r} for {out!r}")
        if not keep:
            self.docker("rm", "-f", identity)
        return identity

    def test_part_of_a_volume(self):
        volume = self.volume()
        self.in_container("-v", volume + ":/v", shell="mkdir -p /v/a/b /v/fresh; echo in > /v/a/b/f; ln -s a/b /v/good; ln -s / /v/bad")

        def run(path, target="/x", shell="cat /x/f", **options):
            mount = {"Type": "volume", "Source": volume, "Target": target, "VolumeOptions": {"Subpath": path}}
            return self.run_by_api({"Image": "busybox", "Cmd": ["sh", "-c", shell], "HostConfig": {"Mounts": [mount]}}, **options)
        run("a/b", out="in\n")
        run("good", out="in\n")
        run("a/b/f", target="/etc/one", shell="cat /etc/one", out="in\n")
        run("nosuch", fails=(404, "cannot access path "))
        run("bad", fails=(400, "path concatenation escapes the base directory"))
        # What the image has there fills the part, too.
        run("fresh", target="/home", shell="ls -d /home/app", out="/home/app\n")

    @host_case
    def test_image_as_a_mount(self):
        tag = "moss-test-mounted"
        self.addCleanup(self.docker, "rmi", "-f", tag, code=None)
        name = self.name()
        self.docker("run", "--name", name, "busybox", "sh", "-c", "mkdir /made; echo content > /made/file; rm /bin/vi; ln -s / /made/out")
        self.docker("commit", name, tag)
        mount = {"Type": "image", "Source": tag, "Target": "/image"}
        body = {"Image": "busybox", "HostConfig": {"Mounts": [mount]}}
        self.run_by_api({**body, "Cmd": ["sh", "-c", "cat /image/made/file; test -e /image/bin/vi; echo $?; touch /image/x"]},
                        out=re.compile(r"^content\n1\n.*Read-only file system"))
        mount["ImageOptions"] = {"Subpath": "made"}
        identity = self.run_by_api({**body, "Cmd": ["cat", "/image/file"]}, out="content\n", keep=True)
        shown = self.daemon.inspect(identity)["Mounts"][0]
        self.equal((shown["Type"], shown["Name"], shown["RW"]), ("image", tag, False), "the mount shown")
        # It is used as the container's own image is, and outlives its name.
        self.docker("rmi", tag, code=1, err=re.compile("is using its referenced image"))
        self.docker("rmi", "-f", tag)
        self.docker("start", "-a", identity, out="content")
        self.docker("cp", identity + ":/image/file", "-", out=re.compile("content"))
        mount["ImageOptions"] = {"Subpath": "made/out"}
        mount["Source"] = "nosuch"
        status, _, answer = self.daemon.http("POST", "/v1.48/containers/create", {**body, "Cmd": ["true"]})
        self.equal((status, answer["message"]), (404, "No such image: nosuch:latest"), "an image that is not there")

    @host_case
    def test_volume_of_memory(self):
        volume = self.volume()
        self.docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=7", volume)
        name = self.run_detached("-v", volume + ":/m", command=("sh", "-c", "echo shared > /m/f; sleep 1000"))
        show = "for i in $(seq 50); do cat /m/f && break; sleep 0.1; done; df -k /m | tail -1 | awk '{print $2}'; stat -c %u /m"
        self.in_container("-v", volume + ":/m", shell=show, out="shared\n1024\n7")
        # Gone with the last container that has it.
        self.docker("rm", "-f", name)
        self.in_container("-v", volume + ":/m", shell="ls /m | wc -l", out="0")
        self.equal(self.daemon.leaks().code, 0, "system check")

    def test_volume_that_cannot_be_mounted(self):
        volume = self.volume()
        self.docker("volume", "create", "-o", "type=nfs", "-o", "device=:/x", "-o", "o=addr=127.0.0.1", volume)
        self.docker("run", "--rm", "-v", volume + ":/m", "busybox", "true", code=125,
                    err=re.compile("error while mounting volume '.*/_data': failed to mount local volume: mount :/x:.*: (operation not permitted|no such device)"))
