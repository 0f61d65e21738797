"""Runs the black-box cases: `python3 tests/cli [--host] [WORD…]` runs those whose name holds a word; with `--host`
only those of them that are marked as depending on the host.

Every docker CLI has a process of its own, with a daemon of its own: most of a case's time is waiting.
Prints one line a case and, at the end, `N passed, N failed, N skipped`.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import harness  # noqa: E402


# Seconds that a case may take; 0 for any.
CASE = int(os.environ.get("MOSS_TEST_CASE", "0"))


def too_late(*_):
    """Ends a case that takes too long, and what it does to clean up if that does so too."""
    signal.alarm(CASE)
    raise AssertionError(f"the case did not end within {CASE} s")


class Report(unittest.TestResult):
    """One line a case, at once, and the whole of a failure below it."""

    def __init__(self, label):
        super().__init__()
        self.label, self.passed, self.failed, self.skipped_cases = label, 0, 0, 0

    def startTest(self, test):
        super().startTest(test)
        self.begun, self.bad = time.monotonic(), False
        if CASE:
            print(f"     {self.label} {test.id()} begins", flush=True)
            signal.signal(signal.SIGALRM, too_late)
            signal.alarm(CASE)

    def stopTest(self, test):
        signal.alarm(0)
        super().stopTest(test)

    def line(self, word, test, more=""):
        name = test.id() if hasattr(test, "id") else str(test)
        # One write: the lines of several processes must not mix.
        sys.stdout.write(f"{word:4} {self.label} {name} ({time.monotonic() - self.begun:.2f} s){more}\n")
        sys.stdout.flush()

    def addSuccess(self, test):
        if not self.bad:
            self.passed += 1
            self.line("ok", test)

    def addSkip(self, test, reason):
        self.skipped_cases += 1
        self.begun = getattr(self, "begun", time.monotonic())
        self.line("skip", test, ": " + reason)

    def bad_case(self, test, error):
        self.bad = True
        self.failed += 1
        self.begun = getattr(self, "begun", time.monotonic())
        # An expectation says all by itself; anything else needs its stack.
        text = str(error[1]) if isinstance(error[1], AssertionError) and "expected:" in str(error[1]) \
            else "".join(traceback.format_exception(*error))
        self.line("FAIL", test, "\n     " + text.rstrip().replace("\n", "\n     "))

    addError = addFailure = bad_case

    def addSubTest(self, test, subtest, error):
        if error:
            self.bad_case(subtest, error)


def cases(suite, words):
    marked, words = "--host" in words, [word for word in words if word != "--host"]
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from cases(item, words + ["--host"] * marked)
        elif harness.wanted(item) and (not marked or harness.is_marked(item, "host_case")) \
                and (not words or any(word in item.id() for word in words)):
            yield item


def run_with(docker, number, words):
    """Runs the cases with one docker CLI; returns how many passed, failed and were skipped."""
    here = os.path.dirname(os.path.abspath(__file__))
    version = harness.run([docker, "--version"]).out.split()[2].rstrip(",")
    harness.use_docker(docker, number)
    report = Report("docker-" + version.split("+")[0])
    suite = unittest.TestSuite(cases(unittest.TestLoader().discover(here, "test_*.py"), words))
    suite.run(report)
    report.begun = time.monotonic()
    leaks = harness.close_shared()
    if leaks is not None:
        try:
            harness.check(leaks)
            report.passed += 1
            report.line("ok", "nothing is left after all of the above")
        except AssertionError:
            report.bad_case("nothing is left after all of the above", sys.exc_info())
    return report.passed, report.failed, report.skipped_cases


def in_a_child(docker, number, words):
    """Runs the cases with one docker CLI beside the others; returns the pipe that brings the counts."""
    counts, theirs = multiprocessing.Pipe(duplex=False)
    multiprocessing.Process(target=lambda: theirs.send(run_with(docker, number, words))).start()
    theirs.close()
    return counts


def main(words):
    children = [in_a_child(docker, number, words)
                for number, docker in enumerate(os.environ.get("MOSS_TEST_DOCKER", "docker").split(":"))]
    passed = failed = skipped = 0
    for counts in children:
        try:
            of_one = counts.recv()
        except EOFError:  # what it printed says why
            of_one = (0, 1, 0)
        passed, failed, skipped = (sum(pair) for pair in zip((passed, failed, skipped), of_one))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    # No case at all is not a success.
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    sys.exit(main(sys.argv[1:]))
