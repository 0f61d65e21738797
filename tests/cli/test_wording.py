"""What the API says when it refuses: status and text, as dockerd 29.6 has them."""

import json
import os
import re
import time
import urllib.parse

from archive import ARCHITECTURE
from harness import Case, once

NUMBER = 'strconv.Atoi: parsing "abc": invalid syntax'


@once
class Wording(Case):
    def said(self, method, path, status, text, body=b"", version="1.55"):
        """Sends a request and compares the answer; `text` may be a pattern."""
        path = re.sub("[{\\[].*", lambda filters: urllib.parse.quote(filters[0], safe="&="), path)
        got, _, answer = self.daemon.http(method, f"/v{version}{path}", body, {"Content-Type": "application/json"} if body else None)
        message = answer.get("message") if isinstance(answer, dict) else answer
        if got != status or not (text.fullmatch(message) if isinstance(text, re.Pattern) else message == text):
            self.fail(f"$ {method} {path} {json.dumps(body) if isinstance(body, dict) else ''}\n"
                      f"expected: {status} {text}\ngot: {got} {message}")

    def table(self, rows):
        for method, path, status, text in rows:
            with self.subTest(path):
                self.said(method, path, status, text)

    def create(self, *args):
        name = self.name()
        self.docker("create", "--name", name, *args, "busybox", "sleep", "1000")
        return name

    def test_numbers(self):
        name = self.run_detached()
        self.table([
            ("GET", "/containers/json?limit=abc", 400, NUMBER),
            ("POST", f"/containers/{name}/stop?t=abc", 400, NUMBER),
            ("POST", f"/containers/{name}/restart?t=abc", 500, NUMBER),
            ("POST", f"/containers/{name}/resize?h=x&w=1", 400, 'invalid resize height "x": invalid syntax'),
            ("POST", f"/containers/{name}/resize?h=1&w=-1", 400, 'invalid resize width "-1": value out of range'),
            ("POST", f"/containers/{name}/resize?h=1", 400, 'invalid resize width "": invalid syntax'),
            ("GET", f"/containers/{name}/logs?stdout=1&since=abc", 400,
             'invalid value for "since": invalid timestamp "abc": invalid seconds "abc": invalid syntax'),
            ("GET", f"/containers/{name}/logs?stdout=1&until=1.x", 400,
             'invalid value for "until": invalid timestamp "1.x": invalid nanoseconds: invalid character \'x\' at position 0'),
            ("GET", "/events?since=2020-01-01", 400,
             "invalid value for 'since': invalid timestamp \"2020-01-01\": invalid seconds \"2020-01-01\": invalid syntax"),
        ])
        self.equal(self.daemon.http("GET", f"/v1.55/containers/{name}/logs?stdout=1&tail=abc")[0], 200, "tail=abc is all")

    def test_states(self):
        name, made = self.run_detached(), self.create()
        self.table([
            ("GET", f"/containers/{name}/logs", 400, "must specify at least one of 'stdout' or 'stderr'"),
            ("DELETE", f"/containers/{name}", 409,
             f'cannot remove container "{name}": container is running: stop the container before removing or force remove'),
            ("POST", f"/containers/{name}/kill?signal=NOSUCH", 400, f"cannot kill container: {name}: invalid signal: NOSUCH"),
            ("POST", f"/containers/{name}/kill?signal=99", 400,
             f"cannot kill container: {name}: the linux daemon does not support signal 99"),
            ("POST", f"/containers/{name}/stop?signal=NOSUCH", 500, f"cannot stop container: {name}: invalid signal: NOSUCH"),
            ("POST", f"/containers/{made}/kill", 409, re.compile(f"cannot kill container: {made}: container [0-9a-f]{{64}} is not running")),
            ("POST", f"/containers/{made}/resize?h=1&w=1", 409, re.compile("container [0-9a-f]{64} is not running")),
            ("GET", f"/containers/{made}/top", 409, re.compile("container [0-9a-f]{64} is not running")),
            ("GET", f"/containers/{name}/top?ps_args=-o%20comm", 500, "Couldn't find PID field in ps output"),
            ("GET", f"/containers/{name}/top?ps_args=-o%20ppid=PID", 500, 'specifying "ppid=PID" is not allowed'),
            ("POST", f"/containers/{name}/attach?detachKeys=foo", 400, "Invalid detach keys (foo) provided"),
            ("POST", f"/containers/{made}/start?checkpoint=xy", 400, "checkpoint is only supported in experimental mode"),
            ("POST", f"/containers/{made}/start?checkpoint-dir=x", 403, "custom checkpointdir is not supported"),
            ("POST", f"/containers/{name}/wait?condition=x", 400, 'invalid condition: "x"'),
        ])

    def test_platforms(self):
        other = "arm64" if ARCHITECTURE != "arm64" else "amd64"
        wanted = json.dumps({"os": "linux", "architecture": other})
        refused = ("image with reference busybox was found but its platform "
                   f"(linux/{ARCHITECTURE}) does not match the specified platform (linux/{other})")
        self.table([
            ("GET", f"/images/busybox/json?platform={wanted}", 404, refused),
            ("GET", f"/images/busybox/history?platform={wanted}", 404, refused),
            ("DELETE", f"/images/busybox?platforms={wanted}", 404, refused),
            ("DELETE", f"/images/busybox?platforms={wanted}&platforms={wanted}", 400, "multiple platforms are not supported"),
            ("GET", f"/images/busybox/json?manifests=1&platform={wanted}", 400,
             "conflicting options: manifests and platform options cannot both be set"),
            ("GET", '/images/busybox/history?platform={"os":"linux"}', 400, "both OS and Architecture must be provided"),
            ("GET", '/images/busybox/history?platform={"variant":"v1"}', 400,
             "optional platform fields provided, but OS and Architecture are missing"),
        ])
        self.said("POST", f"/containers/create?platform=linux/{other}", 404, refused, {"Image": "busybox"})
        for verb in ("history", "rmi"):
            self.moss(verb, "--platform", "linux/" + other, "busybox", code=1, err=re.compile(re.escape(refused)))
        own = urllib.parse.quote(json.dumps({"os": "linux", "architecture": ARCHITECTURE}))
        self.equal(self.daemon.http("GET", f"/v1.49/images/busybox/json?platform={own}")[0], 200, "an image for its own platform")

    def test_patterns(self):
        self.table([("GET", '/images/json?filters={"reference":["["]}', 500, "syntax error in pattern")])
        self.docker("images", "-f", "reference=busyb[n-p]x", "--format", "{{.Repository}}", out=re.compile("^busybox$", re.M))

    def test_restart(self):
        name = self.name()
        self.docker("create", "--name", name, "busybox", "nosuch")
        self.said("POST", f"/containers/{name}/restart", 500, re.compile(
            f'Cannot restart container {name}: failed to create task for container: .*exec: "nosuch": executable file not found in \\$PATH.*'))

    def test_ids(self):
        found = set()
        while len(found) < 17:
            identity = self.docker("create", "busybox").out.strip()
            self.addCleanup(self.docker, "rm", identity)
            found.add(identity[0])
            if len([1 for c in self.docker("ps", "-aq").out.split() if c[0] == identity[0]]) > 1:
                break
        self.said("GET", f"/containers/{identity[0]}/json", 400, "multiple IDs found with provided prefix: " + identity[0])

    def test_names(self):
        name, other = self.create(), self.create()
        self.table([
            ("POST", f"/containers/{name}/rename?name=", 400, "Neither old nor new names may be empty"),
            ("POST", f"/containers/{name}/rename?name={name}", 400, "Renaming a container with the same name as its current name"),
            ("POST", f"/containers/{name}/rename?name=a/b", 400,
             "Error when allocating new name: Invalid container name (/a/b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
            ("POST", f"/containers/{name}/rename?name={other}", 409, re.compile(
                f'Error when allocating new name: Conflict. The container name "/{other}" is already in use by container "[0-9a-f]{{64}}". '
                r"You have to remove \(or rename\) that container to be able to reuse that name.")),
        ])

    def test_exec(self):
        name = self.run_detached()
        for container, body, status, text in (
            ("nosuch", {}, 400, "No exec command specified"),
            ("nosuch", {"Cmd": ["true"]}, 404, "No such container: nosuch"),
            (name, {"Cmd": ["true"], "DetachKeys": "foo"}, 500, "Invalid escape keys (foo) provided"),
            (name, {"Cmd": ["true"], "User": "nosuch"}, 400, "unable to find user nosuch: no matching entries in passwd file"),
            (name, {"Cmd": ["true"], "User": "0:nosuch"}, 400, "unable to find group nosuch: no matching entries in group file"),
        ):
            self.said("POST", f"/containers/{container}/exec", status, text, body)
        self.said("GET", "/exec/nosuch/json", 404, "No such exec instance: nosuch")

    def test_exec_inspect(self):
        name = self.run_detached("--user", "app")
        made = self.daemon.http("POST", f"/v1.55/containers/{name}/exec", {"Cmd": ["true"], "DetachKeys": "ctrl-p,ctrl-q"})[2]["Id"]
        self.equal(self.daemon.http("POST", f"/v1.55/exec/{made}/start", {"Detach": True})[0], 200, "exec start")
        got = self.daemon.http("GET", f"/v1.55/exec/{made}/json")[2]
        self.equal((got["DetachKeys"], got["CanRemove"], got["ProcessConfig"]["user"], got["Pid"] > 1),
                   ("EBE=", False, "app", True), "DetachKeys, CanRemove, user, a pid")

    def test_create(self):
        for body, status, text in (
            (b"", 400, "invalid JSON: EOF"),
            (b"{", 400, "invalid JSON: unexpected EOF"),
            ({}, 400, "config cannot be empty in order to create a container"),
            # What the client got wrong is told before the image is missed.
            ({"Image": "nosuch", "Env": ["=x"]}, 400, "invalid environment variable: =x"),
            ({"Image": "nosuch", "HostConfig": {"Memory": 1}}, 400, "Minimum memory limit allowed is 6MB"),
            ({"Image": "nosuch", "HostConfig": {"Mounts": [{"Type": "bind", "Source": "/no/such", "Target": "/a"}]}}, 400,
             'invalid mount config for type "bind": bind source path does not exist: /no/such'),
            ({"Image": "nosuch", "ExposedPorts": {"x": {}}}, 400, "invalid JSON: invalid port 'x': invalid syntax"),
            ({"Image": "nosuch", "HostConfig": {"Runtime": "x"}}, 400, "unknown or invalid runtime name: x"),
            ({"Image": "nosuch", "HostConfig": {"LogConfig": {"Type": "x"}}}, 400, "logger: no log driver named 'x' is registered"),
            ({"Image": "nosuch"}, 404, "No such image: nosuch:latest"),
            ({"Image": "UPPER"}, 400, "invalid reference format: repository name (library/UPPER) must be lowercase"),
            ({"Image": "busybox", "HostConfig": {"Binds": ["/a:b"]}}, 500,
             'invalid volume specification: \'/a:b\': invalid mount config for type "bind": invalid mount path: \'b\' mount path must be absolute'),
            ({"Image": "busybox", "HostConfig": {"Binds": ["/a:/b:x"]}}, 400, "invalid mode: x"),
            ({"Image": "busybox", "HostConfig": {"Binds": ["/a:/b", "/c:/b"]}}, 400, "Duplicate mount point: /b"),
            ({"Image": "busybox", "HostConfig": {"Binds": ["a:/b"]}}, 400,
             "create a: volume name is too short, names should be at least two alphanumeric characters"),
            ({"Image": "busybox", "HostConfig": {"Binds": ["vol:/b"], "VolumeDriver": "x"}}, 404,
             'create vol: error looking up volume plugin x: plugin "x" not found'),
            ({"Image": "busybox", "HostConfig": {"VolumesFrom": ["nosuch"]}}, 400, "No such container: nosuch"),
        ):
            with self.subTest(body):
                self.said("POST", "/containers/create", status, text, body)
        self.said("POST", "/containers/create?name=/a%20b", 400,
                  "Invalid container name (/a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", {"Image": "busybox"})

    def test_what_is_not_done_is_said(self):
        body = {"Image": "busybox", "HostConfig": {"NetworkMode": "none", "Memory": 1 << 30}}
        status, _, answer = self.daemon.http("POST", "/v1.55/containers/create", body, {"Content-Type": "application/json"})
        self.equal((status, len(answer["Warnings"]), "limit" in answer["Warnings"][0]), (201, 1, True), "a warning of limits")
        self.docker("rm", answer["Id"])

    def test_what_cannot_be_had(self):
        self.docker("create", "--storage-opt", "size=1G", "busybox", code=1, err=re.compile(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"))
        self.docker("run", "--rm", "--device", "/etc/passwd:/dev/pw", "busybox", code=125, err=re.compile(
            'error gathering device information while adding custom device "/etc/passwd": not a device node'))
        self.docker("run", "--rm", "--network", "host", "--add-host", "h:host-gateway", "busybox", "grep", "h$", "/etc/hosts",
                    out=re.compile(r"127.0.0.1\s+h\b"))
        self.docker("run", "--rm", "--add-host", "h:host-gateway", "busybox", "grep", "-c", "gateway", "/etc/hosts", code=1, out="0")
        name = self.create("--gpus", "all")
        self.said("POST", f"/containers/{name}/start", 500, 'could not select device driver "" with capabilities: [[gpu]]')

    def test_joined_namespaces(self):
        stopped, other = self.create(), self.run_detached()
        stopped_id = self.field(stopped, "{{.Id}}")
        for flags, status, text in (
            (("--network", "container:" + stopped), 409,
             f"cannot join network namespace of a non running container: container {stopped} is created"),
            (("--network", "container:nosuch"), 500, "joining network namespace of container: No such container: nosuch"),
            (("--pid", "container:" + stopped), 500, f"failed to join PID namespace: container {stopped_id} is not running"),
            (("--ipc", "container:" + other), 400, re.compile(
                r"failed to join IPC namespace: container [0-9a-f]{64}: non-shareable IPC \(hint: use IpcMode:shareable for the donor container\)")),
            (("--network", "nosuch"), 404, "failed to set up container networking: network nosuch not found"),
        ):
            with self.subTest(flags):
                self.said("POST", f"/containers/{self.create(*flags)}/start", status, text)
        for flag in ("--ipc", "--pid"):
            self.docker("create", flag, "container:nosuch", "busybox", code=1, err=re.compile("No such container: nosuch"))

    def test_bind_source(self):
        self.said("POST", f"/containers/{self.create('-v', '/proc/no/such:/a')}/start", 500,
                  "error while creating mount source path '/proc/no/such': mkdir /proc/no: no such file or directory")
        path = self.daemon.top + "/made/" + self.name()
        self.daemon.docker("start", self.create("-v", path + ":/a"))
        self.equal(os.path.isdir(path), True, "a directory made")

    def test_filters(self):
        self.table([
            ("GET", '/containers/json?filters={"nosuch":["x"]}', 400, "invalid filter 'nosuch'"),
            ("GET", "/containers/json?filters=x", 400, "invalid filter"),
            ("GET", '/containers/json?filters={"exited":["abc"]}', 400, f"invalid filter 'exited=abc': {NUMBER}"),
            ("GET", '/containers/json?filters={"status":["x"]}', 400,
             "invalid filter 'status=x': invalid value for state (x): must be one of created, running, paused, restarting, removing, exited, dead"),
            ("GET", '/containers/json?filters={"health":["x"]}', 400,
             "invalid filter 'health=x': invalid value for health (x): must be one of none, starting, healthy, unhealthy"),
            ("GET", "/volumes?filters=x", 400, "error reading volume filters: invalid filter"),
            ("GET", '/images/json?filters={"dangling":["x"]}', 400, "invalid filter 'dangling=[x]'"),
            ("POST", '/containers/prune?filters={"until":["1h","2h"]}', 400, "more than one until filter specified"),
            ("POST", '/networks/prune?filters={"x":["1"]}', 400, "invalid filter 'x'"),
            ("GET", "/system/df?type=x", 400, "unknown object type: x"),
        ])

    def test_images(self):
        self.table([
            ("GET", "/images/nosuch/json", 404, "No such image: nosuch:latest"),
            ("GET", "/images/json?identity=1", 400, "conflicting options: identity requires manifests=1"),
            ("POST", "/images/nosuch/tag?repo=x", 404, "No such image: nosuch:latest"),
            ("POST", "/images/busybox/tag?repo=UPPER", 400, "invalid reference format: repository name (library/UPPER) must be lowercase"),
            ("POST", "/images/busybox/tag?repo=sha256&tag=x", 400, "refusing to create an ambiguous tag using digest algorithm as name"),
            ("POST", "/images/busybox/tag?repo=x@sha256:" + "0" * 64, 400, "cannot import digest reference"),
            ("DELETE", "/images/%20", 400, "image name cannot be blank"),
        ])

    def test_volumes(self):
        name = self.name()
        self.run_detached("-v", name + ":/data")
        self.table([
            ("GET", "/volumes/nosuch", 404, "get nosuch: no such volume"),
            ("DELETE", "/volumes/nosuch", 404, "get nosuch: no such volume"),
            ("DELETE", "/volumes/" + name, 409, re.compile(rf"remove {name}: volume is in use - \[[0-9a-f]{{64}}\]")),
        ])
        self.said("POST", "/volumes/create", 404, 'create vol: error looking up volume plugin x: plugin "x" not found',
                  {"Name": "vol", "Driver": "x"})
        self.said("POST", "/volumes/create", 400, 'create a b: "a b" includes invalid characters for a local volume name, only '
                  '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path', {"Name": "a b"})

    def test_networks(self):
        self.table([
            ("GET", "/networks/nosuch", 404, "network nosuch not found"),
            ("DELETE", "/networks/bridge", 403, "bridge is a pre-defined network and cannot be removed"),
        ])


@once
class Plain(Case):
    """What a plain `docker run` leaves in inspect and list."""

    def get(self, path, version="1.55"):
        return self.daemon.http("GET", f"/v{version}{path}")[2]

    def test_defaults(self):
        name = self.run_detached("-p", "80")
        got = self.get(f"/containers/{name}/json")
        host = got["HostConfig"]
        self.equal(got["Config"]["Volumes"], {}, "Config.Volumes")
        self.equal(list(got["Config"]["ExposedPorts"]), ["80/tcp"], "Config.ExposedPorts")
        for field, expected in {"LogConfig": {"Type": "json-file", "Config": {}}, "MemorySwappiness": None, "OomKillDisable": None,
                                "PidsLimit": None, "CgroupnsMode": "private", "IpcMode": "private", "ShmSize": 67108864,
                                "SecurityOpt": None, "Links": None, "UsernsMode": "", "Isolation": "",
                                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}}.items():
            with self.subTest(field):
                self.equal(host[field], expected, "HostConfig." + field)
        self.equal(("/proc/kcore" in host["MaskedPaths"], "/proc/sys" in host["ReadonlyPaths"]), (True, True), "paths")

    def test_privileged(self):
        name = self.name()
        self.docker("create", "--privileged", "--name", name, "busybox")
        host = self.get(f"/containers/{name}/json")["HostConfig"]
        self.equal((host["SecurityOpt"], host["MaskedPaths"], host["ReadonlyPaths"]), (["label=disable"], None, None), "privileged")

    def test_before_the_first_start(self):
        name = self.name()
        self.docker("create", "--name", name, "--workdir", "/a/../b/", "busybox")
        got = self.get(f"/containers/{name}/json")
        self.equal([got[field] for field in ("LogPath", "ResolvConfPath", "HostsPath", "HostnamePath")], [""] * 4, "paths")
        self.equal(got["Config"]["WorkingDir"], "/b", "WorkingDir")

    def test_joined_container_by_id(self):
        other, name = self.run_detached(), self.name()
        self.docker("create", "--name", name, "--network", "container:" + other, "busybox")
        self.equal(self.field(name, "{{.HostConfig.NetworkMode}}"), "container:" + self.field(other, "{{.Id}}"), "NetworkMode")

    def test_volume_modes(self):
        got = self.get(f"/containers/{self.run_detached('-v', self.name() + ':/named', '-v', '/anonymous')}/json")
        self.equal({m["Destination"]: m["Mode"] for m in got["Mounts"]}, {"/named": "z", "/anonymous": ""}, "Mode")

    def test_failed_start(self):
        name = self.name()
        self.docker("run", "--name", name, "busybox", "sh", "-c", "test -e /once && rm /bin/sh; touch /once")
        self.docker("start", "-a", name)
        self.docker("start", name, code=1)
        state = self.get(f"/containers/{name}/json")["State"]
        self.equal((state["Status"], state["ExitCode"], "executable file not found" in state["Error"]), ("exited", 127, True), "state")
        ended = self.daemon.http("POST", f"/v1.55/containers/{name}/wait")[2]
        self.equal((ended["StatusCode"], "executable file not found" in ended["Error"]["Message"]), (127, True), "wait")

    def test_lists(self):
        name = self.name()
        self.docker("run", "--name", name, "-v", "/tmp:/bound", "busybox", "true")
        ids = lambda filters, more="": [c["Names"][0] for c in self.get("/containers/json?filters=" + urllib.parse.quote(json.dumps(filters)) + more)]
        self.equal("/" + name in ids({"exited": ["0"]}), False, "exited without all")
        for filters, expected in (({"exited": ["0"]}, True), ({"network": ["brid"]}, False), ({"network": ["bridge"]}, True),
                                  ({"volume": ["/tmp"]}, True), ({"volume": ["/bound"]}, True), ({"is-task": ["true"]}, False),
                                  ({"publish": ["80"]}, False)):
            with self.subTest(filters):
                self.equal("/" + name in ids(filters, "&all=1"), expected, "listed")

    def test_health_in_lists(self):
        name = self.run_detached()
        for version, expected in (("1.55", {"Status": "none", "FailingStreak": 0}), ("1.51", None)):
            got = self.get("/containers/json?filters=" + urllib.parse.quote(json.dumps({"name": [name]})), version)
            self.equal(got[0].get("Health"), expected, "Health in " + version)

    def test_network(self):
        got = self.get("/networks/host")
        self.equal((got["Containers"], got["IPAM"]), ({}, {"Driver": "default", "Options": None, "Config": None}), "host")
        self.equal(["Containers" in network for network in self.get("/networks")], [False] * 3, "list of 1.55")

    def test_nothing_pruned_is_null(self):
        label = urllib.parse.quote('{"label":["no=such"]}')
        prune = lambda kind: self.daemon.http("POST", f"/v1.55/{kind}/prune?filters={label}")[2]
        self.equal(prune("containers"), {"ContainersDeleted": None, "SpaceReclaimed": 0}, "containers")
        self.equal(prune("images"), {"ImagesDeleted": None, "SpaceReclaimed": 0}, "images")
        self.equal(prune("volumes"), {"VolumesDeleted": [], "SpaceReclaimed": 0}, "volumes")
        self.equal(prune("networks"), {"NetworksDeleted": None}, "networks")

    def test_disk_usage(self):
        new, verbose, old = (self.get(path, version) for path, version in
                             (("/system/df", "1.55"), ("/system/df?verbose=1", "1.55"), ("/system/df", "1.51")))
        self.equal(("Images" in new, "ImageUsage" in new), (True, True), "1.55")
        self.equal(("Images" in verbose, len(verbose["ImageUsage"]["Items"]) > 0), (False, True), "1.55, verbose")
        self.equal(("Images" in old, "ImageUsage" in old), (True, False), "1.51")


@once
class Story(Case):
    """Which events a life has, and what is told with them."""

    def events(self, name, act, **filters):
        since = time.time()
        act()
        time.sleep(0.3)
        chosen = urllib.parse.quote(json.dumps({key: [value] for key, value in filters.items()}))
        _, headers, body = self.daemon.http("GET", f"/v1.55/events?since={since:.6f}&until={time.time():.6f}&filters={chosen}")
        self.equal(headers["Content-Type"], "application/jsonl", "Content-Type")
        lines = body if isinstance(body, list) else [json.loads(line) for line in body.splitlines()] if isinstance(body, bytes) else [body]
        wanted = lambda event: name in (event["Actor"]["ID"], event["Actor"]["Attributes"].get("name"),
                                        event["Actor"]["Attributes"].get("container"))
        return [event for event in lines if wanted(event)]

    def actions(self, *args, **filters):
        return [event["Action"] for event in self.events(*args, **filters)]

    def test_stop_and_restart(self):
        name = self.run_detached("--init")
        self.equal(self.actions(name, lambda: self.docker("restart", name)), ["kill", "die", "stop", "start", "restart"], "restart")
        got = self.events(name, lambda: self.docker("stop", name))
        self.equal([event["Action"] for event in got], ["kill", "die", "stop"], "stop")
        self.equal(got[0]["Actor"]["Attributes"]["signal"], "15", "signal")
        self.equal((got[1]["Actor"]["Attributes"]["exitCode"], got[1]["Actor"]["Attributes"]["execDuration"].isdigit()), ("143", True), "die")

    def test_remove_by_force(self):
        name = self.run_detached()
        self.equal(self.actions(name, lambda: self.docker("rm", "-f", name)), ["kill", "die", "destroy"], "rm -f")

    def test_end(self):
        name = self.run_detached("-v", self.name() + ":/data")
        id = self.daemon.inspect(name)["Id"]
        self.equal(self.actions(id, lambda: self.docker("kill", name)), ["kill", "disconnect", "unmount", "die"], "kill")

    def test_failed_start(self):
        name = self.name()
        self.equal(self.actions(name, lambda: self.docker("run", "-d", "--name", name, "busybox", "nosuch", code=127)), ["create"], "run")

    def test_exec(self):
        name = self.run_detached()
        got = self.events(name, lambda: self.docker("exec", name, "true"))
        self.equal([event["Action"] for event in got], ["exec_create: true ", "exec_start: true ", "exec_die"], "exec")
        self.equal((len({event["Actor"]["Attributes"]["execID"] for event in got}), got[2]["Actor"]["Attributes"]["exitCode"]), (1, "0"), "execID")

    def test_failed_exec(self):
        name = self.run_detached()
        got = self.actions(name, lambda: self.docker("exec", name, "nosuch", code=127))
        self.equal(got[:2], ["exec_create: nosuch ", "exec_start: nosuch "], "exec")

    def test_volume(self):
        name, volume = self.name(), self.name()
        run = lambda: self.docker("run", "--rm", "--name", name, "-v", volume + ":/data:ro", "busybox", "true")
        got = self.events(volume, run, type="volume")
        self.equal([event["Action"] for event in got], ["create", "mount", "unmount"], "volume")
        told = got[1]["Actor"]["Attributes"]
        self.equal((told["destination"], told["read/write"], told["driver"], told["propagation"], len(told["container"])),
                   ("/data", "false", "local", "", 64), "mount")

    def test_volume_of_failed_start(self):
        name, volume = self.name(), self.name()
        run = lambda: self.docker("run", "--name", name, "-v", volume + ":/data", "busybox", "nosuch", code=127)
        got = self.events(volume, run, type="volume")
        self.equal([event["Action"] for event in got], ["create", "mount", "unmount"], "volume")

    def test_by_image(self):
        name = self.name()
        self.docker("create", "--name", name, "busybox:latest")
        self.equal(self.actions(name, lambda: self.docker("rm", name), image="busybox"), ["destroy"], "filter image=busybox")
        self.docker("create", "--name", name, "busybox:latest")
        self.equal(self.actions(name, lambda: self.docker("rm", name), nosuch="x"), ["destroy"], "an unknown filter")

    def test_tag_has_the_images_labels(self):
        got = self.events("labelled:1", lambda: self.docker("tag", "busybox", "labelled:1"))
        self.docker("rmi", "labelled:1")
        self.equal([(event["Action"], event["Actor"]["Attributes"].get("form")) for event in got], [("tag", "latest")], "tag")

    def test_older_content_type(self):
        now = time.time()
        for version, accept, expected in (("1.51", None, "application/json"), ("1.55", "application/x-ndjson", "application/x-ndjson"),
                                          ("1.51", "application/jsonl", "application/jsonl")):
            headers = {"Accept": accept} if accept else None
            got = self.daemon.http("GET", f"/v{version}/events?until={now:.6f}", headers=headers)[1]
            self.equal(got["Content-Type"], expected, f"Content-Type for {version}, {accept}")
