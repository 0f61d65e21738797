"""Images between moss and registries of every kind, moved by each client: there and back, they stay the same."""

import os

import accounts
import registry
from accounts import PASSWORD, USER
from harness import check, need, once, run
from registry import layer
from test_accounts import AccountCase, trust


class Mover(AccountCase):
    """docker and moss, and skopeo by `docker-daemon:`, against the registry of the class."""

    skopeo = "--{}-tls-verify=false"
    asks = True

    def setUp(self):
        super().setUp()
        self.made = self.docker("import", "-", "moved", stdin=layer(moved=os.urandom(100_000))).out.strip()
        self.addCleanup(self.docker, "rmi", "-f", self.made, code=None)

    def there_and_back(self):
        for number, _ in enumerate(self.each()):
            name = f"{self.host}/moved/app:{number}"
            self.docker("tag", "moved", name)
            if self.asks:
                self.ask("push", name, code=1)
                self.login()
            self.ask("push", name)
            # So nothing of it is here.
            self.docker("rmi", "-f", self.made)
            self.ask("pull", name)
            self.equal(self.field(name, "{{.Id}}", "image"), self.made, "id")
            self.docker("tag", name, "moved")

    def by_skopeo(self):
        skopeo, socket = need("skopeo"), self.daemon.env["DOCKER_HOST"]
        name = f"docker://{self.host}/moved/skopeo:1"

        def copy(here, there, *options):
            access = [self.skopeo.format(there)] + ([f"--{there}-creds={USER}:{PASSWORD}"] if self.asks else [])
            check(run([skopeo, "copy", "-q", "--insecure-policy", f"--{here}-daemon-host", socket, *access, *options], env=self.daemon.env))

        copy("src", "dest", "docker-daemon:moved:latest", name)
        self.docker("rmi", "-f", self.made)
        copy("dest", "src", name, "docker-daemon:moved:latest")
        self.equal(self.field("moved", "{{.Id}}", "image"), self.made, "id")


class ToAnOpenOne(Mover):
    asks = False

    @classmethod
    def guard(cls):
        return cls.started(registry.Registry())

    def test_there_and_back(self):
        self.there_and_back()

    @once
    def test_by_skopeo(self):
        self.by_skopeo()


class WithAPassword(Mover):
    def test_there_and_back(self):
        self.there_and_back()

    @once
    def test_by_skopeo(self):
        self.by_skopeo()


class WithAToken(Mover):
    @classmethod
    def guard(cls):
        cls.tokens = cls.started(accounts.Tokens(cls.top))
        return cls.started(registry.Registry(beside=cls.open, auth=cls.tokens.auth()))

    def test_there_and_back(self):
        self.there_and_back()

    @once
    def test_by_skopeo(self):
        self.by_skopeo()


class OverTls(Mover):
    """By the certificate of an authority of one's own, and with a password."""

    @classmethod
    def guard(cls):
        cls.authority = accounts.Authority(cls.top)
        cls.skopeo = "--{}-cert-dir=" + cls.top + "/certs"
        os.makedirs(cls.top + "/certs")
        os.symlink("../ca.crt", cls.top + "/certs/ca.crt")
        address = accounts.own_address()
        tls = cls.authority.server("good", address)
        return cls.started(registry.Registry(beside=cls.open, auth=accounts.htpasswd(cls.top), tls=tls, address=address))

    def setUp(self):
        super().setUp()
        trust(self, self.host)

    def test_there_and_back(self):
        self.there_and_back()

    @once
    def test_by_skopeo(self):
        self.by_skopeo()
