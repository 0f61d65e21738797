"""Registries that only a proxy reaches, as daemon.json and the environment name it."""

import http.client
import json
import os
from http.server import BaseHTTPRequestHandler

import registry
from harness import check, once
from test_push import PushCase

FAR = "far.invalid"


class Proxy:
    """Passes plain HTTP for one name on to a registry, if it is asked by the whole URL; tunnels nothing."""

    def __init__(self, behind):
        asked = self.asked = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self):
                asked.append((self.command, self.path, self.headers["Proxy-Authorization"]))
                if not self.path.startswith(f"http://{FAR}/"):
                    return self.send_error(403)
                fields = {name: value for name, value in self.headers.items()
                          if name.lower() not in ("proxy-authorization", "transfer-encoding", "content-length")}
                far = http.client.HTTPConnection(behind.host, timeout=30)
                far.request(self.command, self.path.removeprefix("http://" + FAR), self.body(), fields)
                answer = far.getresponse()
                data = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "date", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def body(self):
                if self.headers["Transfer-Encoding"] != "chunked":
                    return self.rfile.read(int(self.headers["Content-Length"] or 0))
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data

            do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_CONNECT = pass_on

            def log_message(self, *_):
                pass

        self.server = registry.serve(Handler)
        self.host = "127.0.0.1:%d" % self.server.server_address[1]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@once
class Proxies(PushCase):
    def test_plain_http(self):
        proxy = Proxy(self.registry)
        self.addCleanup(proxy.close)
        daemon = self.own_daemon(**{"insecure-registries": [FAR], "proxies": {"http-proxy": f"http://u:p@{proxy.host}"}})
        name = FAR + "/by/proxy:1"
        made = daemon.docker("import", "-", name, stdin=registry.layer(far=os.urandom(300_000))).out.strip()
        check(daemon.docker("push", name))
        check(daemon.docker("rmi", name))
        check(daemon.docker("pull", name))
        self.equal(json.loads(daemon.docker("image", "inspect", name).out)[0]["Id"], made, "id")
        self.equal({method for method, _, _ in proxy.asked} >= {"GET", "HEAD", "POST", "PATCH", "PUT"}, True, f"requests: {proxy.asked}")
        wrong = [asked for asked in proxy.asked if not asked[1].startswith(f"http://{FAR}/v2/") or asked[2] != "Basic dTpw"]
        self.equal(wrong, [], "requests without a whole URL or proof")
