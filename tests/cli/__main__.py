"""Runs the black-box cases: `python3 tests/cli [WORD…]` runs those whose name holds a word.

Prints one line a case and, at the end, `N passed, N failed, N skipped`.
"""

import os
import sys
import time
import traceback
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import harness  # noqa: E402


class Report(unittest.TestResult):
    """One line a case, at once, and the whole of a failure below it."""

    def __init__(self, label):
        super().__init__()
        self.label, self.passed, self.failed, self.skipped_cases = label, 0, 0, 0

    def startTest(self, test):
        super().startTest(test)
        self.begun, self.bad = time.monotonic(), False

    def line(self, word, test, more=""):
        name = test.id() if hasattr(test, "id") else str(test)
        print(f"{word:4} {self.label} {name} ({time.monotonic() - self.begun:.2f} s){more}", flush=True)

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
        self.line("FAIL", test)
        # An expectation says all by itself; anything else needs its stack.
        text = str(error[1]) if isinstance(error[1], AssertionError) and "expected:" in str(error[1]) \
            else "".join(traceback.format_exception(*error))
        print("     " + text.rstrip().replace("\n", "\n     "), flush=True)

    addError = addFailure = bad_case

    def addSubTest(self, test, subtest, error):
        if error:
            self.bad_case(subtest, error)


def cases(suite, words):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from cases(item, words)
        elif harness.wanted(item) and (not words or any(word in item.id() for word in words)):
            yield item


def main(words):
    here = os.path.dirname(os.path.abspath(__file__))
    passed = failed = skipped = 0
    for number, docker in enumerate(os.environ.get("MOSS_TEST_DOCKER", "docker").split(":")):
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
        passed, failed, skipped = passed + report.passed, failed + report.failed, skipped + report.skipped_cases
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    # No case at all is not a success.
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
