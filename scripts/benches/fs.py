"""Root filesystems: moss' drivers beside fuse-overlayfs and the kernel's overlayfs, same files, same machine.

The peers are mounted in a user namespace by hand, ours are a container's root. A script measures inside, so that
starting a container counts for nothing. No one syncs: moss' containers are `--rm` (volatile), and so are the peers.
"""

import io
import os
import random
import statistics
import subprocess
import tarfile

from common import CACHE, Bench

IMAGE, ARCHIVE = "nginx:1", "nginx.tar"
DIRECTORIES, FILES = 1560, 10

# Prints a name and milliseconds per line. What is written to the page cache stays there.
SCRIPT = r"""
t() { n=$1; shift; a=$(date +%s%N); "$@" >/dev/null 2>&1; b=$(date +%s%N); echo "$n $(((b - a) / 1000))"; }
mkdir -p work; cd work
t untar tar xf "$1"
t find-cold find . -ls
t find-warm find . -ls
t read-all grep -r no-such-text .
t write-1M dd if=/dev/zero of=big bs=1M count=256
t read-1M dd if=big of=/dev/null bs=1M
t rm-rf rm -rf tree
"""
# Share of fuse-overlayfs' and of the kernel's time that ours may take.
TARGETS = {"untar": (0.25, 1.5), "rm-rf": (0.25, 1.5), "find-warm": (None, 1.5), "find-cold": (None, 3),
           "write-1M": (None, 1.3), "read-1M": (None, 1.1)}


class Fs(Bench):
    """One table, a line for each thing that is done."""

    def measure(self):
        self.archive = self.top + "/tree.tar"
        make_archive(self.archive)
        os.chmod(self.top, 0o755)
        self.script = self.top + "/measure.sh"
        with open(self.script, "w", encoding="utf-8") as file:
            file.write(SCRIPT)
        self.run(self.docker, "load", "-i", f"{CACHE}/images/{ARCHIVE}")
        kinds = {"disk": self.disk, "kernel": self.kernel, "fuse-overlayfs": self.peer, "moss": self.ours}
        times = {kind: {} for kind in kinds}
        for _ in range(max(1, self.runs // 5)):
            for kind, measure in kinds.items():
                for line in measure().split("\n"):
                    name, _, micros = line.partition(" ")
                    if micros:
                        times[kind].setdefault(name, []).append(int(micros) / 1000)
        for name in times["moss"]:
            got = {kind: statistics.median(found[name]) for kind, found in times.items() if name in found}
            peer, kernel = TARGETS.get(name, (None, None))
            limits = [got[of] * share for of, share in (("fuse-overlayfs", peer), ("kernel", kernel)) if share and of in got]
            note = ", ".join(f"{kind} {got[kind]:.0f}" for kind in ("disk", "kernel", "fuse-overlayfs") if kind in got)
            self.row(name, got["moss"], min(limits, default=None), note=note)

    def inside(self, mount):
        """Runs the script on what `mount` mounts on m, in namespaces as moss has them."""
        place = subprocess.check_output(["mktemp", "-d", self.top + "/fs.XXXX"], text=True).strip()
        script = f"cd {place} && mkdir l1 l2 up wk m && {mount} && cd m && sh {self.script} {self.archive}; cd /; rm -rf {place}/m/work; umount {place}/m 2>/dev/null; rm -rf {place}"
        return subprocess.run(["unshare", "--user", "--map-root-user", "--map-auto", "--mount", "sh", "-c", script],
                              capture_output=True, text=True, check=False).stdout

    def disk(self):
        return self.inside("true")

    def kernel(self):
        return self.inside("mount -t overlay overlay -o userxattr,volatile,lowerdir=l1:l2,upperdir=up,workdir=wk m")

    def peer(self):
        return self.inside("fuse-overlayfs -o lowerdir=l1:l2,upperdir=up,workdir=wk,volatile,writeback=1 m 2>/dev/null")

    def ours(self):
        return self.run(self.docker, "run", "--rm", "--network", "none", "-v", f"{self.top}:/bench:ro", IMAGE,
                        "sh", "/bench/measure.sh", "/bench/tree.tar")

    def start(self):
        self.flags = ["--storage-driver", "fuse"]
        super().start()


def make_archive(path):
    """Files of a few KiB, as packages and sources have them; the same every time."""
    dice = random.Random(1)
    with tarfile.open(path, "w") as tar:
        for directory in range(DIRECTORIES):
            for file in range(FILES):
                entry = tarfile.TarInfo(f"tree/{directory % 40}/{directory}/{file}.c")
                entry.size = min(int(dice.expovariate(1 / 4000)), 100_000)
                entry.mtime = 1_000_000_000 + file
                tar.addfile(entry, io.BytesIO(dice.randbytes(entry.size)))
