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
