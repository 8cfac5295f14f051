#!/usr/bin/env python3
"""tests/node/run: the network's troubles skip the test, the packages' own fail it."""
import unittest

from stubbed import StubbedTest


class NodeRunTest(StubbedTest):
    FILES = tuple("tests/node/" + name for name in
                  ("run", "package.json", "package-lock.json", "api.js", "daemon.js", "sessad.test.js"))
    SKIPPED = 77

    def setUp(self):
        super().setUp()
        (self.tree / "build").mkdir()
        self.stub("node", 'echo "node $*" >>"$LOG"')
        self.stub("sleep", ":")
        self.stub("timeout", 'while [[ $1 == -k || $1 =~ ^[0-9] ]]; do shift; done; "$@"')

    def npm(self, ci, ping=":"):
        """An npm whose commands do this."""
        self.stub("npm", f"""echo "npm $1" >>"$LOG"
          case $1 in ci) {ci} ;; ping) {ping} ;; esac""")

    def failing(self, code):
        return f"echo 'npm error code {code}'; exit 1"

    def run_node(self):
        return self.run_script("tests/node/run", "build")[0]

    def test_packages_are_fetched_once(self):
        self.npm('mkdir -p node_modules; echo "$npm_config_cache" >>"$LOG"')
        self.assertEqual((self.run_node(), self.run_node()), (0, 0))
        cache = str(self.tree / "build/node/npm-cache")
        self.assertEqual(self.logged(), ["npm ci", cache, "node --test sessad.test.js", "node --test sessad.test.js"])

    def test_a_bad_moment_is_overcome(self):
        self.npm(f'mkdir -p node_modules; (($(grep -c ci "$LOG") > 2)) || {{ {self.failing("E503")}; }}')
        self.assertEqual(self.run_node(), 0)
        self.assertEqual(self.logged()[-1], "node --test sessad.test.js")

    def test_a_registry_in_trouble_skips(self):
        for code in ("E503", "E429", "ETIMEDOUT", "ERR_SOCKET_TIMEOUT", "ECONNRESET", "EAI_AGAIN", "FETCH_ERROR"):
            with self.subTest(code):
                self.log.write_text("")
                self.npm(self.failing(code))
                self.assertEqual(self.run_node(), self.SKIPPED)
                self.assertEqual(self.logged().count("npm ci"), 3)

    def test_a_registry_that_never_answers_skips(self):
        self.npm("exit 124", ping="exit 124")  # as timeout would end them
        self.assertEqual(self.run_node(), self.SKIPPED)
        self.assertEqual(self.logged(), ["npm ci", "npm ping"])

    def test_packages_at_fault_fail(self):
        for code in ("EINTEGRITY", "EUSAGE", "E404"):
            with self.subTest(code):
                self.npm(self.failing(code))
                self.assertEqual(self.run_node(), 1)


if __name__ == "__main__":
    unittest.main()
