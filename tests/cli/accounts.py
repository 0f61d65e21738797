"""What guards a registry: passwords, a token server that docker-registry believes, certificates."""

import base64
import json
import os
import socket
import subprocess
import time
import unittest
import urllib.parse
from http.server import BaseHTTPRequestHandler

import registry
from harness import need

USER, PASSWORD = "somebody", "secret"


def htpasswd(directory):
    """`auth` of a registry that knows USER by PASSWORD."""
    text = subprocess.run([need("htpasswd"), "-Bbn", USER, PASSWORD], check=True, capture_output=True).stdout
    with open(directory + "/htpasswd", "wb") as file:
        file.write(text)
    return {"htpasswd": {"realm": "moss", "path": directory + "/htpasswd"}}


def own_address():
    """An address that is not loopback, where certificates are looked at. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            raise unittest.SkipTest("no address but loopback, where certificates are not verified") from None
        return probe.getsockname()[0]


class Authority:
    """A certificate authority in a directory, by openssl."""

    def __init__(self, directory):
        self.directory = directory
        os.makedirs(directory + "/new", exist_ok=True)
        with open(directory + "/ca.cnf", "w", encoding="utf-8") as file:
            file.write(f"[ca]\ndefault_ca = own\n[own]\ndatabase = {directory}/index\nnew_certs_dir = {directory}/new\n"
                       f"serial = {directory}/serial\ndefault_md = sha256\npolicy = any\nunique_subject = no\n"
                       "[any]\ncommonName = supplied\n"
                       "[req]\ndistinguished_name = name\n[name]\n[v3]\nbasicConstraints = critical, CA:TRUE\n")
        open(directory + "/index", "w", encoding="utf-8").close()
        with open(directory + "/serial", "w", encoding="utf-8") as file:
            file.write("01\n")
        self.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9999", "-subj", "/CN=ca",
                     "-config", "ca.cnf", "-extensions", "v3", "-keyout", "ca.key", "-out", "ca.crt")

    def openssl(self, *args, **options):
        return subprocess.run([need("openssl"), *args], cwd=self.directory, check=True, capture_output=True, **options).stdout

    def server(self, name, address, start="20200101000000Z", end="20990101000000Z"):
        """`tls` of a registry at an address."""
        self.openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-config", "ca.cnf",
                     "-keyout", name + ".key", "-out", name + ".csr")
        with open(f"{self.directory}/{name}.ext", "w", encoding="utf-8") as file:
            file.write(f"subjectAltName = IP:{address}\n")
        self.openssl("ca", "-batch", "-config", "ca.cnf", "-cert", "ca.crt", "-keyfile", "ca.key", "-in", name + ".csr",
                     "-out", name + ".crt", "-extfile", name + ".ext", "-startdate", start, "-enddate", end, "-notext")
        return {"certificate": f"{self.directory}/{name}.crt", "key": f"{self.directory}/{name}.key"}


class Tokens:
    """A token server. It gives USER all that is asked for, and a refresh token; strangers may pull `public/…`."""

    def __init__(self, directory):
        self.authority = Authority(directory)
        self.requests, self.count = [], 0
        with open(directory + "/ca.crt", encoding="ascii") as file:
            self.certificate = "".join(line.strip() for line in file if not line.startswith("-"))
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query))

            def do_POST(self):
                length = int(self.headers["Content-Length"])
                self.answer(urllib.parse.parse_qs(self.rfile.read(length).decode()))

            def answer(self, asked):
                tokens.requests.append(asked)
                status, body = tokens.answer(self.command, asked, self.headers["Authorization"])
                body = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = registry.serve(Handler)
        self.host = "127.0.0.1:%d" % self.server.server_address[1]

    def auth(self):
        """`auth` of a registry."""
        return {"token": {"realm": f"http://{self.host}/token", "service": "service", "issuer": "issuer",
                          "rootcertbundle": self.authority.directory + "/ca.crt"}}

    def answer(self, method, asked, authorization):
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        known = authorization == basic or asked.get("refresh_token") == ["refresh"]
        if not known and (authorization or method == "POST"):
            return 401, {"details": "incorrect username or password"}
        scopes = [scope.split(":") for text in asked.get("scope", []) for scope in text.split()]
        access = [{"type": kind, "name": name, "actions": [
                      action for action in actions.split(",")
                      if known or (action == "pull" and name.startswith("public/"))]}
                  for kind, name, actions in scopes]
        answer = {"token": self.token(access), "expires_in": 300}
        if asked.get("offline_token") == ["true"]:
            answer["refresh_token"] = "refresh"
        return 200, answer

    def token(self, access):
        now, self.count = int(time.time()), self.count + 1
        claims = {"iss": "issuer", "sub": "", "aud": "service", "exp": now + 300, "nbf": now - 10, "iat": now,
                  "jti": str(self.count), "access": access}
        text = ".".join(encoded(json.dumps(part).encode())
                        for part in ({"typ": "JWT", "alg": "RS256", "x5c": [self.certificate]}, claims))
        signature = self.authority.openssl("dgst", "-sha256", "-sign", "ca.key", input=text.encode())
        return f"{text}.{encoded(signature)}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
