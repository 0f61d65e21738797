"""Networks: the way out and published ports beside Debian's peers and plain loopback, all in one network namespace.

As root the whole bench runs in a network namespace of its own, which plays the host: what is measured never leaves the
machine. Servers outside listen at HOST, an address that is not loopback's, so a container sees its client's address.
MOSS_BENCH_PARTS names the parts that are wanted, with spaces between: outbound, small, datagrams, many, published, requests, names.
"""

import glob
import http.client
import json
import os
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from common import CACHE, RUNS, Bench

IMAGE, ARCHIVE = "nginx:1", "nginx.tar"
HOST = "203.0.113.1"
BULK, ECHO, WEB, SINK = 5201, 5400, 8080, 5500  # ports of servers, the same in every network
SECONDS = "1"  # of each run
ENDS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ends.py")

# The namespace that plays the host. pasta wants an interface to copy.
PLAY_HOST = f"""ip link set lo up && ip address add {HOST}/32 dev lo && ip link add ext type veth peer name world
ip address add 198.51.100.1/24 dev ext && ip link set ext up && ip link set world up && ip route add default via 198.51.100.2"""

NGINX = """daemon off; master_process off; pid {top}/nginx.pid; error_log /dev/null; events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {top}/n; proxy_temp_path {top}/n; fastcgi_temp_path {top}/n; uwsgi_temp_path {top}/n;
scgi_temp_path {top}/n; keepalive_requests 1000000; server {{ listen {port} backlog=4096; location / {{ return 200 "hello\\n"; }} }} }}"""


class Place:
    """Where a program can run: the words before its own, and what belongs to it."""

    def __init__(self, enter=(), port_of=None, processes=(), end=None):
        self.enter = list(enter)
        self.port_of = port_of or (lambda port: port)
        self.processes = list(processes)
        self.end = end or (lambda: None)


def inside(pid):
    return ["nsenter", "-t", str(pid), "-U", "-n", "--preserve-credentials"]


def busy():
    """Seconds that all processors together have worked."""
    with open("/proc/stat", encoding="utf-8") as file:
        user, nice, system, _, _, irq, soft = (int(word) for word in file.readline().split()[1:8])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


class Net(Bench):
    """One table, a line for each figure."""

    programs = {"podman": "podman", "crun": "crun", "slirp4netns": "slirp4netns", "pasta": "passt", "iperf3": "iperf3",
                "rootlesskit": "rootlesskit", "wrk": "wrk"}
    @classmethod
    def prepare(cls):
        """nginx alone, out of Debian's package: installing that would start a service."""
        if find_nginx() or not shutil.which("apt-get"):
            return
        with tempfile.TemporaryDirectory() as work:
            subprocess.run("apt-get -qq download nginx && dpkg-deb --extract nginx_*.deb unpacked", shell=True, cwd=work, check=False, stdout=sys.stderr)
            if os.path.exists(work + "/unpacked"):
                shutil.copytree(work + "/unpacked", CACHE + "/nginx", symlinks=True)

    within = ["unshare", "--net", "sh", "-c", PLAY_HOST + ' && exec "$@"', "sh"]

    def measure(self):
        self.runs = min(5, RUNS)
        self.children = []
        self.run(self.docker, "load", "-i", f"{CACHE}/images/{ARCHIVE}")
        os.makedirs(self.top + "/n", exist_ok=True)
        self.serve([])
        parts = os.environ.get("MOSS_BENCH_PARTS", "").split()
        for part in ("outbound", "small", "datagrams", "many", "published", "requests", "names"):
            if not parts or part in parts:
                getattr(self, part)()

    # Programs and places.

    def spawn(self, *command, **rest):
        given = {"stdin": self.null, "stdout": self.null, "stderr": self.null, **rest}
        child = subprocess.Popen(command, env=self.env, **given)
        self.children.append(child)
        return child

    def serve(self, enter):
        """Servers of all kinds in a place."""
        nginx = find_nginx()
        with open(self.top + "/nginx.conf", "w", encoding="utf-8") as file:
            file.write(NGINX.format(top=self.top, port=WEB))
        self.spawn(*enter, "iperf3", "-s", "-p", str(BULK))
        self.spawn(*enter, "python3", ENDS, "echo", *map(str, range(ECHO, ECHO + 40)), stdout=subprocess.PIPE).stdout.readline()
        if nginx:
            self.spawn(*enter, nginx, "-p", self.top, "-c", self.top + "/nginx.conf")

    def close(self):
        for child in reversed(self.children):
            child.kill()
            child.wait()
        super().close()

    def slirp(self):
        """moss' process of networks, which the keeper started."""
        for path in glob.glob("/proc/[0-9]*/stat"):
            try:
                with open(path, encoding="utf-8") as file:
                    name, _, rest = file.read().partition("(")[2].rpartition(")")
            except OSError:
                continue
            if name == "moss-slirp" and int(rest.split()[1]) == self.keeper():
                return int(path.split("/")[2])
        raise SystemExit("no moss-slirp")

    def box(self, network, *flags):
        """A container of moss' that does nothing; programs of the host are run in its network."""
        name = f"box{time.monotonic_ns()}"
        self.run(self.docker, "run", "-d", "--name", name, "--network", network, *flags, IMAGE, "sleep", "100000")
        pid = self.run(self.docker, "inspect", "-f", "{{.State.Pid}}", name)
        return Place(inside(pid), end=lambda: self.run(self.docker, "rm", "-f", name))

    def peer(self, *command):
        """A network namespace of the user's that a peer connects; PID in its command is that namespace's holder."""
        holder = self.spawn("unshare", "--user", "--map-root-user", "--net", "sleep", "100000")
        wait(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        peer = self.spawn(*(word.replace("PID", str(holder.pid)) for word in command))
        enter = inside(holder.pid)
        reached = [*enter, "python3", "-c", f"import socket; socket.create_connection(('{HOST}', {ECHO}), 1)"]
        wait(lambda: subprocess.run(reached, capture_output=True, check=False).returncode == 0)

        def end():
            for child in (peer, holder):
                child.kill()
                child.wait()

        return Place(enter, processes=[peer.pid], end=end)

    def ways_out(self, mtu):
        network = f"mtu{mtu}"
        self.run(self.docker, "network", "create", "-o", f"com.docker.network.driver.mtu={mtu}", network)
        places = {"loopback": Place(), "moss": self.box(network)}
        if shutil.which("slirp4netns"):
            places["slirp4netns"] = self.peer("slirp4netns", "--configure", f"--mtu={mtu}", "PID", "tap0")
        if shutil.which("pasta"):
            places["pasta"] = self.peer("pasta", "-4", "-q", "-f", "-m", str(mtu), "--config-net", "--userns", "/proc/PID/ns/user",
                                        "--netns", "/proc/PID/ns/net")
        return places

    # Runs.

    def tell(self, place, *command):
        """A program's last line, run in a place."""
        done = subprocess.run([*place.enter, *command], env=self.env, stdin=self.null, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise SystemExit(f"$ {' '.join(place.enter + list(command))}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def ends(self, place, *words):
        return float(self.tell(place, "python3", ENDS, *map(str, words)))

    def bulk(self, place, down, address=HOST, port=BULK):
        """Gbit/s of one stream, and seconds of all processors for each gigabyte."""
        before = busy()
        told = self.tell(place, "iperf3", "-c", address, "-p", str(port), "-t", SECONDS, "-J", *(["-R"] if down else []))
        got = json.loads(told)["end"]["sum_received"]
        return got["bits_per_second"] / 1e9, (busy() - before) / (got["bytes"] / 1e9)

    def in_turn(self, places, act):
        """Medians of what `act` gives for each place, a tuple or a number; interleaved."""
        found = {name: [] for name in places}
        for _ in range(self.runs):
            for name, place in places.items():
                time.sleep(0.1)
                got = act(name, place)
                found[name].append(got if isinstance(got, tuple) else (got,))
        medians = {name: tuple(map(statistics.median, zip(*values))) for name, values in found.items()}
        return {name: values if len(values) > 1 else values[0] for name, values in medians.items()}

    # Parts.

    def outbound(self):
        for mtu, shares, times in ((1500, (0.45, 0.65), 5), (65520, (0.55, 0.55), 1.5)):
            places = self.ways_out(mtu)
            for down, share in zip((False, True), shares):
                got = self.in_turn(places, lambda _, place, down=down: self.bulk(place, down))
                what = f"out, MTU {mtu}, {'down' if down else 'up'}"
                others = [got[name][0] for name in got if name not in ("loopback", "moss")]
                limit = max(share * got["loopback"][0], times * max(others, default=0))
                note = ", ".join(f"{name} {rate:.2f}" for name, (rate, _) in got.items() if name != "moss")
                self.row(what, got["moss"][0], limit, "Gb/s", f"{note}; {got['moss'][0] / got['loopback'][0]:.2f} of loopback, at least {share}", True)
                self.row("  processors", got["moss"][1], None, "s/GB", ", ".join(f"{name} {cost:.2f}" for name, (_, cost) in got.items() if name != "moss"))
            for place in places.values():
                place.end()
            self.run(self.docker, "network", "rm", f"mtu{mtu}")

    def small(self):
        places = self.ways_out(1500)
        got = self.in_turn(places, lambda _, place: self.ends(place, "rtt", HOST, ECHO, 2000))
        self.row("out, a byte there and back", got["moss"], 1.1 * got.get("slirp4netns", 0) or None, "µs", beside(got))
        # A port for each: a kernel that looks for a free one among those just used tells of nothing else.
        ports = iter(range(ECHO + 1, ECHO + 40))
        got = self.in_turn(places, lambda _, place: self.ends(place, "connects", HOST, next(ports), 1000))
        self.row("out, new connections", got["moss"], 1.5 * got.get("slirp4netns", 0) or None, "/s", beside(got), True)
        for place in places.values():
            place.end()
        self.run(self.docker, "network", "rm", "mtu1500")

    def carried(self, place, rate):
        """Datagrams a second that arrive, and the share that does not."""
        sink = self.spawn("python3", ENDS, "sink", str(SINK), "1.6", stdout=subprocess.PIPE, text=True)
        sink.stdout.readline()
        sent = self.ends(place, "flood", HOST, SINK, SECONDS, rate)
        count, seconds = map(float, sink.stdout.readline().split())
        return count / max(seconds, 0.001), 1 - count / sent

    def datagrams(self):
        places = self.ways_out(1500)
        got = self.in_turn(places, lambda _, place: self.carried(place, 0))
        note = ", ".join(f"{name} {rate:.0f} ({lost:.0%} lost)" for name, (rate, lost) in got.items() if name != "moss")
        least = 3 * got["slirp4netns"][0] if "slirp4netns" in got else None
        self.row("out, datagrams, as many as can be sent", got["moss"][0], least, "/s", f"{note}; {got['moss'][1]:.1%} lost", True)
        if least:
            rate, lost = self.in_turn({"moss": places["moss"]}, lambda _, place: self.carried(place, least))["moss"]
            self.row("out, datagrams, lost at 3 × slirp4netns'", lost * 100, 0, "%", f"{rate:.0f} a second")
        for place in places.values():
            place.end()
        self.run(self.docker, "network", "rm", "mtu1500")

    def hold(self, what, place, address, port, count):
        """PSS of slirp for each of many connections."""
        slirp = self.slirp()
        before = self.proc(slirp, "smaps_rollup", "Pss")
        holder = self.spawn(*place.enter, "python3", ENDS, "many", address, str(port), str(count), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        work = int(holder.stdout.readline())
        self.row(f"{what}, {count} at once, that work", work, count, "", "", True)
        self.row("  PSS of slirp for each", (self.proc(slirp, "smaps_rollup", "Pss") - before) / count, 2, "KiB")
        holder.stdin.close()
        holder.wait()

    def many(self):
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.run(self.docker, "network", "create", "many")
        place, (port,) = self.published_box("many", ECHO)
        time.sleep(1)
        slirp = self.slirp()
        self.row("idle slirp, its own memory", self.proc(slirp, "smaps_rollup", "Pss_Anon") / 1024, 3, "MiB")
        before = switches(slirp)
        time.sleep(3)
        self.row("idle slirp, wake-ups in 3 s", switches(slirp) - before, 0, "")
        self.hold("out", place, HOST, ECHO, min(10_000, files - 1000))
        # Two files each.
        self.hold("published", Place(), HOST, port, min(10_000, files // 2 - 500))
        place.end()
        self.run(self.docker, "network", "rm", "many")

    def published_box(self, network, *ports):
        """A container with servers, and the host's ports that lead to them."""
        place = self.box(network, *(f"-p{HOST}::{port}" for port in ports))
        self.serve(place.enter)
        name = self.run(self.docker, "ps", "-q", "-n", "1")
        told = (self.run(self.docker, "port", name, str(port)) for port in ports)
        return place, [int(text.rpartition(":")[2]) for text in told]

    def published_places(self):
        """Ports of each engine's that lead to the same servers: `port_of` says which."""
        place, ports = self.published_box("bridge", BULK, WEB)
        places = {"direct": Place(), "moss": Place(port_of=dict(zip((BULK, WEB), ports)).get, end=place.end)}
        first = 20000
        for driver in ("builtin", "slirp4netns"):
            if not shutil.which("rootlesskit"):
                break
            ports = {BULK: first, WEB: first + 1}
            first += 10
            state = f"{self.top}/kit.{driver}"
            kit = self.spawn("rootlesskit", "--state-dir", state, "--net", "slirp4netns", "--mtu", "65520", "--disable-host-loopback", "--copy-up", "/etc",
                             "--port-driver", driver, *(f"-p={HOST}:{outer}:{inner}/tcp" for inner, outer in ports.items()), "sleep", "100000")
            wait(lambda state=state: os.path.getsize(state + "/child_pid") > 0)
            with open(state + "/child_pid", encoding="utf-8") as file:
                self.serve(inside(file.read()))
            name = "rootlesskit" if driver == "builtin" else driver
            places[name] = Place(port_of=ports.get, end=lambda kit=kit: (kit.terminate(), kit.wait()))
        if self.podman:
            ports = {BULK: first, WEB: first + 1}
            self.run(self.podman, "load", "-i", f"{CACHE}/images/{ARCHIVE}")
            box = self.run(self.podman, "run", "-d", "--network", "slirp4netns:port_handler=rootlesskit",
                           *(f"-p{HOST}:{outer}:{inner}" for inner, outer in ports.items()), IMAGE, "sleep", "100000")
            self.serve(inside(self.run(self.podman, "inspect", "-f", "{{.State.Pid}}", box)))
            places["podman"] = Place(port_of=ports.get, end=lambda: self.run(self.podman, "rm", "-f", "-t", "0", box))
        for place in places.values():
            for port in (BULK, WEB):
                wait(lambda place=place, port=port: socket.create_connection((HOST, place.port_of(port)), 1).close() is None)
        return places

    def published_row(self, what, got, share, unit):
        others = [got[name] for name in got if name not in ("direct", "moss")]
        limit = max(share * got["direct"], 1.2 * max(others, default=0))
        self.row(what, got["moss"], limit, unit, f"{beside(got)}; {got['moss'] / got['direct']:.2f} of direct, at least {share}", True)

    def published(self):
        places = self.published_places()
        for down in (False, True):
            got = self.in_turn(places, lambda _, place, down=down: self.bulk(Place(), down, HOST, place.port_of(BULK))[0])
            self.published_row(f"published, {'from' if down else 'to'} the container", got, 0.5, "Gb/s")
        for place in places.values():
            place.end()

    def requests(self):
        if not find_nginx() or not shutil.which("wrk"):
            print("no nginx or wrk: requests are not measured")
            return
        places = self.published_places()
        for what, header, share in (("kept alive", [], 0.5), ("a connection each", ["-H", "Connection: close"], 0.45)):
            def wrk(_, place, header=header):
                told = self.tell(Place(), "wrk", "-t", "1", "-c", "32", "-d", SECONDS, *header, f"http://{HOST}:{place.port_of(WEB)}/")
                return float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1])

            self.published_row(f"published, requests, {what}", self.in_turn(places, wrk), share, "/s")
        for place in places.values():
            place.end()

    def names(self):
        self.run(self.docker, "network", "create", "named")
        place = self.box("named")
        self.run(self.docker, "run", "-d", "--name", "other", "--network", "named", IMAGE, "sleep", "100000")
        got = statistics.median(self.ends(place, "name", "127.0.0.11", "other", 500) for _ in range(self.runs))
        self.row("a name of the network's, answered", got, 100, "µs")
        self.row("network create and rm", statistics.median(self.made() for _ in range(15)), 20)
        starts = {network: [] for network in ("none", "named")}
        for _ in range(15):
            for network, times in starts.items():
                times.append(self.started(network))
        alone, joined = (statistics.median(times) for times in starts.values())
        self.row("a network, added to a start", joined - alone, 4, note=f"{joined:.1f} and {alone:.1f}")
        place.end()
        self.run(self.docker, "rm", "-f", "other")
        self.run(self.docker, "network", "rm", "named")

    def api(self, method, path, body=None):
        """One answered request, in ms, and what came."""
        if not hasattr(self, "link"):
            self.link = http.client.HTTPConnection("moss")
            self.link.sock = socket.socket(socket.AF_UNIX)
            self.link.sock.connect(self.runtime + "/moss.sock")
        begun = time.perf_counter()
        self.link.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        answer = self.link.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {data!r}")
        return (time.perf_counter() - begun) * 1000, json.loads(data) if data else None

    def made(self):
        create, _ = self.api("POST", "/networks/create", {"Name": "fleeting"})
        return create + self.api("DELETE", "/networks/fleeting")[0]

    def started(self, network):
        body = {"Image": IMAGE, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": network}}
        name = self.api("POST", "/containers/create", body)[1]["Id"]
        time.sleep(0.2)  # what is prepared of a start is not part of it
        took, _ = self.api("POST", f"/containers/{name}/start")
        self.api("DELETE", f"/containers/{name}?force=true")
        return took


def beside(got):
    return ", ".join(f"{name} {value:.1f}" for name, value in got.items() if name != "moss")


def switches(pid):
    """Times that threads of a process were woken."""
    total = 0
    for path in glob.glob(f"/proc/{pid}/task/*/status"):
        with open(path, encoding="utf-8") as file:
            total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", file.read(), re.M)[1])
    return total


def wait(holds):
    for _ in range(1000):
        try:
            if holds():
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.01)
    raise SystemExit("a peer does not start")


def find_nginx():
    """Debian's, unpacked beside the tests' other programs so that no service is started."""
    return shutil.which("nginx") or (CACHE + "/nginx/usr/sbin/nginx" if os.path.exists(CACHE + "/nginx/usr/sbin/nginx") else None)
