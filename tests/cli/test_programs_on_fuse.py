"""Programs that work a filesystem hard, to their ends, on a root filesystem of the FUSE overlay."""

import inspect
import os
import re
import unittest

import world
from harness import Daemon, check, eventually, need_image, once

# Patience of a program that does much, in seconds.
LONG = 240

# A program of three crates that need no others.
CRATES = {
    "Cargo.toml": '[package]\nname = "whole"\nversion = "1.0.0"\nedition = "2021"\n'
                  '[dependencies]\none = { path = "one" }\ntwo = { path = "two" }\n',
    "src/main.rs": 'fn main() { println!("{}", one::word() + &two::number().to_string()) }\n',
    "one/Cargo.toml": '[package]\nname = "one"\nversion = "1.0.0"\nedition = "2021"\n',
    "one/src/lib.rs": 'pub fn word() -> String { "built ".into() }\n',
    "two/Cargo.toml": '[package]\nname = "two"\nversion = "1.0.0"\nedition = "2021"\n',
    "two/src/lib.rs": "pub fn number() -> usize { vec![1, 2, 3].iter().sum() }\n",
}


@once
class OnFuse(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        for image in ("tools.tar", "postgres.tar", "redis.tar"):
            need_image(image)
        if not os.path.exists("/dev/fuse"):
            raise unittest.SkipTest("no /dev/fuse")
        cls.daemon = Daemon(start=False)
        cls.addClassCleanup(lambda: check(cls.daemon.close()))
        cls.daemon.start("--storage-driver", "fuse")
        cls.daemon.load("tools.tar", "postgres.tar", "redis.tar")

    def docker(self, *args, **expected):
        return self.daemon.docker(*args, **{"timeout": LONG, **expected})

    def on_tools(self, *args, shell, **expected):
        return self.docker("run", "--rm", *args, "tools:1", "bash", "-ec", shell, **expected)

    def on_python(self, script, **expected):
        """Runs a script that has the functions of `world`."""
        return self.docker("run", "--rm", "-i", "tools:1", "python3", "-", stdin=inspect.getsource(world).rpartition("if __name__")[0] + script, **expected)

    def test_apt_and_dpkg(self):
        """Package files are installed, upgraded, removed; what the image has is removed too."""
        self.on_python("""
files = {f"usr/share/odd/{number}": str(number) for number in range(500)}
files["etc/odd.conf"] = files["DEBIAN/conffiles"] = "/etc/odd.conf\\n"
files["DEBIAN/postinst"] = "#!/bin/sh\\necho set up >> /odd.log\\n"
one = package("/d", "odd", "1", files)
del files["usr/share/odd/1"]
two = package("/d", "odd", "2", {**files, "usr/share/odd/0": "new", "usr/share/odd/1/in": " a directory now"})
subprocess.run(["bash", "-ec", f'''
    apt-get -qq -y install {one} >/dev/null 2>&1; cat /usr/share/odd/1; ls /usr/share/odd | wc -l; echo changed >> /etc/odd.conf
    dpkg --force-confold -i {two} >/dev/null; cat /usr/share/odd/0 /usr/share/odd/1/in; echo; dpkg --verify odd; tail -n 1 /etc/odd.conf; cat /odd.log
    apt-get -qq -y purge odd traceroute >/dev/null 2>&1; ls -d /usr/share/odd /etc/odd.conf /usr/sbin/traceroute 2>/dev/null || dpkg --audit
'''], check=True)
""", out=re.compile(r"^1500\nnew a directory now\n\?\?5\?+ c /etc/odd.conf\nchanged\nset up\nset up\n$"))

    def test_git(self):
        self.on_tools(shell="""mkdir /r; cd /r; git init -q -b main; git config user.name x; git config user.email x
            for d in $(seq 24); do mkdir -p d$d/e; for f in $(seq 50); do echo $d $f > d$d/e/f$f; done; done
            git add .; git commit -qm first; git status --porcelain; git mv d1 moved; echo more >> d2/e/f1; git status --porcelain | wc -l
            git commit -qam second; git gc -q; git fsck; git clone -q /r /clone; git clone -q file:///r /packed; cd /clone; git status --porcelain
            git ls-files | wc -l; git checkout -q HEAD~1; git status --porcelain; ls d1/e | wc -l; git -C /packed log --oneline | wc -l""",
                      out="51\n1200\n50\n2")

    def test_python(self):
        self.on_python("""
os.mkdir("/w"); wheel("/w", "worldlywheel")
print(subprocess.run(["bash", "-ec", "python3 -m venv /v; /v/bin/pip -q --disable-pip-version-check install --no-index --find-links /w worldlywheel;"
    "/v/bin/python -c 'import worldlywheel; print(worldlywheel.WORD)'; python3 -m compileall -q -f /usr/lib/python3.11/{asyncio,email,json};"
    "/v/bin/pip -q uninstall -y worldlywheel; /v/bin/python -c 'import worldlywheel' 2>&1 | tail -n 1"], check=True, capture_output=True, text=True).stdout)
""", out="from a wheel\nModuleNotFoundError: No module named 'worldlywheel'")

    def test_rust(self):
        toolchain = os.environ.get("MOSS_TEST_RUST")
        if not toolchain or not os.path.exists(toolchain + "/bin/cargo"):
            self.skipTest("no Rust toolchain that the user may read (MOSS_TEST_RUST)")
        files = "".join(f"mkdir -p $(dirname {path}); cat > {path} <<'END'\n{text}END\n" for path, text in CRATES.items())
        self.on_tools("-v", toolchain + ":/rust:ro", "-w", "/whole", shell=files + """
            export PATH=/rust/bin:$PATH; cargo -q run --offline; sed -i s/built/rebuilt/ one/src/lib.rs; touch -d '2 seconds' one/src/lib.rs; cargo -q run --offline""",
                      out="built 6\nrebuilt 6")

    def test_postgres(self):
        """The cluster is on the root filesystem, not in a volume; the second start recovers it."""
        self.docker("run", "-d", "--name", "pg", "-e", "PGDATA=/srv/pg", "-e", "POSTGRES_PASSWORD=x", "postgres:15")
        psql = lambda command, **expected: self.docker("exec", "pg", "psql", "-h", "/var/run/postgresql", "-U", "postgres", "-qAtc", command, **expected)
        # Where it listens at TCP it's the server that stays.
        ready = lambda: self.docker("exec", "pg", "pg_isready", "-q", "-h", "127.0.0.1", code=None).code == 0
        eventually(ready, "a server", 60)
        psql("create table t (n int primary key, s text); insert into t select n, repeat('x', 100) from generate_series(1, 20000) n")
        psql("update t set s = n::text where n % 2 = 0")
        psql("vacuum full t")
        self.docker("kill", "-s", "KILL", "pg")
        self.docker("wait", "pg", out="137")
        self.docker("start", "pg")
        eventually(ready, "a server again", 60)
        psql("select count(*), sum(length(s)) from t", out="20000|1044449")
        self.docker("stop", "pg")
        self.docker("inspect", "-f", "{{.State.ExitCode}}", "pg", out="0")
        self.docker("rm", "-v", "pg")

    def test_redis(self):
        self.docker("run", "-d", "--name", "redis", "-u", "0", "-w", "/srv", "redis:7", "redis-server", "--appendonly", "yes", "--appendfsync", "always")
        redis = lambda *command, **expected: self.docker("exec", "redis", "redis-cli", *command, **expected)
        ready = lambda: redis("ping", code=None).out == "PONG\n"
        eventually(ready, "PONG", 30)
        redis("eval", "for i = 1, 5000 do redis.call('set', 'k' .. i, i) end return redis.call('dbsize')", "0", out="5000")
        redis("bgrewriteaof")
        redis("save", out="OK")
        self.docker("kill", "-s", "KILL", "redis")
        self.docker("start", "redis")
        eventually(ready, "PONG again", 30)
        redis("get", "k4999", out="4999")
        self.docker("rm", "-f", "-v", "redis")
