"""What images take on the disk, what a prune gives back, and what a daemon leaves that is killed meanwhile."""

import json
import os
import time
import unittest
import urllib.parse

import archive
import harness
import registry
from harness import Daemon, check, eventually, once

BASE, ONE, TWO = 100_000, 20_000, 3_000


@once
class Disk(unittest.TestCase):
    """A daemon of its own, whose figures are nobody else's."""

    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(lambda: check(self.daemon.close()))
        self.docker = self.daemon.docker
        # The one that is built in is there from the start.
        self.before = self.layers_size()
        self.paths = {name: self.layer(name, size) for name, size in (("base", BASE), ("one", ONE), ("two", TWO))}

    def layer(self, name, size):
        return archive.Layer().file(name, os.urandom(size)).write(f"{self.daemon.top}/{name}.tar")

    def load(self, tag, *layers, **config):
        """An image; `None` for a tag makes one without a name. Returns its id."""
        image = archive.Image([tag] if tag else None, [self.paths[name] for name in layers], Cmd=["/x"], **config)
        path = archive.write_docker_archive(self.daemon.top + "/image.tar", [image])
        self.docker("load", "-i", path)
        return "sha256:" + image.id

    def df(self):
        return self.daemon.http("GET", "/v1.51/system/df")[2]

    def layers_size(self):
        return self.df().get("LayersSize", 0)

    def equal(self, got, expected, what):
        if got != expected:
            harness.fail(what, repr(expected), repr(got))

    def sizes(self, *ids):
        images = {image["Id"]: image for image in self.df()["Images"]}
        return [(images[one]["Size"], images[one]["SharedSize"]) for one in ids]

    def ask_prune(self, filters):
        return self.daemon.http("POST", "/images/prune?filters=" + urllib.parse.quote(json.dumps(filters)))

    def prune(self, **filters):
        """Bytes that were freed, and what was deleted."""
        answer = self.ask_prune(filters)[2]
        return answer["SpaceReclaimed"], [one["Deleted"] for one in answer["ImagesDeleted"] or [] if "Deleted" in one]

    def test_shared_sizes(self):
        one, two = self.load("one:1", "base", "one"), self.load("two:1", "base", "two")
        self.equal(self.sizes(one, two), [(BASE + ONE, BASE), (BASE + TWO, BASE)], "sizes, and what of them is shared")
        self.equal(self.layers_size() - self.before, BASE + ONE + TWO, "LayersSize")
        usage = self.daemon.http("GET", "/v1.52/system/df?verbose=1")[2]["ImageUsage"]
        self.equal((usage["TotalCount"], usage.get("ActiveCount", 0), usage["TotalSize"]), (2, 0, self.before + BASE + ONE + TWO), "ImageUsage")
        self.docker("create", "--name", "user", "one:1")
        usage = self.daemon.http("GET", "/v1.52/system/df?verbose=1")[2]["ImageUsage"]
        self.equal((usage["ActiveCount"], usage["Reclaimable"]), (1, self.before + TWO), "ImageUsage")
        self.docker("rm", "user")
        self.docker("rmi", "one:1")
        self.equal(self.sizes(two), [(BASE + TWO, 0)], "sizes")
        self.equal(self.layers_size() - self.before, BASE + TWO, "LayersSize")

    def test_prune_unnamed(self):
        one, two = self.load(None, "base", "one"), self.load("two:1", "base", "two")
        freed, gone = self.prune()
        self.equal((freed, one in gone, two in gone), (ONE, True, False), "a prune")
        self.equal(self.prune(), (0, []), "another one")

    def test_prune_what_has_digests_only(self):
        served = registry.Registry()
        self.addCleanup(served.close)
        data = registry.layer(data=os.urandom(ONE))
        for name in ("d/one", "d/two"):
            image = served.push(name, "1", data)
            self.docker("pull", f"{served.host}/{name}@{image['digest']}")
        freed, gone = self.prune()
        self.equal((freed, len(gone)), (ONE, 2), "bytes that were freed; image and layer")

    def test_prune_all(self):
        one, two = self.load("one:1", "base", "one"), self.load("two:1", "base", "two")
        self.docker("tag", "one:1", "another/one:2")
        self.docker("create", "--name", "user", "two:1")
        freed, gone = self.prune(dangling=["false"])
        self.equal((freed - self.before, one in gone, two in gone), (ONE, True, False), "a prune beside a container")
        self.docker("rm", "user")
        freed, gone = self.prune(dangling=["false"])
        self.equal((freed, two in gone, self.layers_size()), (BASE + TWO, True, 0), "a prune")

    def test_prune_filters(self):
        one, two = self.load("one:1", "base", Labels={"keep": "no"}), self.load("two:1", "base", Labels={"keep": "yes"})
        for filters in ({"label": ["keep=never"]}, {"label!": ["keep"]}, {"until": ["2000-01-01T00:00:00"]}):
            gone = self.prune(dangling=["false"], **filters)[1]
            self.equal((one in gone, two in gone), (False, False), f"a prune with {filters}")
        self.equal(self.prune(dangling=["false"], label=["keep=no"]), (0, [one]), "a prune with a label")
        freed, gone = self.prune(dangling=["false"], until=["10m"])
        self.equal((freed, two in gone), (BASE, True), "a prune of what is older than ten minutes")
        for filters, text in (({"nosuch": ["1"]}, "invalid filter 'nosuch'"), ({"dangling": ["x"]}, "invalid filter 'dangling=[x]'"),
                              ({"until": ["x"]}, "invalid value for 'until' filter"),
                              ({"until": ["1h", "2h"]}, "more than one until filter specified")):
            status, _, answer = self.ask_prune(filters)
            self.equal((status, answer["message"].startswith(text)), (400, True), f"a prune with {filters}: {answer}")

    def test_by_docker_and_moss(self):
        for client in (self.docker, self.daemon.moss):
            self.load(None, "base", "one")
            self.load("two:1", "base", "two")
            client("image", "prune", "-f", out=harness.re.compile(r"deleted: sha256:[0-9a-f]{64}\n(.|\n)*Total reclaimed space: 20kB"))
            client("image", "prune", "-af", "--filter", "until=1m", out=harness.re.compile("untagged: two:1\n(.|\n)*Total reclaimed space: "))
            self.equal(self.layers_size() in (0, self.before), True, "all is gone but perhaps what is built in")

    def test_what_is_built_in_comes_when_it_is_run(self):
        self.daemon.moss("image", "prune", "-af")
        self.daemon.stop()
        self.daemon.start()
        self.docker("images", "-aq", out="")
        self.daemon.moss("run", "--rm", "hello", out=harness.re.compile("isolation"))

    def test_killed_meanwhile(self):
        names = [f"many:{number}" for number in range(8)]
        for number in range(8):
            self.paths[number] = self.layer(f"file{number}", 1000)
        for delay in (0, 0.005, 0.02, 0.05, 0.1):
            for number, name in enumerate(names):
                self.load(name, "base", number, (number + 1) % 8, "two")
            client = self.daemon.start_client("rmi", *names)
            time.sleep(delay)
            self.daemon.kill()
            client.communicate(timeout=30)
            self.daemon.start()
            eventually(self.is_sound, "a store in which every image is whole and nothing is nobody's")

    def is_sound(self):
        root = self.daemon.data_home + "/moss"
        layers, blobs = set(), set()
        ids = self.docker("images", "-aq", "--no-trunc").out.split()
        for image in json.loads(self.docker("image", "inspect", *set(ids)).out) if ids else []:
            layers.update(layer.removeprefix("sha256:") for layer in image["RootFS"]["Layers"])
            blobs.add(image["Id"].removeprefix("sha256:"))
        return set(os.listdir(root + "/layers")) == layers and set(os.listdir(root + "/blobs/sha256")) == blobs
