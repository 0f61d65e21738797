"""Faults: killed daemons, two daemons, full disks, broken and hostile archives; nothing may be left."""

import calendar
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import archive
import harness
from harness import Daemon, check, eventually, fail, host_case, need_image, once, run


class Own(unittest.TestCase):
    """A case with a daemon of its own, which must leave nothing."""

    flags = ()
    images = ("busybox.tar",)

    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.end)
        self.daemon.load(*self.images)
        self.docker = self.daemon.docker

    def end(self):
        leaks = self.daemon.close()
        if leaks is not None:
            check(leaks)


@once
class KilledDaemon(Own):
    def again(self):
        self.daemon.kill()
        self.daemon.start()

    @host_case
    def test_container_runs_on(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sh", "-c", "while :; do date +%s%N >> /ticks; sleep 0.05; done")
        pid = self.daemon.inspect("cc")["State"]["Pid"]
        self.daemon.kill()
        time.sleep(0.3)
        if not os.path.exists(f"/proc/{pid}"):
            fail("kill -9 the daemon", "the container runs on", "its first process is gone")
        self.daemon.start()
        state = self.daemon.inspect("cc")["State"]
        if (state["Running"], state["Pid"]) != (True, pid):
            fail("docker inspect after the restart", f"running, pid {pid}", state)

    def test_exec_logs_stop_after(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done")
        self.docker("run", "-d", "-i", "--name", "tty", "-t", "busybox", "sh")
        self.again()
        self.docker("exec", "cc", "echo", "in", out="in")
        self.docker("logs", "cc", out="up")
        self.docker("attach", "--sig-proxy=false", "tty", stdin="", code=None)
        self.docker("stop", "cc")
        self.docker("inspect", "-f", "{{.State.ExitCode}}", "cc", out="3")
        self.docker("rm", "cc")

    def test_exit_while_away(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sh", "-c", "sleep 0.5; echo bye; exit 6")
        self.daemon.kill()
        time.sleep(1)
        self.daemon.start()
        self.docker("wait", "cc", out="6")
        self.docker("logs", "cc", out="bye")

    def test_rm_while_away(self):
        self.docker("run", "-d", "--rm", "--name", "cc", "busybox", "sleep", "0.5")
        self.daemon.kill()
        time.sleep(1)
        self.daemon.start()
        eventually(lambda: self.docker("inspect", "cc", code=None).code == 1, "the --rm container removed")

    def test_attached_client_does_not_notice(self):
        client = self.daemon.start_client("run", "--rm", "--name", "cc", "busybox", "sh", "-c", "echo one; sleep 1; echo two")
        first = client.stdout.readline()
        time.sleep(0.3)  # output may overtake the answer to the start, without which a client gives up
        self.daemon.kill()
        out = client.communicate(timeout=20)[0]
        self.daemon.start()
        if (first, out) != (b"one\n", b"two\n"):
            fail("kill -9 the daemon under docker run", (b"one\n", b"two\n"), (first, out))

    def test_logs_go_on(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
        time.sleep(0.2)
        self.again()
        time.sleep(0.2)
        self.docker("kill", "cc")
        lines = self.docker("logs", "cc").out.split()
        if lines != [str(n) for n in range(1, len(lines) + 1)] or len(lines) < 10:
            fail("docker logs", "every line once", lines[:30])

    def test_many_containers(self):
        for number in range(10):
            self.docker("run", "-d", "--name", f"cc{number}", "busybox", "sleep", "1000")
        self.again()
        if len(self.docker("ps", "-q").out.split()) != 10:
            fail("docker ps -q", "10 containers", self.docker("ps", "-a").out)

    def test_killed_again_and_again_under_load(self):
        for number in range(5):
            clients = [self.daemon.start_client("run", "--rm", "busybox", "true") for _ in range(6)]
            time.sleep(0.03 * (number + 1))
            self.daemon.kill()
            for client in clients:
                client.communicate(timeout=30)
            self.daemon.start()
        eventually(lambda: not self.docker("ps", "-q").out, "no container running")
        self.docker("run", "--rm", "busybox", "echo", "ok", out="ok")

    def test_killed_mid_load(self):
        big = need_image("debian.tar")
        for delay in (0.05, 0.3, 0.8):
            client = self.daemon.start_client("load", "-i", big)
            time.sleep(delay)
            self.daemon.kill()
            client.communicate(timeout=30)
            self.daemon.start()
        self.docker("load", "-i", big, timeout=240)
        self.docker("run", "--rm", "debian:bookworm", "true")

    def test_created_and_stopped_are_kept(self):
        self.docker("create", "--name", "created", "busybox", "sh", "-c", "exit 2")
        self.docker("run", "--name", "stopped", "busybox", "sh", "-c", "echo kept; exit 5", code=5)
        self.again()
        self.docker("logs", "stopped", out="kept")
        self.docker("inspect", "-f", "{{.State.ExitCode}}", "stopped", out="5")
        self.docker("start", "-a", "created", code=2)


def children_named(daemon, word):
    """Processes of this user with the daemon's runtime directory in their environment or arguments, and `word` in their command."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read().replace(b"\0", b" ").decode("utf-8", "replace")
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = file.read().decode("utf-8", "replace")
        except OSError:
            continue
        if word in command and (daemon.top in environment or daemon.top in command):
            found.append(int(pid))
    return found


def parent(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


@once
class Damaged(Own):
    def test_record(self):
        self.docker("create", "--name", "lost", "busybox")
        directory = self.daemon.data_home + "/moss/containers/" + self.daemon.inspect("lost")["Id"]
        self.daemon.stop()
        with open(directory + "/record.json", "w", encoding="utf-8") as file:
            file.write("{")
        self.daemon.start()
        told = self.daemon.moss("system", "check", code=1, out=re.compile(
            rf"object +{directory}: a container that the engine cannot use: .*record.json is damaged.*")).out
        # What it says to do about it.
        source, target = re.search(r"mv (\S+) (\S+)\n", told).groups()
        self.daemon.stop()
        shutil.move(source, target)
        self.daemon.start()
        self.daemon.wait_for_trash()
        self.docker("create", "--name", "lost", "busybox")

    def test_empty_record(self):
        """What a file system may leave of it after a power cut. Somebody's files lie beside it."""
        self.docker("run", "--name", "kept", "busybox", "touch", "/precious")
        record = self.daemon.data_home + "/moss/containers/" + self.daemon.inspect("kept")["Id"] + "/record.json"
        self.daemon.stop()
        with open(record, "rb") as file:
            whole = file.read()
        os.truncate(record, 0)
        self.daemon.start()
        self.daemon.moss("system", "check", code=1, out=re.compile("object +.*record.json is empty"))
        self.daemon.stop()
        with open(record, "wb") as file:
            file.write(whole)
        self.daemon.start()
        self.docker("start", "kept")
        self.docker("diff", "kept", out=re.compile("A /precious"))


@once
class OddPlace(unittest.TestCase):
    def test_data_root(self):
        """Whatever a directory is called, overlayfs is told of it."""
        top = tempfile.mkdtemp(prefix="mt.", dir="/tmp")
        self.addCleanup(harness.remove_tree, top)
        daemon = Daemon(data_home=top + r"/a\b\:c,d = e")
        self.addCleanup(lambda: check(daemon.close()))
        daemon.load("busybox.tar")
        daemon.docker("run", "--name", "c1", "-v", "/etc", "busybox", "sh", "-c", "touch /x && head -c 4 /etc/passwd", out="root")


@once
class KilledKeeper(Own):
    @host_case
    def test_containers_and_new_ones(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sleep", "1000")
        # Shims are forked from the keeper and look like it; the keeper is nobody's child of them.
        named = children_named(self.daemon, "keeper")
        keepers = [pid for pid in named if parent(pid) not in named]
        if not keepers:
            self.skipTest("the keeper could not be told from its command line")
        for pid in keepers:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
        self.docker("run", "--rm", "busybox", "echo", "ok", out="ok")
        state = self.daemon.inspect("cc")["State"]
        if not state["Running"]:
            fail("kill -9 the keeper", "containers run on", state)
        self.docker("exec", "cc", "echo", "in", out="in")
        self.docker("rm", "-f", "cc")


@once
class KilledShim(Own):
    def test_is_named(self):
        """People see in `ps` which container a process is there for."""
        self.docker("run", "-d", "--name", "cc", "busybox", "sleep", "1000")
        container = self.daemon.inspect("cc")
        with open(f"/proc/{parent(container['State']['Pid'])}/cmdline", "rb") as file:
            title = file.read().rstrip(b"\0").decode()
        if title != f"moss: shim {container['Id'][:12]}":
            fail("ps", f"moss: shim {container['Id'][:12]}", title)

    @host_case
    def test_container_ends_with_it(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sleep", "1000")
        pid = self.daemon.inspect("cc")["State"]["Pid"]
        shim = parent(pid)
        os.kill(shim, signal.SIGKILL)
        eventually(lambda: not os.path.exists(f"/proc/{pid}"), "the container ended")
        eventually(lambda: not self.daemon.inspect("cc")["State"]["Running"], "docker inspect says so")
        self.docker("rm", "cc")

    def test_time_of_its_death_is_known_without_a_daemon(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sleep", "1000")
        container = self.daemon.inspect("cc")
        shim = parent(container["State"]["Pid"])
        self.daemon.kill()
        before = time.time()
        os.kill(shim, signal.SIGKILL)
        note = f"{self.daemon.data_home}/moss/containers/{container['Id']}/shim-end.json"
        eventually(lambda: os.path.exists(note), "the keeper's note")
        after = time.time()
        self.daemon.start()
        state = self.daemon.inspect("cc")["State"]
        finished = state["FinishedAt"].removesuffix("Z")
        finished = calendar.timegm(time.strptime(finished[:19], "%Y-%m-%dT%H:%M:%S")) + float("0" + finished[19:])
        if state["ExitCode"] != 137 or not before - 0.001 <= finished <= after:
            fail("docker inspect", f"137, finished between {before} and {after}", state)


@once
class Signals(Own):
    def test_term_leaves_containers(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sleep", "1000")
        if self.daemon.stop() != 0:
            fail("SIGTERM to moss daemon", "exit 0", self.daemon.process.returncode)
        self.daemon.start()
        self.docker("inspect", "-f", "{{.State.Running}}", "cc", out="true")

    def test_hup_reloads(self):
        self.daemon.process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        self.docker("version")


@once
class SecondDaemon(Own):
    def test_one_data_root(self):
        other = dict(self.daemon.env, XDG_RUNTIME_DIR=self.daemon.top + "/run2")
        os.mkdir(other["XDG_RUNTIME_DIR"], 0o700)
        check(run([harness.BIN, "daemon"], env=other, timeout=20), code=1, err=re.compile(re.escape(self.daemon.socket)))
        self.docker("version")

    def test_one_socket(self):
        check(run([harness.BIN, "daemon"], env=self.daemon.env, timeout=20), code=1)
        self.docker("version")


@once
class StaleSocket(Own):
    def test_stale_socket(self):
        self.daemon.kill()
        if not os.path.exists(self.daemon.socket):
            fail("kill -9 the daemon", "its socket left behind", "none")
        self.daemon.start()
        self.docker("version")

    def test_mode(self):
        mode = os.stat(self.daemon.socket).st_mode & 0o777
        if mode != 0o600:
            fail("stat moss.sock", "mode 600", oct(mode))


@once
class Flags(unittest.TestCase):
    def daemon(self, *flags, config=None, **options):
        daemon = Daemon(start=False)
        self.addCleanup(daemon.close)
        path = daemon.env["XDG_CONFIG_HOME"] + "/moss/daemon.json"
        if config is not None:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(config)
            # Before the daemon is closed, whose verbs would refuse it too.
            self.addCleanup(os.unlink, path)
        return run([harness.BIN, "daemon", *flags], env=daemon.env, timeout=20, **options)

    def test_validate(self):
        check(self.daemon("--validate", config='{"debug": true}'))

    def test_validate_unknown_key(self):
        check(self.daemon("--validate", config='{"nosuch-key": 1}'), code=1, err=re.compile("nosuch-key"))

    def test_unknown_key_refuses(self):
        check(self.daemon(config='{"nosuch-key": 1}'), code=1, err=re.compile("nosuch-key"))

    def test_broken_config(self):
        check(self.daemon("--validate", config="{"), code=1)

    def test_meaningless_key_is_allowed(self):
        check(self.daemon("--validate", config='{"iptables": false, "userland-proxy": false}'))

    def test_unknown_flag(self):
        check(self.daemon("--nosuch"), code=(1, 2, 125))

    def test_socket_and_data_root(self):
        daemon = Daemon(start=False)
        self.addCleanup(daemon.close)
        daemon.socket = daemon.top + "/other.sock"
        daemon.env["DOCKER_HOST"] = "unix://" + daemon.socket
        daemon.start("-H", "unix://" + daemon.socket, "--data-root", daemon.top + "/elsewhere", "--exec-root", daemon.top + "/run/x")
        daemon.docker("version")
        if not os.path.isdir(daemon.top + "/elsewhere"):
            fail("moss daemon --data-root", "the directory in use", "it does not exist")

    @host_case
    def test_socket_activation(self):
        daemon = Daemon(start=False)
        self.addCleanup(daemon.close)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(daemon.socket)
        listener.listen(8)
        # systemd's way: descriptor 3, and a pid that only the daemon itself can know.
        code = ('import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1"); '
                'os.execv(sys.argv[2], sys.argv[2:])')
        with open(daemon.log_path, "wb") as log:
            daemon.process = subprocess.Popen(
                ["/usr/bin/python3", "-c", code, str(listener.fileno()), harness.BIN, "daemon", "-H", "fd://"],
                env=daemon.env, pass_fds=[listener.fileno()], stdout=log, stderr=log)
        listener.close()
        daemon.docker("version")


def fill(directory):
    """Writes until the disk is full; returns the path of what fills it."""
    with open(directory + "/filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            return filler.name


@once
class Full(unittest.TestCase):
    def setUp(self):
        self.small = os.environ.get("MOSS_TEST_SMALL")
        if not self.small:
            self.skipTest("a small filesystem is missing: as root, scripts/test mounts one")

    def test_exit_of_a_container(self):
        """It is not lost with the daemon that heard of it."""
        daemon = Daemon(data_home=self.small)
        try:
            daemon.load("busybox.tar")
            daemon.docker("run", "-d", "--name", "cc", "busybox", "sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done")
            eventually(lambda: daemon.docker("logs", "cc").out == "up\n", "cc is up")
            filler = fill(self.small)
            daemon.docker("exec", "cc", "kill", "1")
            daemon.docker("wait", "cc", out="3")
            daemon.kill()
            daemon.start()
            daemon.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}", "cc", out="exited 3")
            os.unlink(filler)
            daemon.docker("start", "cc")
            # The run that goes on has no exit yet.
            daemon.kill()
            daemon.start()
            daemon.docker("inspect", "-f", "{{.State.Status}}", "cc", out="running")
        finally:
            leaks = daemon.close()
        check(leaks)

    def test_disk_full_mid_unpack(self):
        image = need_image("debian.tar")
        small, daemon = self.small, Daemon(data_home=self.small)
        try:
            daemon.load("busybox.tar")
            result = daemon.docker("load", "-i", image, code=1, timeout=120)
            if "no space left on device" not in (result.out + result.err).lower():
                fail("docker load on a full disk", "no space left on device", result)
            daemon.docker("image", "inspect", "debian:bookworm", code=1)
            daemon.docker("run", "--rm", "busybox", "echo", "ok", out="ok")
            before = shutil.disk_usage(small).free
            if before < 2_000_000:
                fail("docker load on a full disk", "what it wrote taken back", f"{before} bytes free")
            daemon.docker("tag", "busybox", "another:1")
            filler = fill(small)
            daemon.docker("rmi", "another:1", out="Untagged: another:1")
            daemon.docker("image", "prune", "-af", out=re.compile("untagged: busybox:latest"))
            os.unlink(filler)
        finally:
            leaks = daemon.close()
        check(leaks)


@once
class Archives(Own):
    """Archives that are broken or that attack: each a clear error or a harmless image, nothing outside."""

    def work(self, name):
        directory = self.daemon.top + "/archives"
        os.makedirs(directory, exist_ok=True)
        return f"{directory}/{name}"

    def image(self, layers, **options):
        """An image of busybox's layer under the given ones, loaded as evil:1."""
        with archive.tarfile.open(need_image("busybox.tar")) as tar:
            manifest = json.load(tar.extractfile("manifest.json"))
            with open(self.work("base.tar"), "wb") as out:
                shutil.copyfileobj(tar.extractfile(manifest[0]["Layers"][0]), out)
        paths = [self.work("base.tar")]
        for number, layer in enumerate(layers):
            path = self.work(f"{number}.tar")
            if isinstance(layer, bytes):
                with open(path, "wb") as out:
                    out.write(layer)
            else:
                layer.write(path)
            paths.append(path)
        image = archive.write_docker_archive(self.work("image.tar"), [archive.Image(["evil:1"], paths, Cmd=["sh"])])
        return self.docker("load", "-i", image, **{"code": (0, 1), **options})

    def harmless(self, *layers, shell=None, out=None):
        """Loads; whether or not that was refused, nothing outside the image may have changed."""
        canary = self.daemon.top + "/canary"
        with open(canary, "w", encoding="utf-8") as file:
            file.write("untouched")
        result = self.image(layers)
        for path in ("/tmp/moss-evil", self.daemon.top + "/evil", "/evil"):
            if os.path.lexists(path):
                fail(result.command, "nothing written outside the image", path)
        with open(canary, encoding="utf-8") as file:
            if file.read() != "untouched":
                fail(result.command, "the canary untouched", "it was written to")
        if result.code == 0:
            self.docker("run", "--rm", "evil:1", "sh", "-c", shell or "true", out=out)
        self.docker("rmi", "-f", "evil:1", code=None)
        return result

    def test_truncated(self):
        with open(need_image("busybox.tar"), "rb") as file:
            whole = file.read()
        for size in (0, 100, 512, 100_000, len(whole) // 2, len(whole) - 20_000):
            with self.subTest(size):
                with open(self.work("cut.tar"), "wb") as file:
                    file.write(whole[:size])
                self.docker("load", "-i", self.work("cut.tar"), code=1)

    def test_not_a_tar(self):
        self.docker("load", stdin=b"this is no tar" * 1000, code=1)

    def test_no_manifest(self):
        archive.Layer().file("hello", "x").write(self.work("none.tar"))
        self.docker("load", "-i", self.work("none.tar"), code=1)

    def test_missing_layer(self):
        with archive.tarfile.open(need_image("busybox.tar")) as tar:
            config = tar.extractfile(json.load(tar.extractfile("manifest.json"))[0]["Config"]).read()
        (archive.Layer().file("config.json", config)
         .file("manifest.json", json.dumps([{"Config": "config.json", "RepoTags": ["evil:1"], "Layers": ["none/layer.tar"]}]))
         .write(self.work("missing.tar")))
        self.docker("load", "-i", self.work("missing.tar"), code=1)
        self.docker("image", "inspect", "evil:1", code=1)

    def test_wrong_diff_id(self):
        (archive.Layer()
         .file("layer.tar", archive.Layer().file("x", "y").tar())
         .file("config.json", json.dumps({"architecture": archive.ARCHITECTURE, "os": "linux", "config": {},
                                          "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}))
         .file("manifest.json", json.dumps([{"Config": "config.json", "RepoTags": ["evil:1"], "Layers": ["layer.tar"]}]))
         .write(self.work("wrong.tar")))
        self.docker("load", "-i", self.work("wrong.tar"), code=1)
        self.docker("image", "inspect", "evil:1", code=1)

    def test_manifest_names_the_host(self):
        for path in ("/etc/passwd", "../../../../../../etc/passwd"):
            with self.subTest(path):
                (archive.Layer()
                 .file("manifest.json", json.dumps([{"Config": path, "RepoTags": ["evil:1"], "Layers": [path]}]))
                 .symlink("link", path).write(self.work("host.tar")))
                self.docker("load", "-i", self.work("host.tar"), code=1)

    def test_absolute_path(self):
        self.harmless(archive.Layer().file("/tmp/moss-evil", "x"))

    def test_dot_dot(self):
        self.harmless(archive.Layer().file("../../../../../../../../tmp/moss-evil", "x"))

    def test_dot_dot_in_the_middle(self):
        self.harmless(archive.Layer().file("a/../../../../../../../../../tmp/moss-evil", "x"))

    def test_through_a_symlink(self):
        self.harmless(archive.Layer().symlink("out", "/tmp").file("out/moss-evil", "x"))

    def test_through_a_relative_symlink(self):
        self.harmless(archive.Layer().symlink("out", "../../../../../../../../../../tmp").file("out/moss-evil", "x"))

    def test_through_a_symlink_of_the_layer_below(self):
        self.harmless(archive.Layer().symlink("out", "/tmp"), archive.Layer().file("out/moss-evil", "x"))

    def test_hardlink_to_the_host(self):
        canary = self.daemon.top + "/canary"
        self.harmless(archive.Layer().hardlink("link", canary).file("link", "overwritten"))

    def test_hardlink_through_a_symlink(self):
        self.harmless(archive.Layer().symlink("out", self.daemon.top).hardlink("link", "out/canary").file("link", "overwritten"))

    def test_over_a_symlink(self):
        self.harmless(archive.Layer().symlink("file", self.daemon.top + "/canary").file("file", "overwritten"))

    def test_whiteout_of_dot_dot(self):
        self.harmless(archive.Layer().dir("d").file("d/.wh...", ""), archive.Layer().file(".wh...", "").file(".wh..", ""))

    def test_whiteout_through_a_symlink(self):
        self.harmless(archive.Layer().symlink("out", self.daemon.top), archive.Layer().file("out/.wh.canary", ""))

    def test_overlay_attributes_are_stripped(self):
        attributes = {"SCHILY.xattr." + name: "y" for name in (
            "user.overlay.opaque", "user.overlay.whiteout", "trusted.overlay.opaque", "user.containers.override_stat",
            "user.fuseoverlayfs.opaque")}
        attributes["SCHILY.xattr.user.overlay.redirect"] = "/etc"
        self.harmless(archive.Layer().dir("etc", pax_headers=attributes).dir("other", pax_headers=attributes),
                      shell="test -s /etc/passwd && ls /other | wc -l", out="0")

    def test_whiteout_device(self):
        self.harmless(archive.Layer().raw(name="etc/passwd", type=archive.tarfile.CHRTYPE, devmajor=0, devminor=0),
                      shell="true")

    def test_pax_record_that_lies(self):
        # Readers that split at newlines see a linkpath record inside the comment.
        self.harmless(archive.Layer().symlink("link", "safe", pax_headers={"comment": "a\n26 linkpath=/tmp/moss-evil\n"}),
                      shell="readlink /link", out="safe")

    def test_huge_size(self):
        layer = archive.Layer().file("x", "y").tar()
        header = bytearray(layer[:512])
        header[124:136] = b"77777777777\0"
        header[148:156] = b"        "
        header[148:156] = b"%06o\0 " % sum(header)
        self.image([bytes(header) + layer[512:]], code=1)

    def test_negative_size(self):
        layer = archive.Layer().file("x", "y").tar()
        header = bytearray(layer[:512])
        header[124:136] = b"\xff" * 12
        header[148:156] = b"        "
        header[148:156] = b"%06o\0 " % sum(header)
        self.image([bytes(header) + layer[512:]], code=1)

    def test_huge_pax_header(self):
        result = self.image([archive.Layer().file("x", "y", pax_headers={"comment": "z" * 20_000_000})])
        self.docker("rmi", "-f", "evil:1", code=None)
        with open(f"/proc/{self.daemon.process.pid}/status", encoding="utf-8") as file:
            peak = int(re.search(r"VmHWM:\s+(\d+)", file.read())[1])
        if peak > 200_000:
            fail(result.command, "at most 200 MB of memory", f"{peak} kB")

    def test_setuid_and_devices_do_no_harm(self):
        self.harmless(archive.Layer().file("su", "x", 0o6755).raw(name="sda", type=archive.tarfile.BLKTYPE, devmajor=8, devminor=0),
                      shell="stat -c %a /su; test -e /sda || echo none", out="6755\nnone")

    def test_deep_path(self):
        self.harmless(archive.Layer().file("/".join(["d" * 50] * 60) + "/f", "x"))

    def test_nul_and_empty_names(self):
        self.harmless(archive.Layer().file("", "x").file("a\nb", "newline").dir("."), shell="cat '/a\nb'", out="newline")


@once
class ClientGone(Own):
    def test_mid_load(self):
        with open(need_image("busybox.tar"), "rb") as file:
            data = file.read(500_000)
        connection = self.daemon.connect()
        connection.sendall(b"POST /v1.44/images/load HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(data) + data + b"\r\n")
        connection.close()
        self.docker("run", "--rm", "busybox", "true")

    def test_mid_wait(self):
        self.docker("run", "-d", "--name", "cc", "busybox", "sleep", "1000")
        client = self.daemon.start_client("wait", "cc")
        time.sleep(0.2)
        client.kill()
        client.communicate()
        self.docker("rm", "-f", "cc")

    def test_between_create_and_start(self):
        client = self.daemon.start_client("run", "--rm", "--name", "cc", "busybox", "sleep", "1000")
        time.sleep(0.01)
        client.kill()
        client.communicate()
        self.docker("rm", "-f", "cc", code=None)
