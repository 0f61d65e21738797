"""What is asked of registries beside pulls: searches, and what a name means there."""

import base64
import json
import re
import urllib.parse

import registry
from archive import ARCHITECTURE
from harness import Case, once
from registry import digest, layer, reply

FOUND = [{"name": "a/web", "description": "serves\npages " + "x" * 60, "star_count": 12, "is_official": True, "is_automated": True},
         {"name": "b/web", "description": "", "star_count": 2, "is_official": False}]


class Search(Case):
    def setUp(self):
        super().setUp()
        self.status = 200
        self.front = registry.Front(None, self.answer)
        self.addCleanup(self.front.close)
        self.term = self.front.host + "/web"

    def answer(self, request):
        if request.path == "/v1/_ping":
            return reply(request, 200)
        body = {"query": "web", "num_results": len(FOUND), "results": FOUND}
        return reply(request, self.status, json.dumps(body).encode(), Content_Type="application/json")

    def asked(self):
        path, fields = [(path, fields) for _, path, fields in self.front.requests if "/search" in path][-1]
        return urllib.parse.parse_qs(urllib.parse.urlsplit(path).query), fields

    def test_table(self):
        self.docker("search", self.term, out=re.compile(
            r"^NAME +DESCRIPTION +STARS +OFFICIAL.*\na/web +serves pages x{31}… +12 +\[OK\] *\nb/web +2 *$", re.M))
        self.equal(self.asked()[0], {"q": ["web"], "n": ["25"]}, "what was asked")
        for client in (self.docker, self.moss):
            client("search", "--no-trunc", "--format", "{{.Name}} {{.StarCount}}", self.term, out="a/web 12\nb/web 2")

    @once
    def test_moss_shows_what_docker_shows(self):
        for arguments in ([], ["--no-trunc"], ["--limit", "3"], ["--format", "json"], ["--format", "{{json .}}"],
                          ["--filter", "stars=5"]):
            self.moss("search", *arguments, self.term, out=self.docker("search", *arguments, self.term).out.strip())

    def test_filters_and_limit(self):
        for arguments, names in ((["--filter", "stars=5"], "a/web"), (["--filter", "is-official=false"], "b/web"),
                                 (["--filter", "is-automated=true"], ""), (["--limit", "7"], "a/web\nb/web")):
            for client in (self.docker, self.moss):
                client("search", "--format", "{{.Name}}", *arguments, self.term, out=names)
        self.equal(self.asked()[0]["n"], ["7"], "limit")

    def test_refusals(self):
        for arguments, error in (
                (["--limit", "101"], "limit 101 is outside the range of [1, 100]"),
                (["--filter", "nosuch=1"], "invalid filter 'nosuch'"),
                (["--filter", "stars=x"], "invalid filter 'stars=x'"),
                (["--filter", "is-official=x"], "invalid filter 'is-official=[x]'")):
            for client in (self.docker, self.moss):
                client("search", *arguments, self.term, code=1, err=re.compile("Error response from daemon: " + re.escape(error)))
        self.docker("search", "https://" + self.term, code=1, err=re.compile(r"should not have a scheme|invalid repository name"))
        self.status = 404
        for client in (self.docker, self.moss):
            client("search", self.term, code=1, err="Error response from daemon: unexpected status code 404")

    @once
    def test_requests(self):
        proof = base64.urlsafe_b64encode(json.dumps({"username": "u", "password": "p"}).encode()).decode()
        status, _, found = self.daemon.http("GET", "/images/search?term=" + self.term, headers={"X-Registry-Auth": proof})
        self.equal((status, found[0]), (200, {**FOUND[0], "is_automated": False}), "answer")
        self.equal(self.asked()[1]["Authorization"], "Basic " + base64.b64encode(b"u:p").decode(), "proof")
        for query, text in (("limit=x", 'invalid limit specified: strconv.Atoi: parsing "x": invalid syntax'),
                            ("limit=-1", "invalid limit specified"), ("filters=x", "invalid")):
            status, _, answer = self.daemon.http("GET", f"/images/search?term={self.term}&{query}")
            self.equal((status, text in answer["message"]), (400, True), f"{query}: {answer}")


@once
class Distribution(Case):
    @classmethod
    def setUpClass(cls):
        cls.registry = registry.Registry()
        cls.addClassCleanup(cls.registry.close)
        cls.host = cls.registry.host

    def look(self, name):
        status, _, answer = self.daemon.http("GET", f"/distribution/{name}/json")
        return status, answer

    def test_index(self):
        images = [self.registry.push("d/index", None, layer(x=arch.encode()), architecture=arch) for arch in ("amd64", "arm64")]
        described = self.registry.manifest("d/index", "1", registry.index(*images))
        want = {"Descriptor": described, "Platforms": [
            {"architecture": arch, "os": "linux"} for arch in ("amd64", "arm64")]}
        for name in ("d/index:1", "d/index@" + described["digest"]):
            self.equal(self.look(f"{self.host}/{name}"), (200, want), name)

    def test_manifest(self):
        described = self.registry.push("d/one", "latest", layer(x=b"x"))
        del described["platform"]
        self.equal(self.look(f"{self.host}/d/one"), (200, {"Descriptor": described, "Platforms": None}), "answer")

    def test_dockers_own(self):
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        config = json.dumps({"architecture": ARCHITECTURE, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
        described = self.registry.manifest("d/docker", "1", {
            "schemaVersion": 2, "mediaType": kind, "layers": [],
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **self.registry.blob("d/docker", config)}})
        self.equal(self.look(f"{self.host}/d/docker:1"), (200, {
            "Descriptor": described, "Platforms": [{"architecture": ARCHITECTURE, "os": "linux"}]}), "answer")

    def test_refusals(self):
        self.registry.push("d/known", "1", layer(x=b"x"))
        closed = f"127.0.0.1:{registry.free_port()}"
        for name, status, text in (
                (f"{self.host}/d/known:2", 404, "manifest unknown: manifest unknown"),
                (f"{self.host}/d/known@{digest(b'')}", 404, "manifest unknown: manifest unknown"),
                ("a" * 64, 500, "no manifest found for full image ID"),
                ("A", 400, "invalid reference format: repository name (library/A) must be lowercase"),
                (f"{closed}/a", 500, f'Get "http://{closed}/v2/": dial tcp {closed}: connect: connection refused'),
                ("scratch", 400, "'scratch' is a reserved name")):
            self.equal(self.look(name), (status, {"message": text}), name)
