"""What is asked of networks and of places in them, and what is shown of it."""

from harness import once
from test_networks import Networked


@once
class Settings(Networked):
    def test_hosts_of_the_host(self):
        with open("/etc/hosts") as file:
            hosts = file.read()
        self.equal(self.docker("run", "--rm", "--network", "host", "busybox", "cat", "/etc/hosts").out, hosts, "/etc/hosts in the host's network")
        # With more in it, it is not the host's any more.
        self.docker("run", "--rm", "--network", "host", "--add-host", "more:192.0.2.7", "busybox", "sed", "-n", "1p;$p", "/etc/hosts",
                    out="127.0.0.1\tlocalhost\n192.0.2.7\tmore")

    def test_places_of_one_that_has_ended(self):
        network, name = self.network(), self.name()
        self.docker("create", "--name", name, "--network", network, "--network-alias", "web", "busybox", "sleep", "1000")

        def place():
            shown = self.daemon.http("GET", f"/v1.51/containers/{name}/json")[2]["NetworkSettings"]["Networks"][network]
            return [shown[field] for field in ("NetworkID", "DNSNames", "EndpointID", "IPAddress")]
        self.equal(place(), ["", None, "", ""], "the place of one that never ran")
        self.docker("start", name)
        self.docker("kill", name)
        self.docker("wait", name)
        known = [self.field(network, "{{.Id}}", "network"), [name, "web", self.field(name, "{{.Id}}")[:12]]]
        self.equal(place(), [*known, "", ""], "the place of one that has ended")

    def test_networks_of_a_scope(self):
        for scope, expected in (("", 200), ("local", 200), ("swarm", 404)):
            status, _, body = self.daemon.http("GET", f"/v1.51/networks/bridge?scope={scope}")
            self.equal(status, expected, f"status with scope={scope}")
        self.equal(body, {"message": "network bridge not found"}, "the answer")
