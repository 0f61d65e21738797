"""How fast images come and go, and what that costs, beside Debian's podman and rootless dockerd: pull, load, save, push.

A registry of Debian's on loopback serves an image of SIZE bytes in LAYERS layers, made of the files of a real system.
Stores are cold: an engine's image is removed, and the disk at rest, before each of its runs.
MOSS_BENCH_PARTS names the parts that are wanted, with spaces between: pull, costs, present, archives, push.
"""

import hashlib
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import time

import dockerd
from common import CACHE, PARTS, RUNS, Bench

SIZE, LAYERS = 500_000_000, 6
SOURCE = "postgres.tar"
NAME = "bench:1"


class Registry:
    """docker-registry with nothing in it."""

    def __init__(self, top):
        self.top = top
        program = CACHE + "/docker-registry/docker-registry"
        if not os.path.exists(program):
            sys.exit(f"scripts/bench: no {program}: scripts/test setup fetches it")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = "127.0.0.1:%d" % probe.getsockname()[1]
        os.makedirs(top)
        with open(top + "/config.yml", "w", encoding="utf-8") as file:
            json.dump({"version": "0.1", "log": {"level": "error"}, "http": {"addr": self.host},
                       "storage": {"filesystem": {"rootdirectory": top + "/store"}}}, file)
        with open(top + "/log", "wb") as log:
            self.process = subprocess.Popen([program, "serve", top + "/config.yml"], stdout=log, stderr=log)
        while True:
            try:
                socket.create_connection(tuple(self.host.split(":"))).close()
                break
            except OSError:
                time.sleep(0.05)

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.top)


class Pull(Bench):
    """Images between moss and a registry or a file."""

    programs = {**Bench.programs, "rootlesskit": "rootlesskit", "newuidmap": "uidmap", "skopeo": "skopeo"}

    def __init__(self, moss):
        super().__init__(moss)
        self.runs = min(RUNS, 5)
        self.registry = self.peer = None

    @classmethod
    def prepare(cls):
        dockerd.fetch()

    def measure(self):
        self.registry = Registry(self.top + "/registry")
        self.archive = self.top + "/image.tar"
        self.unpacked = self.make_image()
        self.name = f"{self.registry.host}/{NAME}"
        self.run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{self.archive}", f"docker://{self.name}")
        parts = {"pull": self.pulls, "costs": self.costs, "present": self.present, "archives": self.archives, "push": self.pushes}
        wanted = PARTS.split() or list(parts)
        self.peer = dockerd.Dockerd(self)
        if self.peer.why:
            print("skip rootless dockerd:", self.peer.why)
        try:
            for part in wanted:
                parts[part]()
        finally:
            self.peer.close()
            self.registry.close()

    def by_dockerd(self, command):
        """The command of the docker CLI to dockerd, where there is one."""
        return None if self.peer.why else f"{self.peer.docker} {command}"

    def make_image(self):
        """Writes a docker archive whose layers have the files of a real one, some of them twice; the bytes in them."""
        layers = [self.top + f"/layer-{number}.tar" for number in range(LAYERS)]
        tars = [tarfile.open(path, "w") for path in layers]
        sizes = [0] * LAYERS
        with tarfile.open(f"{CACHE}/images/{SOURCE}") as outer:
            manifest = json.load(outer.extractfile("manifest.json"))[0]
            for turn in range(LAYERS):
                for number, source in enumerate(manifest["Layers"]):
                    with tarfile.open(fileobj=outer.extractfile(source)) as inner:
                        for entry in inner:
                            if not entry.isreg() or sum(sizes) >= SIZE:
                                continue
                            at = sizes.index(min(sizes))
                            sizes[at] += entry.size
                            data = inner.extractfile(entry)
                            entry.name = f"{turn}/{number}/{entry.name}"
                            entry.pax_headers = {}
                            tars[at].addfile(entry, data)
        for tar in tars:
            tar.close()
        digests = []
        for path in layers:
            with open(path, "rb") as file:
                digests.append("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())
        config = json.dumps({"architecture": "amd64" if os.uname().machine == "x86_64" else "arm64", "os": "linux",
                             "config": {"Cmd": ["true"]}, "rootfs": {"type": "layers", "diff_ids": digests}}).encode()
        names = [os.path.basename(path) for path in layers]
        index = json.dumps([{"Config": "config.json", "RepoTags": [NAME], "Layers": names}]).encode()
        with tarfile.open(self.archive, "w") as out:
            for name, data in (("config.json", config), ("manifest.json", index)):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                out.addfile(entry, io.BytesIO(data))
            for path in layers:
                out.add(path, os.path.basename(path))
                os.remove(path)
        return sum(sizes)

    def rest(self):
        """Waits until what was removed is gone and what was written is on disk."""
        trash = self.top + "/data/moss/trash"
        while os.path.isdir(trash) and os.listdir(trash):
            time.sleep(0.05)
        os.sync()
        time.sleep(0.3)

    def medians(self, *pairs):
        """Of commands in turn, each after what undoes it."""
        times = [[] for _ in pairs]
        for _ in range(self.runs):
            for (undo, command), column in zip(pairs, times):
                if command:
                    undo()
                    self.rest()
                    column.append(self.time("/bin/sh", "-c", command))
        return [statistics.median(column) if column else None for column in times]

    def gone(self, engine, *names):
        """What makes an engine forget images; nothing where there is no such engine."""
        command = [*(engine or "true").split(), "rmi", "-f"]
        return lambda: [subprocess.run([*command, name], env=self.env, capture_output=True, check=False) for name in names]

    def dockerd_gone(self, *names):
        return self.gone(self.by_dockerd(""), *names)

    def pulls(self):
        docker, moss, podman, dockerd_ = self.medians(
            (self.gone(self.docker, self.name), f"{self.docker} pull -q {self.name}"),
            (self.gone(self.docker, self.name), f"{self.moss} pull -q {self.name}"),
            (self.gone(self.podman, self.name), self.podman and f"{self.podman} pull -q --tls-verify=false {self.name}"),
            (self.dockerd_gone(self.name), self.by_dockerd(f"pull -q {self.name}")))
        self.beside(f"pull of {self.unpacked / 1e6:.0f} MB, cold", podman, 0.4, dockerd_, docker=docker, moss=moss)

    def beside(self, what, podman, share, peer, **ours):
        for who, got in (("podman", podman), ("dockerd", peer)):
            if got:
                self.row(f"{who} {what}", got, None)
        for who, got in ours.items():
            note = f"{got / podman:.3f} of podman; at most {share}" if podman else ""
            if peer:
                note += f"; {got / peer:.3f} of dockerd"
            self.row(f"{who} {what}", got, podman * share if podman else None, note=note)

    def costs(self):
        """What one cold pull takes of memory and writes to the disk, without the blobs and with them."""
        document = json.loads(self.run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{self.name}"))
        compressed = sum(layer["size"] for layer in document["layers"])
        self.cost("", self.unpacked)
        self.restart('{"keep-blobs": true}')
        self.cost(", blobs kept", self.unpacked + compressed)
        self.gone(self.docker, self.name)()
        self.restart("{}")

    def restart(self, config):
        self.daemon.terminate()
        self.daemon.wait()
        os.makedirs(self.top + "/config/moss", exist_ok=True)
        with open(self.top + "/config/moss/daemon.json", "w", encoding="utf-8") as file:
            file.write(config)
        self.start()

    def cost(self, how, bytes_):
        processes = [self.daemon.pid, self.keeper()]
        self.gone(self.docker, self.name)()
        self.rest()
        for pid in processes:
            with open(f"/proc/{pid}/clear_refs", "w", encoding="utf-8") as file:
                file.write("5")
        before = self.proc(self.daemon.pid, "io", "write_bytes")
        self.run(self.docker, "pull", "-q", self.name)
        peak = sum(self.proc(pid, "status", "VmHWM") for pid in processes)
        self.rest()
        written = self.proc(self.daemon.pid, "io", "write_bytes") - before
        self.row(f"peak memory of a pull, all processes{how}", peak / 1024, 100e6 / 2**20, "MiB")
        self.row(f"written by a pull{how}, of what there is", written / bytes_, 1.15, "×")

    def present(self):
        for command in (self.docker, self.podman, self.by_dockerd("")):
            if command:
                insecure = ["--tls-verify=false"] if command == self.podman else []
                self.run(*command.split(), "pull", "-q", *insecure, self.name)
        nothing = lambda: None
        moss, docker, podman, dockerd_ = self.medians(
            (nothing, f"{self.moss} pull -q {self.name}"), (nothing, f"{self.docker} pull -q {self.name}"),
            (nothing, self.podman and f"{self.podman} pull -q --tls-verify=false {self.name}"),
            (nothing, self.by_dockerd(f"pull -q {self.name}")))
        self.beside("pull, all layers present", podman, 0.2, dockerd_, docker=docker, moss=moss)

    def archives(self):
        saved = self.top + "/saved.tar"
        unsaved = lambda: os.path.exists(saved) and os.remove(saved)
        engines = [command for command in (self.docker, self.podman, self.by_dockerd("")) if command]
        for command in engines:
            self.run(*command.split(), "load", "-q", "-i", self.archive)
        saves = f"save -o {saved} {NAME}"
        docker, moss, podman, dockerd_ = self.medians(
            (unsaved, f"{self.docker} {saves}"), (unsaved, f"{self.moss} {saves}"),
            (unsaved, self.podman and f"{self.podman} save -q -o {saved} localhost/{NAME}"), (unsaved, self.by_dockerd(saves)))
        self.beside("save", podman, 0.5, dockerd_, docker=docker, moss=moss)
        unsaved()
        emptied = self.gone(self.docker, self.name, NAME)
        loads = f"load -q -i {self.archive}"
        docker, moss, podman, dockerd_ = self.medians(
            (emptied, f"{self.docker} {loads}"), (emptied, f"{self.moss} {loads}"),
            (self.gone(self.podman, self.name, NAME), self.podman and f"{self.podman} {loads}"),
            (self.dockerd_gone(self.name, NAME), self.by_dockerd(loads)))
        self.beside("load", podman, 0.5, dockerd_, docker=docker, moss=moss)

    def pushes(self):
        """To a registry with nothing in it, of an image that came from an archive."""
        targets = []

        def fresh(engine):
            def undo():
                while targets:
                    targets.pop().close()
                targets.append(Registry(self.top + "/target"))
                if engine:
                    self.run(*engine.split(), "tag", NAME, f"{targets[0].host}/{NAME}")
                with open(self.top + "/target.name", "w", encoding="utf-8") as file:
                    file.write(f"{targets[0].host}/{NAME}")
            return undo

        for command in (self.docker, self.podman, self.by_dockerd("")):
            if command:
                self.run(*command.split(), "load", "-q", "-i", self.archive)
        name = f"$(cat {self.top}/target.name)"
        docker, moss, podman, dockerd_ = self.medians(
            (fresh(self.docker), f"{self.docker} push -q {name}"), (fresh(self.docker), f"{self.moss} push -q {name}"),
            (fresh(self.podman), self.podman and f"{self.podman} push -q --tls-verify=false {name}"),
            (fresh(self.by_dockerd("")), self.by_dockerd(f"push -q {name}")))
        for target in targets:
            target.close()
        self.beside("push to an empty registry", podman, 0.5, dockerd_, docker=docker, moss=moss)
