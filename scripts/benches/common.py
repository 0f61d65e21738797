"""What the benches share: the two engines in one temporary directory, commands timed in turn, and the table."""

import json
import os
import pwd
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

RUNS = int(os.environ.get("MOSS_BENCH_RUNS", "15"))
CACHE = os.environ.get("MOSS_TEST_CACHE", "/var/cache/moss-test")
PARTS = os.environ.get("MOSS_BENCH_PARTS", "")
USER = "mosstest"
REST = 0.3  # seconds between two commands

STORAGE = '[storage]\ndriver = "overlay"\nrunroot = "{runtime}/peer-run"\ngraphroot = "{top}/peer-data"\n'
CONTAINERS = '[containers]\ncgroups = "disabled"\n[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "crun"\n'


def become_user(name, moss_binary, bench):
    """Root's part: packages, namespaces, and then the user for good."""
    missing = [package for program, package in bench.programs.items() if not shutil.which(program)]
    if missing and shutil.which("apt-get"):
        subprocess.run(["apt-get", "-qq", "update"], check=False)
        subprocess.run(["apt-get", "-qq", "-y", "--no-install-recommends", "install", *missing], check=False, stdout=sys.stderr)
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        sys.exit(f"scripts/bench: no user {USER}: scripts/test setup makes it")
    moss = tempfile.mkdtemp(prefix="moss-bench.", dir="/tmp")
    os.chmod(moss, 0o755)
    shutil.copy(moss_binary, moss + "/moss")
    shutil.copytree(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), moss + "/scripts")
    bench.prepare()
    inner = "mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\""
    try:
        return subprocess.run(
            [*bench.within, "unshare", "--mount", "sh", "-c", inner, "sh", "setpriv", "--reuid", USER, "--regid", USER, "--init-groups",
             "env", "-i", "HOME=" + user.pw_dir, "USER=" + USER, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
             "LANG=C.UTF-8", f"MOSS_BENCH_RUNS={RUNS}", f"MOSS_TEST_CACHE={CACHE}", f"MOSS_BENCH_PARTS={PARTS}",
             "/usr/bin/python3", moss + "/scripts/bench", name, moss + "/moss"], cwd=user.pw_dir, check=False).returncode
    finally:
        shutil.rmtree(moss)


class Bench:
    """The two engines in one temporary directory."""

    programs = {"podman": "podman", "crun": "crun", "fuse-overlayfs": "fuse-overlayfs"}  # and their packages
    within = []  # the words before a command that root runs the bench with
    place = "/tmp"  # where all is kept

    @classmethod
    def prepare(cls):
        """What else root has to do."""

    def __init__(self, moss):
        self.moss = moss
        self.runs = RUNS
        self.flags = []  # the daemon's
        self.docker = shutil.which("docker") or CACHE + "/docker-20.10/docker"
        self.podman = shutil.which("podman")
        self.top = tempfile.mkdtemp(prefix="mb.", dir=self.place)
        # A runtime directory is a tmpfs where there is a session; both engines keep theirs here.
        self.runtime = tempfile.mkdtemp(prefix="mb.", dir="/dev/shm")
        os.symlink(self.runtime, self.top + "/run")
        for name in ("data", "config/containers", "home", "docker"):
            os.makedirs(f"{self.top}/{name}", 0o700)
        self.env = {**os.environ, "HOME": self.top + "/home", "XDG_RUNTIME_DIR": self.runtime, "XDG_DATA_HOME": self.top + "/data",
                    "XDG_CONFIG_HOME": self.top + "/config", "DOCKER_CONFIG": self.top + "/docker",
                    "DOCKER_HOST": f"unix://{self.runtime}/moss.sock"}
        for name, text in (("storage", STORAGE), ("containers", CONTAINERS)):
            with open(f"{self.top}/config/containers/{name}.conf", "w", encoding="utf-8") as file:
                file.write(text.format(top=self.top, runtime=self.runtime))
        with open(self.top + "/docker/config.json", "w", encoding="utf-8") as file:
            file.write("{}")  # podman reads it too, and wants it to exist
        self.log = open(self.top + "/daemon.log", "wb")
        self.null = os.open("/dev/null", os.O_RDWR)
        self.rows = []

    def run(self, *command):
        done = subprocess.run(command, env=self.env, stdin=self.null, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"$ {' '.join(command)}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def time(self, *command):
        """One run in ms, from before the spawn to the reaped child."""
        begun = time.perf_counter()
        quiet = [(os.POSIX_SPAWN_DUP2, self.null, fd) for fd in (0, 1, 2)]
        pid = os.posix_spawn(command[0], command, self.env, file_actions=quiet)
        status = os.waitpid(pid, 0)[1]
        if status:
            self.run(*command)
        return (time.perf_counter() - begun) * 1000

    def compare(self, *commands, runs=RUNS):
        """Medians of several commands run in turn, so that a busy minute falls on all of them."""
        times = [[] for _ in commands]
        for _ in range(runs):
            for command, column in zip(commands, times):
                if command:
                    # What an engine does after its command has returned is not the next one's.
                    time.sleep(REST)
                    column.append(self.time(*command))
        return [statistics.median(column) if column else None for column in times]

    def row(self, what, got, target, unit="ms", note="", least=False):
        """One figure; the target is the most that it may be, or the least."""
        verdict = "" if target is None else ("ok" if (got >= target if least else got <= target) else "OVER")
        wanted = "" if target is None else f"{'≥ ' if least else ''}{target:.2f}"
        self.rows.append((what, f"{got:.2f}", wanted, unit, verdict, note))
        print(f"{what:46} {got:10.2f} {wanted:>10} {unit:5} {verdict:5} {note}", flush=True)

    def start(self):
        self.daemon = subprocess.Popen([self.moss, "daemon", "--debug", *self.flags], env=self.env, stdin=self.null, stdout=self.log, stderr=self.log)
        for _ in range(500):
            if subprocess.run([self.docker, "version"], env=self.env, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.02)

    def proc(self, pid, file, key):
        with open(f"/proc/{pid}/{file}", encoding="utf-8") as status:
            return int(re.search(rf"^{key}:\s+(\d+)", status.read(), re.M)[1])

    def keeper(self):
        """By its identity file: shims have its command line."""
        with open(self.top + "/run/moss/keeper.json", encoding="utf-8") as file:
            return json.load(file)["pid"]

    def close(self):
        ids = subprocess.run([self.docker, "ps", "-aq"], env=self.env, capture_output=True, text=True, check=False).stdout.split()
        if ids:
            subprocess.run([self.docker, "rm", "-f", *ids], env=self.env, capture_output=True, check=False)
        self.daemon.terminate()
        self.daemon.wait()
        check = subprocess.run([self.moss, "system", "check"], env=self.env, capture_output=True, text=True, check=False)
        print("moss system check:", "clean" if check.returncode == 0 else check.stdout + check.stderr)
        if self.podman:
            subprocess.run([self.podman, "rm", "-f", "-a", "-t", "0"], env=self.env, capture_output=True, check=False)
            self.end_pause()
        subprocess.run(["unshare", "--user", "--map-root-user", "--map-auto", "rm", "-rf", self.top, self.runtime], check=False)

    def end_pause(self):
        """podman's pause process holds a mount namespace in which its store is busy."""
        try:
            with open(self.top + "/run/libpod/tmp/pause.pid", encoding="utf-8") as file:
                os.kill(int(file.read()), 9)
            time.sleep(0.2)
        except (OSError, ValueError):
            pass

    def main(self):
        with open("/proc/loadavg", encoding="utf-8") as load:
            print(f"Linux {os.uname().release}, {os.cpu_count()} cores, load {load.read().split()[0]}, medians of {self.runs}")
        print(f"{'':46} {'measured':>10} {'at most':>10}")
        self.start()
        try:
            self.measure()
        finally:
            self.close()
