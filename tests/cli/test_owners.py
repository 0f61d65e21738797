"""Whose files are whose: the user's id mapped to one inside, by label, API, flag and daemon.json."""

import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
import unittest

from harness import Case, Daemon, check, eventually, once

KEEP = "keep-id:uid=1000,gid=1000"
LABEL = ("--label", "moss.userns=" + KEEP)
# Owners of the image's own and of what is made for a container.
LOOK = "stat -c %u:%g / /etc/passwd /etc/hosts /dev/pts/ptmx /tmp; id -u; id -g"
OWN = ["0:0"] * 5


@once
class KeepId(Case):
    def setUp(self):
        super().setUp()
        if not os.path.exists("/dev/fuse"):
            self.skipTest("no /dev/fuse")
        ids = self.docker("run", "--rm", "busybox", "awk", "{n += $3} END {print n}", "/proc/self/uid_map").out
        if int(ids) < 2:
            self.skipTest("one id is mapped")
        self.place = tempfile.mkdtemp(prefix="mt.own.", dir="/tmp")
        self.addCleanup(subprocess.run, ["unshare", "--user", "--map-root-user", "--map-auto", "rm", "-rf", self.place], check=False)
        self.me = (os.getuid(), os.getgid())

    def owner(self, name):
        found = os.lstat(os.path.join(self.place, name))
        return found.st_uid, found.st_gid

    def create(self, status=201, **body):
        name = self.name()
        body = {"Image": "busybox", "Cmd": ["sleep", "1000"], **body}
        got, _, answer = self.daemon.http("POST", f"/containers/create?name={name}", body)
        self.equal(got, status, f"status of {body}: {answer}")
        return name if status == 201 else answer["message"]

    def members(self, data):
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return {member.name.strip("/"): (member.uid, member.gid) for member in archive}

    def archived(self, path):
        status, _, data = self.daemon.http("GET", path)
        self.equal(status, 200, path)
        return self.members(data)

    def test_label(self):
        mine = ("-v", self.place + ":/p")
        look = self.docker("run", "--rm", *LABEL, *mine, "busybox", "sh", "-c",
                           LOOK + "; stat -c %u:%g /p; echo > /p/user; mkdir /tmp/d; stat -c %u:%g /tmp/d")
        self.equal(look.out.split(), [*OWN, "1000", "1000", "1000:1000", "1000:1000"], "owners")
        self.equal(self.owner("user"), self.me, "owner on the host")
        self.docker("run", "--rm", *LABEL, *mine, "-u", "0", "busybox", "sh", "-c",
                    "stat -c %u /p/user; echo > /p/root; chown 1000:7 /p/root; id -u; chown 3:1000 /etc/passwd; stat -c %u:%g /etc/passwd",
                    out="1000\n0\n3:1000")
        self.equal((self.owner("root")[0], self.owner("root")[1] == self.me[1]), (self.me[0], False), "owner on the host")
        # Another map of the same layers at the same time, and the default one.
        self.docker("run", "--rm", "--label", "moss.userns=keep-id", *mine, "busybox", "sh", "-c", "stat -c %u /p/user /etc/passwd; id -u; id -g",
                    out=f"{self.me[0]}\n0\n{self.me[0]}\n{self.me[1]}")
        self.docker("run", "--rm", "--userns", "host", *LABEL, *mine, "busybox", "stat", "-c", "%u", "/p/user", "/etc/passwd", out="0\n0")

    def test_whole_life(self):
        self.daemon = Daemon()
        self.addCleanup(lambda: check(self.daemon.close()))
        self.daemon.load("busybox.tar")
        volume = self.name()
        self.addCleanup(self.docker, "volume", "rm", "-f", volume, code=None)
        name = self.create(HostConfig={"UsernsMode": KEEP, "Binds": [volume + ":/home", self.place + ":/p"]},
                           Healthcheck={"Test": ["CMD-SHELL", "id -u > /p/health"], "Interval": 10**9, "Timeout": 10**10})
        self.equal(self.field(name, "{{.HostConfig.UsernsMode}} {{.GraphDriver.Name}}"), f"{KEEP} fuse", "inspect")
        self.equal(self.archived(f"/containers/{name}/archive?path=/etc/passwd"), {"passwd": (0, 0)}, "an archive of what was only made")
        self.docker("start", name)
        look = ("exec", name, "sh", "-c", LOOK)
        self.equal(self.docker(*look).out.split(), [*OWN, "1000", "1000"], "owners")
        self.docker("exec", "-u", "0", name, "sh", "-c", "echo > /r; echo > /u; chown 1000:1000 /u; chown 33:44 /home; echo > /home/v; chmod 4755 /r")
        self.docker("restart", "-t", "0", name)
        self.daemon.stop()
        self.daemon.start()
        self.equal(self.docker(*look).out.split(), [*OWN, "1000", "1000"], "owners after both were started again")
        self.docker("exec", "-u", "0", name, "stat", "-c", "%u:%g %a", "/r", "/u", "/home", out=re.compile("^0:0 4755\n1000:1000 644\n33:44"))
        eventually(lambda: os.path.exists(self.place + "/health") and os.path.getsize(self.place + "/health"), "a health check")
        with open(self.place + "/health", encoding="utf-8") as file:
            self.equal(file.read(), "1000\n", "the health check's user")
        # In archives are the ids inside, whether it runs or not.
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            member = tarfile.TarInfo("in")
            member.uid, member.gid = 1000, 5
            archive.addfile(member)
        for step in ("running", "stopped"):
            self.docker("cp", "-", f"{name}:/p", stdin=packed.getvalue())
            self.equal(self.owner("in")[0], self.me[0], "owner on the host")
            self.docker("cp", "-", f"{name}:/tmp", stdin=packed.getvalue())
            got = {path: self.archived(f"/containers/{name}/archive?path={path}") for path in ("/r", "/u", "/home", "/tmp/in", "/p/in")}
            self.equal(got["/r"] | got["/u"] | got["/home"] | got["/tmp/in"],
                       {"r": (0, 0), "u": (1000, 1000), "home": (33, 44), "home/app": (1000, 1000), "home/v": (0, 0), "in": (1000, 5)}, step)
            self.equal(got["/p/in"], {"in": (1000, 5)}, step)
            self.docker("cp", "-a", "-", f"{name}:/tmp", stdin=packed.getvalue())
            self.equal(self.archived(f"/containers/{name}/archive?path=/tmp/in"), {"in": (1000, 1000)}, step)
            exported = self.archived(f"/containers/{name}/export")
            self.equal([exported[path] for path in ("r", "u", "etc/passwd", "tmp/in")], [(0, 0), (1000, 1000), (0, 0), (1000, 1000)], step)
            self.docker("kill", name, code=None)
        self.docker("commit", name, volume)
        self.addCleanup(self.docker, "rmi", "-f", volume, code=None)
        self.docker("run", "--rm", volume, "stat", "-c", "%u:%g %a", "/r", "/u", out="0:0 4755\n1000:1000 644")

    def test_volume_is_filled_with_owners(self):
        image, volume = self.name(), self.name()
        self.docker("run", "--name", image, "-u", "0", "busybox", "sh", "-c", "mkdir /data; echo > /data/f; chown -R 999:999 /data; chmod 700 /data")
        self.docker("commit", "-c", "USER 999", image, image)
        self.addCleanup(self.docker, "rmi", "-f", image, code=None)
        self.addCleanup(self.docker, "volume", "rm", "-f", volume, code=None)
        self.docker("run", "--rm", *LABEL, "-v", volume + ":/data", image, "sh", "-c", "stat -c %u:%g /data /data/f; echo > /data/new; id -u",
                    out="999:999\n999:999\n999")
        self.docker("run", "--rm", *LABEL, "--mount", f"type=volume,source={volume},target=/data", "busybox", "stat", "-c", "%u", "/data", out="999")

    def test_shared_namespaces(self):
        first = self.run_detached(*LABEL, "--ipc", "shareable")
        for mode in ("--network", "--ipc", "--pid"):
            # Who asks for nothing has what the other has.
            self.docker("run", "--rm", mode, "container:" + first, "busybox", "sh", "-c", "stat -c %u /etc/passwd; id -u", out="0\n1000")
            self.docker("run", "--rm", mode, "container:" + first, "--userns", "host", "busybox", "true", code=125,
                        err=re.compile("cannot join a namespace of container .*, whose user namespace mode is keep-id:uid=1000,gid=1000: this one's is host"))

    def test_refusals(self):
        for mode, why in [("private", "invalid user namespace mode: private"),
                          ("keep-id:uid=x", "\"uid=x\" is neither uid=N nor gid=N"),
                          ("keep-id:uid=4000000", "wants the user ids 0 to 4000000 in the container, and there are \\d+: /etc/subuid grants no more")]:
            self.assertRegex(self.create(400, HostConfig={"UsernsMode": mode}), why)
            if mode != "private":
                self.moss("run", "--rm", "--userns", mode, "busybox", "true", code=125, err=re.compile(why))
                self.assertRegex(self.create(400, Labels={"moss.userns": mode}), why)
        self.assertRegex(self.create(400, Labels={"moss.userns": "yes"}), "invalid label moss.userns=yes: known are host and keep-id")
        self.moss("run", "--rm", "--userns", KEEP, "-v", self.place + ":/p", "busybox", "stat", "-c", "%u", "/p", out="1000")

    def test_owner_that_is_not_mapped(self):
        name = self.name()
        self.docker("create", "--name", name, "busybox")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            member = tarfile.TarInfo("f")
            member.uid, member.gid = 4000000, 5
            archive.addfile(member)
        self.docker("cp", "-", f"{name}:/tmp", stdin=packed.getvalue(), code=1,
                    err=re.compile('failed to Lchown "/tmp/f" for UID 4000000, GID 5 \\(try increasing the number of subordinate IDs in '
                                   "/etc/subuid and /etc/subgid\\): lchown /tmp/f: invalid argument"))


@once
class ByDefault(unittest.TestCase):
    """What daemon.json says of containers that do not, on the FUSE driver."""

    def test_default_userns(self):
        daemon = Daemon(start=False)
        self.addCleanup(lambda: check(daemon.close()))
        file = daemon.env["XDG_CONFIG_HOME"] + "/moss/daemon.json"
        os.makedirs(os.path.dirname(file))
        with open(file, "w", encoding="utf-8") as out:
            json.dump({"default-userns": KEEP}, out)
        daemon.start("--storage-driver", "fuse")
        daemon.load("busybox.tar")
        ids = daemon.docker("run", "--rm", "--userns", "host", "busybox", "awk", "{n += $3} END {print n}", "/proc/self/uid_map").out
        if int(ids) < 2:
            daemon.docker("run", "--rm", "busybox", "true", code=125, err=re.compile("wants the user ids 0 to 1000 in the container, and there are 1:"))
            self.skipTest("one id is mapped")
        if os.path.exists("/dev/fuse"):
            daemon.docker("run", "--rm", "busybox", "sh", "-c", LOOK, out="\n".join([*OWN, "1000", "1000"]))
            daemon.docker("run", "--rm", "--userns", "host", "busybox", "sh", "-c", LOOK, out="\n".join([*OWN, "0", "0"]))
