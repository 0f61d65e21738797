"""Binds and volumes: `-v`, `--mount`, named, anonymous, copied up, read-only."""

import os
import re

from harness import Case


class Binds(Case):
    def directory(self):
        path = f"{self.daemon.top}/bind-{self.id().rsplit('.', 1)[1]}"
        os.makedirs(path, exist_ok=True)
        return path

    def test_both_ways(self):
        here = self.directory()
        with open(here + "/in", "w", encoding="utf-8") as file:
            file.write("from outside\n")
        self.in_container("-v", here + ":/x", shell="cat /x/in; echo inside > /x/out", out="from outside")
        with open(here + "/out", encoding="utf-8") as file:
            self.equal(file.read(), "inside\n", "what the container wrote")
        self.equal(os.stat(here + "/out").st_uid, os.getuid(), "owner of what the container's root wrote")

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
