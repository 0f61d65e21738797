"""What one container runs behind the routers so that others find a world there: `python3 world.py`, as root.

    http   port 80      /apt (a flat repository), /simple (an index of Python packages), /repo.git, /big;
                        what is PUT is answered by its SHA-256
    git    port 9418    /repo.git, which takes pushes
    dns    port 53      world.example and big.example, whose texts need more than a datagram of 512 bytes
    iperf3 from 5201    a server for each test, since one that has just served may not be ready for the next
    udp    51820, 51821 both ends of a tunnel that speaks of itself, see `Tunnel`
"""

import hashlib
import http.server
import os
import socket
import socketserver
import struct
import subprocess
import threading
import time
import zipfile

ADDRESSES = {"A": "198.18.0.9", "AAAA": "2001:db8:3::9"}
TUNNEL = (51820, 51821)
PERFORMANCE = range(5201, 5209)


class Web(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args):
        super().__init__(*args, directory="/srv")

    def do_PUT(self):
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left > 0 and (piece := self.rfile.read(min(left, 1 << 16))):
            digest.update(piece)
            left -= len(piece)
        answer = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class DualStack(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


def answer(question, most=None):
    """The answer to one question of DNS; as a datagram, of which `most` bytes may be, it is cut short where it is
    more than that or than the asker takes."""
    end = question.index(b"\0", 12) + 1
    name, (kind,) = question[12:end], struct.unpack(">H", question[end:end + 2])
    has_edns = question[10:12] != b"\0\0"
    if most is None:
        most = 65535
    elif has_edns:  # in place of a class, the size that the asker takes
        most = min(most, max(512, struct.unpack(">H", question[end + 7:end + 9])[0]))
    else:
        most = 512
    records = []
    if name == b"\x05world\x07example\0" and kind == 1:
        records = [socket.inet_aton(ADDRESSES["A"])]
    elif name == b"\x05world\x07example\0" and kind == 28:
        records = [socket.inet_pton(socket.AF_INET6, ADDRESSES["AAAA"])]
    elif name == b"\x03big\x07example\0" and kind == 16:
        records = [bytes([200]) + b"%03d" % number + b"x" * 197 for number in range(15)]
    body = b"".join(struct.pack(">HHHIH", 0xC00C, kind, 1, 60, len(data)) + data for data in records)
    head, asked = question[:2], question[12:end + 4]
    edns = b"\0" + struct.pack(">HHIH", 41, 4096, 0, 0) if has_edns else b""
    whole = head + struct.pack(">HHHHH", 0x8580, 1, len(records), 0, has_edns) + asked + body + edns
    if len(whole) > most:
        return head + struct.pack(">HHHHH", 0x8780, 1, 0, 0, has_edns) + asked + edns
    return whole


class Asked(socketserver.BaseRequestHandler):
    def handle(self):
        question, server = self.request
        server.sendto(answer(question, 4096), self.client_address)


class AskedByStream(socketserver.StreamRequestHandler):
    def handle(self):
        while len(length := self.rfile.read(2)) == 2:
            said = answer(self.rfile.read(struct.unpack(">H", length)[0]))
            self.wfile.write(struct.pack(">H", len(said)) + said)


class Tunnel:
    """As WireGuard's: a peer is known by what it sends, not from where, and is written to wherever it was last heard.

    `NAME hello` is answered by the port that it came from, other datagrams by themselves; all peers are sent
    `NAME alive` time and again, from the port that `NAME from PORT` asked for.
    """

    def __init__(self):
        self.sockets, self.peers, self.lock = {}, {}, threading.Lock()
        for port in TUNNEL:
            self.sockets[port] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.sockets[port].bind(("", port))
            threading.Thread(target=self.hear, args=(port,)).start()
        threading.Thread(target=self.keep_alive).start()

    def hear(self, port):
        while True:
            data, peer = self.sockets[port].recvfrom(65536)
            name, _, said = data.partition(b" ")
            with self.lock:
                speaks_from = self.peers[name][1] if name in self.peers else TUNNEL[0]
                if said.startswith(b"from "):
                    speaks_from = int(said[5:])
                self.peers[name] = (peer, speaks_from)
            self.sockets[port].sendto(b"hello %d" % peer[1] if said == b"hello" else data, peer)

    def keep_alive(self):
        while True:
            time.sleep(0.05)
            with self.lock:
                for name, (peer, port) in self.peers.items():
                    self.sockets[port].sendto(name + b" alive", peer)


def package(directory, name, version, files):
    """A package of Debian's form, in `directory`; what it is called there."""
    tree = f"/tmp/{name}-{version}"
    for path, text in {"DEBIAN/control": f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
                                         f"Maintainer: Nobody <nobody@world.example>\nDescription: a package\n", **files}.items():
        os.makedirs(os.path.dirname(f"{tree}/{path}"), exist_ok=True)
        with open(f"{tree}/{path}", "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(f"{tree}/{path}", 0o755 if "bin/" in path or "inst" in path else 0o644)
    os.makedirs(directory, exist_ok=True)
    subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", tree, directory], check=True, stdout=subprocess.DEVNULL)
    return f"{directory}/{name}_{version}_all.deb"


def repository(directory, packages):
    """What apt needs to know of packages in a flat repository."""
    with open(directory + "/Packages", "w", encoding="utf-8") as index:
        for path in packages:
            with open(path, "rb") as file:
                data = file.read()
            control = subprocess.run(["dpkg-deb", "-f", path], check=True, capture_output=True, text=True).stdout
            index.write(f"{control}Filename: ./{os.path.basename(path)}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n\n")


def wheel(directory, name):
    """A wheel with one module that says a word; its path."""
    path = f"{directory}/{name}-1-py3-none-any.whl"
    files = {f"{name}.py": "WORD = 'from a wheel'\n",
             f"{name}-1.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
             f"{name}-1.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: none\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    files[f"{name}-1.dist-info/RECORD"] = "".join(f"{file},,\n" for file in (*files, f"{name}-1.dist-info/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def fill():
    """Makes what is served."""
    repository("/srv/apt", [package("/srv/apt", "worldly", "1", {"usr/bin/worldly": "#!/bin/sh\necho from a package\n"})])
    os.makedirs("/srv/simple/worldlywheel")
    path = wheel("/srv/simple/worldlywheel", "worldlywheel")
    with open("/srv/simple/worldlywheel/index.html", "w", encoding="utf-8") as index:
        index.write(f'<!DOCTYPE html><a href="{os.path.basename(path)}">{os.path.basename(path)}</a>')
    with open("/srv/big", "wb") as big:
        for _ in range(64):
            big.write(os.urandom(1 << 20))
    subprocess.run("""set -e; cd /tmp; git init -q --bare -b main /srv/repo.git; git clone -q /srv/repo.git work; cd work
        git config user.name x; git config user.email x; for i in $(seq 100); do echo $i > file$i; done
        head -c 2000000 /srv/big > data; git add .; git commit -qm first; git push -q origin HEAD:main
        git -C /srv/repo.git update-server-info""", shell=True, check=True, stderr=subprocess.DEVNULL)


def listening():
    """Ports at which something listens."""
    rows = []
    for table in ("tcp", "tcp6"):
        with open("/proc/net/" + table, encoding="utf-8") as file:
            rows += [line.split() for line in file]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}


def main():
    fill()
    socketserver.TCPServer.allow_reuse_address = True
    servers = [DualStack(("::", 80), Web), socketserver.ThreadingUDPServer(("", 53), Asked),
               socketserver.ThreadingTCPServer(("", 53), AskedByStream)]
    for server in servers:
        threading.Thread(target=server.serve_forever).start()
    Tunnel()
    subprocess.Popen(["git", "daemon", "--base-path=/srv", "--export-all", "--enable=receive-pack", "/srv"])
    for port in PERFORMANCE:
        subprocess.Popen(["iperf3", "-s", "-1", "-p", str(port)], stdout=subprocess.DEVNULL)
    while not listening() >= {80, 53, 9418, *PERFORMANCE}:
        time.sleep(0.02)
    print("serves", flush=True)


if __name__ == "__main__":
    main()
