"""daemon.json's say on registries, at the start and by SIGHUP."""

import json
import os
import re
import signal
import unittest

import accounts
import harness
import registry
from harness import Daemon, check, eventually, once
from registry import digest, layer


@once
class Reload(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(start=False)
        self.addCleanup(self.end)
        self.file = self.daemon.env["XDG_CONFIG_HOME"] + "/moss/daemon.json"
        os.makedirs(os.path.dirname(self.file))
        self.registry = registry.Registry()
        self.addCleanup(self.registry.close)

    def end(self):
        leaks = self.daemon.close()
        if leaks is not None:
            check(leaks)

    def write(self, text):
        # Put in place whole, as an editor does: it may be read at any time.
        with open(self.file + ".new", "w", encoding="utf-8") as file:
            file.write(text if isinstance(text, str) else json.dumps(text))
        os.rename(self.file + ".new", self.file)

    def reload(self, text):
        """Writes the file and waits until the daemon has read it."""
        self.write(text)
        seen = len(self.reloads())
        self.daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(self.reloads()) > seen, "an event that tells of the reload")

    def reloads(self):
        out = self.daemon.docker("events", "--since", "0", "--until", "0s", "--filter", "event=reload", "--format", "{{json .}}").out
        return [json.loads(line) for line in out.splitlines()]

    def equal(self, got, expected, what):
        if got != expected:
            harness.fail(what, repr(expected), repr(got))

    def info(self):
        return self.daemon.http("GET", "/info")[2]

    def test_what_is_shown(self):
        self.write({"insecure-registries": ["10.1.2.3/8", "r.example:5000"], "registry-mirrors": ["https://m.example"],
                    "labels": ["a=b"], "proxies": {"https-proxy": "http://u:p@proxy.example:1", "no-proxy": "x"}})
        self.daemon.start()
        info = self.info()
        mirrors = ["https://m.example/"]
        self.equal(info["RegistryConfig"], {
            "InsecureRegistryCIDRs": ["10.0.0.0/8", "::1/128", "127.0.0.0/8"], "Mirrors": mirrors,
            "IndexConfigs": {
                "docker.io": {"Name": "docker.io", "Mirrors": mirrors, "Secure": True, "Official": True},
                "r.example:5000": {"Name": "r.example:5000", "Mirrors": [], "Secure": False, "Official": False}}}, "RegistryConfig")
        self.equal([info[name] for name in ("Labels", "HttpsProxy", "NoProxy")],
                   [["a=b"], "http://xxxxx:xxxxx@proxy.example:1", "x"], "Labels, HttpsProxy, NoProxy")
        self.reload({"labels": ["c=d"], "insecure-registries": ["s.example"], "max-concurrent-downloads": 7, "debug": True})
        info = self.info()
        self.equal((info["Labels"], info["Debug"], list(info["RegistryConfig"]["IndexConfigs"]), info["RegistryConfig"]["Mirrors"]),
                   (["c=d"], True, ["docker.io", "s.example"], []), "after the reload")
        actor = self.reloads()[-1]["Actor"]
        self.equal(actor["ID"], info["ID"], "whose event it is")
        self.equal({name: actor["Attributes"][name] for name in (
                       "debug", "default-runtime", "default-stop-timeout", "features", "insecure-registries", "labels", "max-concurrent-downloads",
                       "max-download-attempts", "registry-mirrors", "runtimes")},
                   {"debug": "true", "default-runtime": "moss", "default-stop-timeout": "10", "features": "map[]", "runtimes": "", "insecure-registries": '["s.example"]', "labels": '["c=d"]',
                    "max-concurrent-downloads": "7", "max-download-attempts": "5", "registry-mirrors": "[]"}, "attributes")
        for wrong, text in (("{", "unable to configure the Docker daemon with file"),
                            ({"registry-mirrors": ["m.example"]}, "invalid mirror")):
            self.write(wrong)
            self.daemon.process.send_signal(signal.SIGHUP)
            eventually(lambda: text in self.daemon.log(), f"{text!r} in the log")
            self.equal(self.info()["Labels"], ["c=d"], "labels after a reload that was refused")
        # Other verbs read it too.
        self.write({})

    def test_insecure_registry(self):
        address = accounts.own_address()
        other = registry.Registry(beside=self.registry, address=address)
        self.addCleanup(other.close)
        self.registry.push("a", "1", layer(a=b"a"))
        self.daemon.start()
        for insecure in (other.host, address + "/32"):
            self.daemon.docker("pull", other.host + "/a:1", code=1, err=re.compile("server gave HTTP response to HTTPS client"))
            self.reload({"insecure-registries": [insecure]})
            self.daemon.docker("pull", other.host + "/a:1")
            self.daemon.docker("rmi", other.host + "/a:1")
            self.reload({})

    def test_mirror(self):
        self.registry.push("library/mirrored", "1", layer(mirrored=b"x"))
        self.write({"registry-mirrors": [f"http://127.0.0.1:{registry.free_port()}"]})
        self.daemon.start()
        self.reload({"registry-mirrors": ["http://" + self.registry.host]})
        self.daemon.docker("pull", "mirrored:1", out=re.compile("Downloaded newer image for mirrored:1"))

    def test_attempts(self):
        self.write({"max-download-attempts": 3})
        self.daemon.start()
        big = layer(big=os.urandom(4 << 20))
        self.registry.push("a", "big", big)
        line = registry.Line(self.registry, 200_000, cut=True)
        self.addCleanup(line.close)
        asked = f"/blobs/{digest(big)} ".encode()
        self.daemon.docker("pull", line.host + "/a:big", code=1, out=re.compile(
            rf"{digest(big)[7:19]}: Retrying in (2 seconds\n.*Retrying in )?1 second\n"), err=re.compile("EOF"))
        self.equal(line.asked.count(asked), 3, "times that the layer was asked for")
        self.reload({"max-download-attempts": 1})
        self.daemon.docker("pull", line.host + "/a:big", code=1, err=re.compile("EOF"))
        self.equal(line.asked.count(asked), 4, "times that the layer was asked for")
