"""Root filesystems: moss' FUSE driver beside fuse-overlayfs and the kernel's overlayfs, same files, same machine.

The peers are mounted in a user namespace by hand, ours are a container's root. A script measures inside, so that
starting a container counts for nothing. No one syncs: moss' containers are `--rm` (volatile), and so are the peers.
`cold` is the first time on a fresh mount, with the files of the layer in the page cache.

As root all is on an ext4 of the bench's own. One without a journal, which machines for a day tend to have, steps over each inode
that was freed in the last minutes: there whoever comes after another's removals is ten times slower, and nothing is compared.
"""

import io
import os
import random
import shutil
import statistics
import subprocess
import tarfile

from common import CACHE, Bench

IMAGE, ARCHIVE, LAYERED = "nginx:1", "nginx.tar", "fs-bench:1"
DIRECTORIES, FILES = 1560, 10
DISK = "/mnt"
OWN_DISK = f"""mount --make-rprivate / && file=$(mktemp) && truncate -s 16G "$file" && mkfs.ext4 -qF "$file" && mount -o loop "$file" {DISK} && rm "$file" && chmod 1777 {DISK}"""
TRACKED = 10_000  # files that `git status` looks at
PACKAGED = 4000  # files of the package

# Prints a name and microseconds per line. What is written to the page cache stays there.
TIME = r"""
t() { n=$1; shift; a=$(date +%s%N); "$@" >/dev/null 2>&1 || echo "failed: $*" >&2; b=$(date +%s%N); echo "$n $(((b - a) / 1000))"; }
random() { perl -e 'my ($how, $n) = @ARGV; open(my $f, "+<", "big") or die; srand 1; my $b = "x" x 4096; for (1..$n) { sysseek($f, 4096 * int rand 65536, 0);
  $how eq "w" ? syswrite($f, $b) : sysread($f, $b, 4096) }' "$@"; }
"""
SCRIPTS = {
    "files": r"""
mkdir -p work/root/var/lib/dpkg/info work/root/var/lib/dpkg/updates work/root/var/lib/dpkg/triggers; cd work; : >root/var/lib/dpkg/status
t untar tar xf "$1/tree.tar"
t find-warm find tree -ls
t read-all grep -r no-such-text tree
t write-1M dd if=/dev/zero of=big bs=1M count=256
t rewrite-1M dd if=/dev/zero of=big bs=1M count=256 conv=notrunc
t read-1M dd if=big of=/dev/null bs=1M
t read-4k-random random r 100000
t write-4k-random random w 30000
[ ! -e "$1/bench.deb" ] || t dpkg-i dpkg --root="$PWD/root" --force-not-root --force-script-chrootless --force-bad-path -i "$1/bench.deb"
t rm-rf rm -rf tree
""",
    "layer": r"""
cd layer
t find-cold find . -ls
t read-1M-cold dd if=big of=/dev/null bs=1M
""",
    "git": r"""
cd layer/repository
export HOME=/ LD_LIBRARY_PATH= GIT_OPTIONAL_LOCKS=0
git() { "$T/ld.so" --library-path "$T" "$T/git" -c safe.directory='*' "$@"; }
t git-status-cold git status
t git-status-warm git status
""",
}
# Share of fuse-overlayfs' and of the kernel's time that ours may take.
TARGETS = {"untar": (0.25, 1.5), "rm-rf": (0.25, 1.5), "dpkg-i": (0.25, 1.5), "git-status-warm": (0.25, 1.5), "git-status-cold": (None, 6),
           "find-warm": (None, 1.5), "find-cold": (None, 3), "write-1M": (None, 1.3), "rewrite-1M": (None, 1.1), "read-1M": (None, 1.1),
           "read-1M-cold": (None, 1.3), "read-4k-random": (None, 1.1), "write-4k-random": (None, 1.1)}


class Fs(Bench):
    """One table, a line for each thing that is done."""

    within = ["unshare", "--mount", "sh", "-c", OWN_DISK + ' && exec "$@"', "sh"]
    place = property(lambda self: DISK if os.path.ismount(DISK) else "/tmp")

    def measure(self):
        os.chmod(self.top, 0o755)
        make_archive(self.top + "/tree.tar", "tree", DIRECTORIES)
        self.make_layer()
        self.make_package()
        for name, script in SCRIPTS.items():
            with open(f"{self.top}/{name}.sh", "w", encoding="utf-8") as file:
                file.write(TIME + 'T="$1/tools"\n' + script)
        self.run(self.docker, "load", "-i", f"{CACHE}/images/{ARCHIVE}")
        self.make_image()
        kinds = {"disk": self.disk, "kernel": self.kernel, "fuse-overlayfs": self.peer, "moss": self.ours}
        times = {kind: {} for kind in kinds}
        for _ in range(max(1, self.runs // 5)):
            for script in SCRIPTS:
                for kind, measure in kinds.items():
                    for line in measure(script).split("\n"):
                        name, _, micros = line.partition(" ")
                        if micros.isdigit():
                            times[kind].setdefault(name, []).append(int(micros) / 1000)
        for name in times["moss"]:
            got = {kind: statistics.median(found[name]) for kind, found in times.items() if name in found}
            peer, kernel = TARGETS.get(name, (None, None))
            limits = [got[of] * share for of, share in (("fuse-overlayfs", peer), ("kernel", kernel)) if share and of in got]
            note = ", ".join(f"{kind} {got[kind]:.0f}" for kind in ("disk", "kernel", "fuse-overlayfs") if kind in got)
            self.row(name, got["moss"], min(limits, default=None), note=note)
        self.memory()

    def inside(self, script, mount):
        """Runs a script on what `mount` mounts on m, in namespaces as moss has them."""
        place = subprocess.check_output(["mktemp", "-d", self.top + "/fs.XXXX"], text=True).strip()
        steps = (f"cd {place} && mkdir l2 up wk m && cp -a {self.top}/l1 l1 && {mount} && cd m && sh {self.top}/{script}.sh {self.top}; "
                 f"cd /; rm -rf {place}/m/work; umount {place}/m 2>/dev/null; rm -rf {place}")
        return subprocess.run(["unshare", "--user", "--map-root-user", "--map-auto", "--mount", "sh", "-c", steps],
                              capture_output=True, text=True, check=False).stdout

    def disk(self, script):
        return self.inside(script, "cp -a l1/. m")

    def kernel(self, script):
        return self.inside(script, "mount -t overlay overlay -o userxattr,volatile,lowerdir=l1:l2,upperdir=up,workdir=wk m")

    def peer(self, script):
        return self.inside(script, "fuse-overlayfs -o lowerdir=l1:l2,upperdir=up,workdir=wk,volatile,writeback=1 m 2>/dev/null")

    def ours(self, script):
        return self.run(self.docker, "run", "--rm", "--network", "none", "-v", f"{self.top}:/bench:ro", LAYERED,
                        "sh", f"/bench/{script}.sh", "/bench")

    def memory(self):
        """The server's: of a mount that was not walked, and what each file adds that the kernel knows."""
        self.run(self.docker, "run", "-d", "--name", "box", "--network", "none", "-v", f"{self.top}:/bench:ro", LAYERED, "sleep", "1000")
        run = ("exec", "box", "sh", "-c")
        idle = self.server_pss()
        self.row("server of a mount that was not walked, PSS", idle / 1024, 4, "MiB")
        count = int(self.run(self.docker, *run, "find / -xdev -ls | wc -l"))
        self.row(f"each of {count} files of layers", (self.server_pss() - idle) * 1024 / count, 250, "bytes")
        idle = self.server_pss()
        made = int(self.run(self.docker, *run, "tar xf /bench/tree.tar; find tree -ls | wc -l"))
        self.row(f"each of {made} new files", (self.server_pss() - idle) * 1024 / made, 250, "bytes")
        self.run(self.docker, "rm", "-f", "box")

    def server_pss(self):
        shim = self.proc(int(self.run(self.docker, "inspect", "-f", "{{.State.Pid}}", "box")), "status", "PPid")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                    if file.read() == "moss-fuse\n" and self.proc(pid, "status", "PPid") == shim:
                        return self.proc(pid, "smaps_rollup", "Pss")
            except (OSError, TypeError):
                continue
        raise SystemExit("no server")

    def start(self):
        self.flags = ["--storage-driver", "fuse"]
        super().start()

    def make_layer(self):
        """Files of a layer, with a repository in which nothing is changed."""
        layer, tools = self.top + "/l1/layer", self.top + "/tools"
        os.makedirs(layer + "/repository")
        os.mkdir(tools)
        git = shutil.which("git")
        make_archive(self.top + "/layer.tar", "repository", TRACKED // FILES)
        with tarfile.open(self.top + "/layer.tar") as tar:
            tar.extractall(layer)
        with open(layer + "/big", "wb") as file:
            for _ in range(64):
                file.write(os.urandom(1 << 20))
        os.mkdir(layer + "/work")
        if git:
            # An image's copy has other inodes and change times.
            for words in (["init", "-q"], ["config", "core.checkStat", "minimal"], ["config", "core.trustctime", "false"], ["add", "-A"]):
                subprocess.run([git, *words], cwd=layer + "/repository", check=True, env={**self.env, "GIT_CONFIG_NOSYSTEM": "1"})
            self.take_along(git, tools)

    def take_along(self, program, tools):
        """A program with its libraries, to be run on any root."""
        shutil.copy(program, tools + "/git")
        for line in subprocess.check_output(["ldd", program], text=True).split("\n"):
            path = next((word for word in line.split() if word.startswith("/")), None)
            if path:
                shutil.copy(path, tools)
                if "/ld-" in path:
                    shutil.copy(path, tools + "/ld.so")

    def make_package(self):
        if not shutil.which("dpkg-deb"):
            return
        root = self.top + "/package"
        os.makedirs(root + "/DEBIAN")
        with open(root + "/DEBIAN/control", "w", encoding="utf-8") as file:
            file.write("Package: bench\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: files\n")
        make_archive(self.top + "/package.tar", "usr/share/bench", PACKAGED // FILES)
        with tarfile.open(self.top + "/package.tar") as tar:
            tar.extractall(root)
        subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", root, self.top + "/bench.deb"], check=True, capture_output=True)
        shutil.rmtree(root)

    def make_image(self):
        """The peers' layer on top of an image's."""
        made = self.run(self.docker, "create", IMAGE)
        tar = subprocess.Popen(["tar", "-C", self.top + "/l1", "-c", "."], stdout=subprocess.PIPE)
        subprocess.run([self.docker, "cp", "-", made + ":/"], stdin=tar.stdout, env=self.env, check=True)
        self.run(self.docker, "commit", made, LAYERED)
        self.run(self.docker, "rm", made)


def make_archive(path, top, directories):
    """Files of a few KiB, as packages and sources have them; the same every time."""
    dice = random.Random(1)
    with tarfile.open(path, "w") as tar:
        for directory in range(directories):
            for file in range(FILES):
                entry = tarfile.TarInfo(f"{top}/{directory % 40}/{directory}/{file}.c")
                entry.size = min(int(dice.expovariate(1 / 4000)), 100_000)
                entry.mtime = 1_000_000_000 + file
                tar.addfile(entry, io.BytesIO(dice.randbytes(entry.size)))
