"""Real services from Debian's packages, and clients other than the docker CLI."""

import os
import subprocess
import textwrap
import unittest

from harness import Case, check, eventually, need, need_image, once, run


class Services(Case):
    def loaded(self, image, archive):
        self.daemon.load(archive)
        self.addCleanup(self.docker, "rmi", "-f", image, code=None)

    def test_postgres(self):
        self.loaded("postgres:15", "postgres.tar")
        name = self.name()
        self.docker("run", "-d", "--name", name, "--shm-size", "128m", "-e", "POSTGRES_PASSWORD=x", "postgres:15")
        eventually(lambda: "ready to accept connections" in (lambda r: r.out + r.err)(self.docker("logs", name)),
                   "ready to accept connections", 60)
        eventually(lambda: self.docker("exec", name, "psql", "-U", "postgres", "-Atc", "select 1", code=None).out == "1\n", "psql -c 'select 1'", 20)
        self.docker("exec", "-u", "postgres", name, "psql", "-Atc", "select count(*) from pg_database", out="3")
        self.docker("exec", name, "df", "-k", "/dev/shm", code=0)
        self.docker("stop", name)
        self.equal(self.field(name, "{{.State.ExitCode}}"), "0", "exit code of postgres after its stop signal SIGINT")
        self.docker("start", name)
        eventually(lambda: self.docker("exec", name, "psql", "-U", "postgres", "-Atc", "select 2", code=None).out == "2\n",
                   "the cluster up again from its volume", 30)
        self.docker("rm", "-f", "-v", name)

    def test_redis(self):
        self.loaded("redis:7", "redis.tar")
        name = self.run_detached(image="redis:7", command=())
        eventually(lambda: self.docker("exec", name, "redis-cli", "ping", code=None).out == "PONG\n", "PONG", 20)
        self.docker("exec", name, "redis-cli", "set", "k", "v", out="OK")
        self.docker("exec", name, "redis-cli", "get", "k", out="v")

    def test_nginx(self):
        self.loaded("nginx:1", "nginx.tar")
        name = self.run_detached(image="nginx:1", command=())
        page = lambda: self.docker("run", "--rm", "--network", "container:" + name, "busybox", "wget", "-qO-", "http://127.0.0.1/", code=None).out
        eventually(lambda: "nginx" in page(), "a page from nginx", 20)
        self.docker("stop", name)
        self.equal(self.field(name, "{{.State.ExitCode}}"), "0", "exit code after SIGQUIT")

    def test_debian(self):
        self.docker("run", "--rm", "debian:bookworm", "sh", "-c", "apt-get --version | head -1; dpkg -l | wc -l; su -s /bin/sh daemon -c id",
                    timeout=30)


@once
class Clients(Case):
    def test_skopeo(self):
        skopeo = need("skopeo")
        got = run([skopeo, "inspect", "--daemon-host", self.daemon.env["DOCKER_HOST"], "--config", "docker-daemon:busybox:latest"], env=self.daemon.env)
        check(got)

    def test_skopeo_writes(self):
        """skopeo takes the head of an answer to a load for its end."""
        skopeo = need("skopeo")
        archive = need_image("redis.tar")
        check(run([skopeo, "copy", "--dest-daemon-host", self.daemon.env["DOCKER_HOST"], "docker-archive:" + archive, "docker-daemon:by-skopeo:1"],
                  env=self.daemon.env))
        check(self.docker("image", "inspect", "by-skopeo:1"))
        check(self.docker("rmi", "by-skopeo:1"))

    def test_docker_py(self):
        python = os.environ.get("MOSS_TEST_PYTHON", "/usr/bin/python3")
        if subprocess.run([python, "-c", "import docker"], capture_output=True, check=False).returncode:
            raise unittest.SkipTest("docker SDK for Python is missing")
        script = textwrap.dedent("""
            import docker
            client = docker.from_env()
            assert client.ping() and client.version()["ApiVersion"]
            assert client.containers.run("busybox", ["echo", "hello"], remove=True) == b"hello\\n"
            box = client.containers.run("busybox", ["sh", "-c", "echo up; sleep 1000"], detach=True, name="by-docker-py", labels={"k": "v"})
            try:
                assert box.status == "created" or box.status == "running"
                box.reload()
                assert box.attrs["State"]["Running"]
                assert box.exec_run(["sh", "-c", "echo in; exit 3"]) == (3, b"in\\n")
                code, (out, err) = box.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True)
                assert (code, out, err) == (0, b"out\\n", b"err\\n"), (code, out, err)
                assert box.logs() == b"up\\n"
                assert box in client.containers.list(filters={"label": "k=v"})
                assert box.top()["Processes"]
                box.kill()
                assert box.wait()["StatusCode"] == 137
            finally:
                box.remove(force=True)
            assert any("busybox:latest" in image.tags for image in client.images.list())
            try:
                client.containers.get("nosuch")
                raise SystemExit("a container that is not there")
            except docker.errors.NotFound:
                pass
            try:
                client.containers.run("busybox", ["sh", "-c", "exit 2"], remove=True)
                raise SystemExit("no error")
            except docker.errors.ContainerError as error:
                assert error.exit_status == 2
            print("all well")
        """)
        check(run([python, "-c", script], env=self.daemon.env), out="all well")
