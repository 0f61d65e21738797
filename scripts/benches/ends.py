#!/usr/bin/python3
"""Both ends of what `net.py` measures, each a program of its own, run in whatever network it is to be in.

    ends.py echo PORT…                     answers with what it gets, on each port, by TCP
    ends.py rtt ADDRESS PORT COUNT         median round trip of a byte, in µs
    ends.py connects ADDRESS PORT COUNT    connections made, used for a byte and closed, per second
    ends.py many ADDRESS PORT COUNT        holds so many; prints how many work, ends with its input
    ends.py sink PORT SECONDS              datagrams received, and for how many seconds they came
    ends.py flood ADDRESS PORT SECONDS RATE  sends datagrams, RATE a second (0: as many as it can); prints how many
    ends.py name SERVER NAME COUNT         median time of an answer to a question for an address, in µs
"""

import resource
import selectors
import socket
import statistics
import struct
import sys
import time

SIZE = 1000  # bytes of a datagram


def echo(*ports):
    wait = selectors.DefaultSelector()
    for port in ports:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", int(port)))
        listener.listen(4096)
        listener.setblocking(False)
        wait.register(listener, selectors.EVENT_READ, True)
    print("ready", flush=True)
    while True:
        for key, _ in wait.select():
            if key.data:
                flow = key.fileobj.accept()[0]
                flow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                wait.register(flow, selectors.EVENT_READ, False)
                continue
            try:
                data = key.fileobj.recv(4096)
            except OSError:
                data = b""
            if data:
                key.fileobj.send(data)
            else:
                wait.unregister(key.fileobj)
                key.fileobj.close()


def connected(address, port):
    flow = socket.create_connection((address, int(port)), timeout=30)
    flow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    flow.settimeout(None)
    return flow


def micros(act, count):
    times = []
    for _ in range(int(count)):
        begun = time.perf_counter_ns()
        act()
        times.append(time.perf_counter_ns() - begun)
    print(statistics.median(times) / 1000)


def rtt(address, port, count):
    flow = connected(address, port)

    def once():
        flow.send(b"x")
        flow.recv(1)

    micros(once, count)


def connects(address, port, count):
    begun = time.perf_counter()
    for _ in range(int(count)):
        flow = connected(address, port)
        flow.send(b"x")
        flow.recv(1)
        flow.close()
    print(int(count) / (time.perf_counter() - begun))


def many(address, port, count):
    flows, wrong = [], 0
    for _ in range(int(count)):
        try:
            flow = connected(address, port)
            flow.send(b"x")
            wrong += flow.recv(1) != b"x"
            flows.append(flow)
        except OSError:
            wrong += 1
    print(int(count) - wrong, flush=True)
    sys.stdin.read()


def sink(port, seconds):
    end = time.monotonic() + float(seconds)
    taker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    taker.bind(("0.0.0.0", int(port)))
    taker.settimeout(0.1)
    print("ready", flush=True)
    count, first, last = 0, None, 0.0
    room = bytearray(65536)
    while time.monotonic() < end:
        try:
            taker.recv_into(room)
        except TimeoutError:
            continue
        count += 1
        last = time.monotonic()
        first = first or last
    print(count, last - (first or last))


def flood(address, port, seconds, rate):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect((address, int(port)))
    data, seconds, rate, sent = bytes(SIZE), float(seconds), float(rate), 0
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        due = rate * passed if rate else sent + 64
        while sent < due:
            try:
                sender.send(data)
            except OSError:
                continue  # no room; it is not sent
            sent += 1
        if rate:
            time.sleep(0.0002)
    print(sent)


def name(server, wanted, count):
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.connect((server, 53))
    question = b"".join(bytes([len(part)]) + part.encode() for part in wanted.split(".")) + b"\0"
    message = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + question + struct.pack(">2H", 1, 1)

    def once():
        asker.send(message)
        answer = asker.recv(512)
        if answer[7] == 0:
            raise SystemExit("no such name")

    micros(once, count)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    parts = {act.__name__: act for act in (echo, rtt, connects, many, sink, flood, name)}
    parts[sys.argv[1]](*sys.argv[2:])
