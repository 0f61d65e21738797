"""Debian's dockerd as its users run it without root: rootlesskit around it, overlay2 below, the host's network.

Its programs are taken out of the packages, for installing those would start a daemon of root's. Where they cannot be
had, `why` says so and the bench goes on without this column.
"""

import glob
import os
import shutil
import subprocess
import tempfile
import time

from common import CACHE

DIRECTORY = CACHE + "/dockerd-20.10"
PACKAGES = {"docker.io": ["usr/sbin/dockerd"], "containerd": ["usr/bin/containerd", "usr/bin/containerd-shim-runc-v2"],
            "runc": ["usr/sbin/runc"]}
# What Debian's dockerd-rootless.sh does, for a daemon that shall run no container: it needs no network of its own.
CHILD = """#!/bin/sh
rm -f /run/docker /run/containerd /run/xtables.lock
exec dockerd --data-root {top}/dockerd-data --exec-root {runtime}/dockerd -p {runtime}/dockerd.pid -H unix://{runtime}/dockerd.sock \\
    --iptables=false --ip6tables=false --ip-forward=false --bridge=none --storage-driver=overlay2
"""


def fetch():
    """Root's part."""
    if all(os.path.exists(f"{DIRECTORY}/{os.path.basename(path)}") for paths in PACKAGES.values() for path in paths):
        return
    if not shutil.which("apt-get"):
        return
    work = tempfile.mkdtemp(prefix="dockerd.", dir=CACHE)
    try:
        subprocess.run(["apt-get", "-qq", "update"], check=False)
        for package, paths in PACKAGES.items():
            subprocess.run(["apt-get", "-qq", "download", package], cwd=work, check=True, stderr=subprocess.DEVNULL)
            subprocess.run(["dpkg-deb", "-x", glob.glob(f"{work}/{package}_*.deb")[0], work], check=True)
            os.makedirs(DIRECTORY, 0o755, exist_ok=True)
            for path in paths:
                shutil.move(f"{work}/{path}", f"{DIRECTORY}/{os.path.basename(path)}")
    except (subprocess.CalledProcessError, IndexError, OSError) as error:
        print("no dockerd to compare with:", error)
    finally:
        shutil.rmtree(work)


class Dockerd:
    """One that runs, or `why` not."""

    def __init__(self, bench):
        self.why = self.process = None
        for program in ("rootlesskit", "newuidmap"):
            if not shutil.which(program):
                self.why = f"{program} is missing"
                return
        if not os.path.exists(DIRECTORY + "/dockerd"):
            self.why = f"no {DIRECTORY}/dockerd"
            return
        script = bench.top + "/dockerd.sh"
        with open(script, "w", encoding="utf-8") as file:
            file.write(CHILD.format(top=bench.top, runtime=bench.runtime))
        os.chmod(script, 0o755)
        env = {**bench.env, "PATH": DIRECTORY + ":" + bench.env["PATH"]}
        self.docker = f"{bench.docker} -H unix://{bench.runtime}/dockerd.sock"
        self.log = open(bench.top + "/dockerd.log", "w+", encoding="utf-8")
        self.process = subprocess.Popen(["rootlesskit", "--net=host", "--copy-up=/etc", "--copy-up=/run", "--propagation=rslave", script],
                                        env=env, stdin=bench.null, stdout=self.log, stderr=self.log)
        for _ in range(200):
            if subprocess.run([*self.docker.split(), "version"], env=bench.env, capture_output=True, check=False).returncode == 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.close()
        self.log.seek(0)
        self.why = "it does not start: " + self.log.read()[-300:]

    def close(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None
