"""Clients that leave without a goodbye, requests that meet, and engines that break off."""

import socket
import threading

import harness
from harness import check, fail, once, run
from test_faults import Own


@once
class Hung(Own):
    """An engine that breaks off is told of, with a status."""

    def test_load_into_an_engine_that_breaks_off(self):
        top = self.daemon.top
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(top + "/fake.sock")
        listener.listen(4)

        def break_off():
            connection = listener.accept()[0]
            connection.recv(100)
            connection.close()

        server = threading.Thread(target=break_off, daemon=True)
        server.start()
        words = ("load", "-i", harness.need_image("busybox.tar"))
        result = run([harness.BIN, "-H", "unix://" + top + "/fake.sock", *words], env=self.daemon.env)
        listener.close()
        check(result, code=1)
        if not result.err.strip():
            fail(result.command, "a sentence", result)
