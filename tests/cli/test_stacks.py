"""Stacks of several services, by clients that people use for them: docker-compose and testcontainers."""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import textwrap

from harness import check, eventually, need, once, run
from test_networks import Networked, get

COMPOSE = """
    version: "2.4"
    services:
      db:
        image: busybox
        command: sh -c "echo $${WORD} > /data/index.html; exec httpd -f -p 5432 -h /data"
        environment: [WORD=$WORD]
        volumes: ["kept:/data"]
        networks: {back: {aliases: [database]}}
        healthcheck: {test: "wget -q -O- http://localhost:5432/", interval: 100ms, retries: 100}
        stop_signal: SIGKILL
      web:
        image: busybox
        command: sh -c "hostname > /index.html; exec httpd -f -p 80 -h /"
        depends_on: {db: {condition: service_healthy}}
        ports: ["$PORTS:80"]
        networks: [front, back]
        stop_signal: SIGKILL
      shell:
        image: busybox
        command: sleep 1000
        depends_on: [web]
        links: ["web:site"]
        networks: [front]
        stop_signal: SIGKILL
    networks:
      front: {}
      back: {internal: true}
    volumes:
      kept: {}
"""

# What testcontainers' own reaper does: it is told labels on port 8080, and when who told them is gone,
# removes by the daemon's socket whatever bears them.
REAPER = r"""
    use IO::Socket::INET;
    use IO::Socket::UNIX;
    $| = 1;
    $door = IO::Socket::INET->new(LocalPort => 8080, Listen => 9) or die $!;
    print "Reaper Started!\n";
    $client = $door->accept;
    while (<$client>) { s/\s+$//; push @labels, $_ if s/^label=//; print $client "ACK\n" }
    sub api {
        my $api = IO::Socket::UNIX->new(Peer => "/var/run/docker.sock") or die $!;
        print $api "$_[0] /v1.41$_[1] HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n";
        join "", <$api>
    }
    for $label (@labels) {
        for $kind ("containers", "networks") {
            my $list = api("GET", $kind eq "networks" ? "/networks?filters=%7B%22label%22:[%22$label%22]%7D"
                                                      : "/containers/json?all=1&filters=%7B%22label%22:[%22$label%22]%7D");
            api("DELETE", "/$kind/$1?force=1&v=1") while $list =~ /"Id":"([0-9a-f]{64})"/g;
        }
    }
"""

TESTCONTAINERS = r"""
    import os, signal, urllib.request
    from testcontainers.core.container import DockerContainer, Reaper
    from testcontainers.core.network import Network
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    # It is spoken to without waiting for it to listen.
    def told():
        Reaper.get_instance()
        try:
            return Reaper._socket.recv(4) == b"ACK\n"
        except OSError:
            return False

    while not told():
        Reaper.delete_instance()
    network = Network().create()
    page = "echo served > /index.html; exec httpd -f -p 80 -h /"
    server = DockerContainer("busybox").with_command(["sh", "-c", page]).with_exposed_ports(80)
    server.with_network(network).with_network_aliases("site").waiting_for(HttpWaitStrategy(80)).start()
    url = f"http://{server.get_container_host_ip()}:{server.get_exposed_port(80)}/"
    print(urllib.request.urlopen(url).read().decode().strip())
    shell = DockerContainer("busybox").with_command("sleep 1000").with_network(network).start()
    print(shell.exec("wget -qO- http://site/").output.decode().strip(), flush=True)
    # With no time to tidy up.
    os.kill(os.getpid(), signal.SIGKILL)
"""


def free_ports(count):
    """As many ports in a row that nobody has just now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("0.0.0.0", 0))
            first = probe.getsockname()[1]
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("0.0.0.0", port))
            return first
        except (OSError, OverflowError):
            pass


@once
class Stacks(Networked):
    def compose(self, *args, code=0, out=None):
        return check(run([need("docker-compose"), "--no-ansi", *args], env=self.environment), code, out)

    def test_compose(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        with open(directory.name + "/docker-compose.yml", "w", encoding="utf-8") as file:
            file.write(textwrap.dedent(COMPOSE))
        first = free_ports(2)
        self.environment = {**self.daemon.env, "COMPOSE_FILE": file.name, "COMPOSE_PROJECT_NAME": "stack",
                            "PORTS": f"{first}-{first + 1}", "WORD": "first"}
        need("docker-compose")
        self.addCleanup(self.compose, "down", "-v", code=None)
        self.compose("up", "-d")
        within = lambda container, *command, **expected: self.docker("exec", "stack_" + container, *command, **expected)
        reads = lambda container, url, text: eventually(
            lambda: within(container, "wget", "-qO-", url, code=None).out.strip() == text, f"{text!r} at {url} in {container}", 20)
        self.compose("exec", "-T", "web", "wget", "-qO-", "http://database:5432/", out="first")
        within("shell_1", "nslookup", "-type=a", "db", code=1)
        name = within("web_1", "hostname").out.strip()
        reads("shell_1", "http://site/", name)
        published = int(self.compose("port", "web", "80").out.rsplit(":", 1)[1])
        self.equal((published in (first, first + 1), get(published)), (True, name), "the place of web's port, and who is there")
        # Another of them takes the other port, and both have the name.
        self.compose("up", "-d", "--scale", "web=2")
        self.serves(first + first + 1 - published, within("web_2", "hostname").out.strip())
        self.equal(within("shell_1", "nslookup", "-type=a", "web").out.count("Address: "), 2, "number of web's addresses")
        # A service that is another than before is made anew, with its volume, under its name.
        self.environment["WORD"] = "second"
        before = self.field("stack_db_1", "{{.Id}}")
        self.compose("up", "-d", "--scale", "web=1")
        self.equal(self.field("stack_db_1", "{{.Id}}") == before, False, "db is the old one")
        reads("web_1", "http://database:5432/", "second")
        name = within("web_1", "hostname").out.strip()
        reads("shell_1", "http://web/", name)
        self.compose("run", "--rm", "-T", "shell", "wget", "-qO-", "http://site/", out=name)
        self.compose("restart", "web")
        self.compose("ps", out=re.compile(r"(?s)stack_db_1 .*Up \(healthy\).*stack_web_1 .*Up"))
        self.compose("down", "-v")
        self.docker("ps", "-aq", "--filter", "label=com.docker.compose.project=stack", out="")
        for kind in ("network", "volume"):
            self.docker(kind, "ls", "-q", "--filter", "label=com.docker.compose.project=stack", out="")

    def test_testcontainers(self):
        python = os.environ.get("MOSS_TEST_PYTHON", "python3")
        if run([python, "-c", "import testcontainers"]).code:
            self.skipTest("testcontainers is not installed for " + python)
        reaper = self.name()
        self.docker("create", "--name", reaper, "debian:bookworm")
        self.docker("commit", "-c", "STOPSIGNAL SIGKILL", "-c", "ENTRYPOINT " + json.dumps(["perl", "-e", textwrap.dedent(REAPER)]), reaper, "reaper")
        self.addCleanup(self.docker, "rmi", "-f", "reaper", code=None)
        mine = ("ps", "-aq", "--filter", "label=org.testcontainers")
        done = run([python, "-c", textwrap.dedent(TESTCONTAINERS)], env={
            **self.daemon.env, "RYUK_CONTAINER_IMAGE": "reaper",
            # The tests themselves may run in a container of another engine, which is not where these are.
            "TESTCONTAINERS_CONNECTION_MODE": "docker_host"})
        check(done, code=-signal.SIGKILL, out="served\nserved")
        eventually(lambda: not self.docker(*mine).out, "an end of what bears testcontainers' labels", 20)
        self.docker("network", "ls", "-q", "--filter", "label=org.testcontainers", out="")
