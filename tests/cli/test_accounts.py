"""Registries that want to know who one is: login, logout, passwords, tokens, helpers, certificates; by docker and moss."""

import json
import os
import re
import shutil
import stat
import tempfile

import accounts
import harness
import registry
from accounts import PASSWORD, USER
from harness import BIN, Case, Terminal, check, once, run
from registry import layer, reply

HELPER = """#!/bin/sh
# Keeps one registry's credentials in a file.
kept=$(dirname "$0")/kept
case $1 in
store) cat >"$kept" ;;
get) cat >/dev/null; if [ -e "$kept" ]; then cat "$kept"; else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) cat >/dev/null; rm -f "$kept" ;;
esac
"""


def trust(case, host):
    """Has a case's daemon believe the authority of the case for `host`; the directory where that is said."""
    own = f"{case.daemon.env['XDG_CONFIG_HOME']}/docker/certs.d/{host}"
    os.makedirs(own, exist_ok=True)
    shutil.copy(case.top + "/ca.crt", own)
    case.addCleanup(shutil.rmtree, own)
    return own


class AccountCase(Case):
    """A case with an open registry to push to and, beside it, one that is guarded; each has a config.json of its own."""

    @classmethod
    def setUpClass(cls):
        cls.top = tempfile.mkdtemp(prefix="ma.", dir="/tmp")
        cls.addClassCleanup(shutil.rmtree, cls.top, ignore_errors=True)
        cls.open = cls.started(registry.Registry())
        cls.open.push("private/app", "1", layer(app=b"app"))
        cls.guarded = cls.guard()
        cls.host = cls.guarded.host
        cls.name = f"{cls.host}/private/app:1"

    @classmethod
    def started(cls, what):
        cls.addClassCleanup(what.close)
        return what

    @classmethod
    def guard(cls):
        return cls.started(registry.Registry(beside=cls.open, auth=accounts.htpasswd(cls.top)))

    def setUp(self):
        super().setUp()
        self.config = tempfile.mkdtemp(dir=self.top)
        self.environment = {**self.daemon.env, "DOCKER_CONFIG": self.config}
        # Whose turn it is; every case can be told of docker and of moss.
        self.program = harness._state["docker"]
        self.addCleanup(self.docker, "rmi", "-f", self.name, code=None)

    def each(self):
        """Runs the rest of a case with docker and then with moss."""
        for program in (harness._state["docker"], BIN):
            self.program = program
            self.docker("rmi", "-f", self.name, code=None)
            self.forget()
            yield program

    def forget(self):
        for name in os.listdir(self.config):
            os.unlink(f"{self.config}/{name}")

    def ask(self, *args, code=0, out=None, err=None, **options):
        return check(run([self.program, *args], env=self.environment, **options), code, out, err)

    def login(self, password=PASSWORD, **options):
        options.setdefault("out", re.compile("Login Succeeded"))
        return self.ask("login", "-u", USER, "--password-stdin", self.host, stdin=password + "\n", **options)

    def kept(self):
        with open(self.config + "/config.json", encoding="utf-8") as file:
            return json.load(file)

    def keep(self, **fields):
        with open(self.config + "/config.json", "w", encoding="utf-8") as file:
            json.dump(fields, file)

    def auth(self, password=PASSWORD):
        return {self.host: {"auth": accounts.base64.b64encode(f"{USER}:{password}".encode()).decode()}}


class Passwords(AccountCase):
    def test_login_pull_logout(self):
        for _ in self.each():
            self.login(err=re.compile("WARNING! Your (credentials are|password will be) stored unencrypted in"))
            self.equal(self.kept()["auths"], self.auth(), "auths")
            self.equal(stat.S_IMODE(os.stat(self.config + "/config.json").st_mode), 0o600, "mode of config.json")
            self.ask("pull", self.name)
            self.ask("logout", self.host, out="Removing login credentials for " + self.host)
            self.equal(self.kept().get("auths", {}), {}, "auths")
            self.ask("pull", self.name, code=1, err=re.compile("no basic auth credentials$", re.M))

    def test_wrong_password(self):
        for _ in self.each():
            self.login("wrong", code=1, out="", err=re.compile(
                f"Error response from daemon: login attempt to http://{self.host}/v2/ failed with status: 401 Unauthorized"))
            self.equal(os.path.exists(self.config + "/config.json") and bool(self.kept().get("auths")), False, "kept")
            self.keep(auths=self.auth("wrong"))
            self.ask("pull", self.name, code=1, err="Error response from daemon: unauthorized: authentication required")

    def test_nobody_there(self):
        self.host = f"127.0.0.1:{registry.free_port()}"
        for _ in self.each():
            self.login(code=1, out="", err=re.compile(
                f'daemon: Get "http://{self.host}/v2/": dial tcp {self.host}: connect: connection refused'))

    def test_password_in_the_command(self):
        for _ in self.each():
            self.ask("login", "-u", USER, "-p", PASSWORD, self.host, out=re.compile("Login Succeeded"),
                     err=re.compile("WARNING! Using --password via the CLI is insecure. Use --password-stdin."))

    def test_what_is_in_the_file_stays(self):
        for _ in self.each():
            self.keep(detachKeys="ctrl-a", auths={"r.example": {"auth": "YTpi"}})
            os.chmod(self.config + "/config.json", 0o640)
            self.login()
            self.equal(self.kept()["auths"].keys(), {"r.example", self.host}, "auths")
            self.ask("logout", "http://" + self.host)
            self.equal(self.kept(), {"detachKeys": "ctrl-a", "auths": {"r.example": {"auth": "YTpi"}}}, "config.json")
            self.equal(stat.S_IMODE(os.stat(self.config + "/config.json").st_mode), 0o640, "mode of config.json")

    def test_helper(self):
        work = tempfile.mkdtemp(dir=self.top)
        with open(work + "/docker-credential-kept", "w", encoding="utf-8") as file:
            file.write(HELPER)
        os.chmod(work + "/docker-credential-kept", 0o755)
        self.environment["PATH"] = work + ":" + self.environment["PATH"]
        for _ in self.each():
            for how in ({"credsStore": "kept"}, {"credHelpers": {self.host: "kept"}}):
                self.keep(**how)
                self.login(err="")
                self.equal(self.kept().get("auths"), {self.host: {}}, "auths")
                with open(work + "/kept", encoding="utf-8") as file:
                    self.equal(json.load(file), {"ServerURL": self.host, "Username": USER, "Secret": PASSWORD}, "kept")
                self.ask("pull", "-q", self.name)
                self.ask("logout", self.host)
                self.equal(os.path.exists(work + "/kept"), False, "kept by the helper")
                self.ask("pull", self.name, code=1, err=re.compile("no basic auth credentials$", re.M))

    @once
    def test_missing_helper(self):
        """As docker 28 goes on; only that it says so."""
        self.program = BIN
        self.keep(credsStore="nosuch")
        result = self.ask("pull", self.name, code=1, err=re.compile(
            'WARNING: .*exec: "docker-credential-nosuch": executable file not found in \\$PATH'))
        self.equal("no basic auth credentials" in result.err, True, "the registry was asked")

    @once
    def test_environment(self):
        """As docker reads it from 28.3 on."""
        self.program = BIN
        self.environment["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": self.auth()})
        self.keep(auths=self.auth("wrong"))
        self.ask("pull", "-q", self.name)
        self.ask("logout", self.host, err=re.compile("WARNING: DOCKER_AUTH_CONFIG is set and takes precedence."))
        self.environment["DOCKER_AUTH_CONFIG"] = "{"
        self.ask("pull", self.name, code=1, err=re.compile("Failed to create credential store from DOCKER_AUTH_CONFIG: "))

    @once
    def test_one_logs_in_for_the_other(self):
        docker = self.program
        for first, second in ((docker, BIN), (BIN, docker)):
            self.program = first
            self.login()
            self.program = second
            self.ask("pull", "-q", self.name)
            self.ask("logout", self.host)
            self.program = first
            self.ask("pull", self.name, code=1, err=re.compile("no basic auth credentials$", re.M))

    @once
    def test_moss_run_pulls(self):
        self.program = BIN
        self.login()
        self.ask("create", self.name, out=re.compile("^[0-9a-f]{64}$", re.M), err=re.compile("Unable to find image"))
        containers = self.docker("ps", "-aq", "--filter", "ancestor=" + self.name).out.split()
        self.docker("rm", *containers)

    @once
    def test_moss_asks(self):
        self.program = BIN
        self.ask("login", self.host, code=1, err="error: cannot perform an interactive login from a non-TTY device")
        terminal = Terminal([BIN, "login", self.host], self.environment)
        self.addCleanup(terminal.close)
        terminal.expect("Username: ")
        terminal.send(USER + "\n")
        terminal.expect("Password: ")
        terminal.send("wrong\x15" + PASSWORD + "\n")
        terminal.expect("Login Succeeded")
        self.equal((terminal.wait(), PASSWORD in terminal.seen), (0, False), "status, and whether the password was shown")
        self.ask("login", self.host, out="Login Succeeded", err=re.compile(
            rf"Authenticating with existing credentials... \[Username: {USER}\]"))
        self.keep(auths=self.auth("wrong"))
        self.ask("login", self.host, code=1, err=re.compile(
            "Login did not succeed, error: .*401 Unauthorized\nerror: cannot perform an interactive login"))

    @once
    def test_requests(self):
        sent = {"username": USER, "password": PASSWORD, "serveraddress": self.host}
        self.equal(self.daemon.http("POST", "/auth", sent)[::2], (200, {"Status": "Login Succeeded"}), "answer")
        for body, status, text in (
                (b"", 400, "invalid X-Registry-Auth header: invalid JSON: EOF"),
                (b"{", 400, "invalid X-Registry-Auth header: invalid JSON: "),
                ({**sent, "serveraddress": "https://a b/"}, 400, "unable to parse server address"),
                ({**sent, "password": "wrong"}, 500, f"login attempt to http://{self.host}/v2/ failed with status: 401"),
                ({"serveraddress": self.host}, 500, f'Get "http://{self.host}/v2/": no basic auth credentials')):
            got, _, answer = self.daemon.http("POST", "/auth", body)
            self.equal((got, text in answer["message"]), (status, True), f"answer to {body}: {answer}")


class WithTokens(AccountCase):
    @classmethod
    def guard(cls):
        cls.tokens = cls.started(accounts.Tokens(cls.top))
        return cls.started(registry.Registry(beside=cls.open, auth=cls.tokens.auth()))

    def test_login_pull_logout(self):
        for _ in self.each():
            self.login(err="")
            self.equal(self.kept()["auths"][self.host]["identitytoken"], "refresh", "token")
            self.equal(PASSWORD in accounts.base64.b64decode(self.kept()["auths"][self.host].get("auth", "")).decode(),
                       False, "whether the password is kept")
            self.tokens.requests.clear()
            self.ask("pull", self.name)
            self.equal([asked["scope"] for asked in self.tokens.requests], [["repository:private/app:pull"]], "scopes")
            self.ask("logout", self.host)
            self.ask("pull", self.name, code=1, err=re.compile(
                f"pull access denied for {self.host}/private/app, repository does not exist or may require 'docker login'"))

    def test_anonymous(self):
        name = f"{self.host}/public/app:1"
        self.open.push("public/app", "1", layer(public=b"public"))
        self.addCleanup(self.docker, "rmi", "-f", name, code=None)
        for _ in self.each():
            self.ask("pull", name)

    def test_password_without_a_login(self):
        for _ in self.each():
            self.keep(auths=self.auth())
            self.ask("pull", self.name)

    def test_wrong_password(self):
        for _ in self.each():
            self.login("wrong", code=1, out="", err=re.compile(
                f'Error response from daemon: Get "http://{self.host}/v2/": unauthorized: incorrect username or password'))
            self.keep(auths=self.auth("wrong"))
            self.ask("pull", self.name, code=1, err=re.compile("unauthorized: incorrect username or password"))
        sent = {"username": USER, "password": "wrong", "serveraddress": self.host}
        self.equal(self.daemon.http("POST", "/auth", sent)[0], 401, "status of a login")

    def test_token_server_down(self):
        address = f"127.0.0.1:{registry.free_port()}"
        auth = self.tokens.auth()
        auth["token"]["realm"] = f"http://{address}/token"
        other = registry.Registry(beside=self.open, auth=auth)
        self.addCleanup(other.close)
        for _ in self.each():
            self.ask("pull", f"{other.host}/private/app:1", code=1, err=re.compile(
                rf'Get "http://{address}/token\?scope=repository%3Aprivate%2Fapp%3Apull&service=service": '
                f"dial tcp {address}: connect: connection refused"))

    @once
    def test_token_ends_in_the_middle(self):
        given = []

        def answer(request):
            if request.path.startswith("/token"):
                given.append(f"t{len(given)}")
                return reply(request, 200, json.dumps({"token": given[-1], "expires_in": 300}).encode())
            proof = request.headers["Authorization"]
            # The first one is good for the manifest only.
            if proof == "Bearer t1" or (proof == "Bearer t0" and "/manifests/" in request.path):
                return False
            return reply(request, 401, WWW_Authenticate=f'Bearer realm="http://{front.host}/token",service="s",error="invalid_token"')

        front = registry.Front(self.open, answer)
        self.addCleanup(front.close)
        self.open.push("private/renewed", "1", layer(a=b"a"), layer(b=b"b"))
        name = f"{front.host}/private/renewed:1"
        self.addCleanup(self.docker, "rmi", "-f", name, code=None)
        self.docker("pull", name)
        self.equal(len(given), 2, "tokens that were asked for")


class WithCertificates(AccountCase):
    @classmethod
    def guard(cls):
        cls.authority = accounts.Authority(cls.top)
        cls.address = accounts.own_address()
        return cls.over_tls("good")

    @classmethod
    def over_tls(cls, name, **validity):
        tls = cls.authority.server(name, cls.address, **validity)
        return cls.started(registry.Registry(beside=cls.open, tls=tls, address=cls.address))

    def test_unknown_authority(self):
        error = (f'Error response from daemon: Get "https://{self.host}/v2/": tls: failed to verify certificate: x509: '
                 "certificate signed by unknown authority")
        for _ in self.each():
            self.ask("pull", self.name, code=1, err=error)
            self.login(code=1, out="", err=re.compile(re.escape(error)))

    def test_known_authority(self):
        trust(self, self.host)
        for _ in self.each():
            self.ask("pull", self.name)

    @once
    def test_client_certificate(self):
        """Of either version of X.509: older openssl makes version 1 where no extension is asked for."""
        tls = {**self.authority.server("asks", self.address), "clientcas": [self.top + "/ca.crt"]}
        guarded = registry.Registry(beside=self.open, tls=tls, address=self.address)
        self.addCleanup(guarded.close)
        own, openssl = trust(self, guarded.host), self.authority.openssl
        name = f"{guarded.host}/private/app:1"
        self.addCleanup(self.docker, "rmi", "-f", name, code=None)
        self.ask("pull", name, code=1, err=re.compile("remote error: tls: (certificate required|bad certificate)"))
        openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=we", "-config", "ca.cnf", "-keyout", own + "/we.key", "-out", "we.csr")
        sign = ("x509", "-req", "-in", "we.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAserial", "we.srl", "-CAcreateserial", "-out", own + "/we.cert")
        with open(self.top + "/we.ext", "w", encoding="utf-8") as file:
            file.write("extendedKeyUsage = clientAuth\n")
        for extensions in ((), ("-extfile", "we.ext")):
            openssl(*sign, *extensions)
            self.ask("pull", name)
            self.docker("rmi", name)
        openssl("genpkey", "-algorithm", "RSA", "-out", own + "/we.key")
        self.ask("pull", name, code=1, err=re.compile(f"cannot use client certificate {own}/we.cert: private key does not match public key"))

    def test_another_time(self):
        for name, start, end, words in (("future", "20900101000000Z", "20990101000000Z", "before 2090-01-01T00:00:00Z"),
                                        ("past", "20200101000000Z", "20210101000000Z", "after 2021-01-01T00:00:00Z")):
            guarded = self.over_tls(name, start=start, end=end)
            trust(self, guarded.host)
            for _ in self.each():
                self.ask("pull", f"{guarded.host}/private/app:1", code=1, err=re.compile(
                    f'Get "https://{guarded.host}/v2/": tls: failed to verify certificate: x509: certificate has expired or '
                    rf"is not yet valid: current time [-0-9T:]+Z is {words}"))

    def test_plain_http_for_tls(self):
        plain = registry.Registry(beside=self.open, address=self.address)
        self.addCleanup(plain.close)
        for _ in self.each():
            self.ask("pull", f"{plain.host}/private/app:1", code=1, err=re.compile(
                f'Get "https://{plain.host}/v2/": http: server gave HTTP response to HTTPS client'))
