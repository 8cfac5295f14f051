#!/usr/bin/env python3
"""deploy/install-packages: what counts as installed, and waiting for another apt."""
import unittest

from stubbed import StubbedTest


class InstallPackagesTest(StubbedTest):
    FILES = ("deploy/install-packages",)
    LOCKED = "echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)' >&2; exit 100"

    def setUp(self):
        super().setUp()
        (self.tree / "deploy/packages.txt").write_text("[build]\nhere\ntwice\nmissing\n[test]\nhere\n")
        # dpkg-query -W -f=FORMAT NAME: the format once for each architecture, of which `twice` has two.
        self.stub("dpkg-query", """format=${2#-f=}; format=${format/'${db:Status-Status}'/installed}
          case $3 in here) printf "$format" ;; twice) printf "$format$format" ;; *) exit 1 ;; esac""")
        self.stub("id", "echo 0")
        self.stub("sleep", 'echo "sleep $*" >>"$LOG"')
        self.apt()

    def apt(self, update=":"):
        """An apt-get whose update does this."""
        self.stub("apt-get", f"""echo "apt-get $*" >>"$LOG"
          case " $* " in *" update "*) {update} ;; esac""")

    def install(self, section="build"):
        return self.run_script("deploy/install-packages", section)

    def count(self, word):
        return sum(word in line.split() for line in self.logged())

    def test_nothing_is_done_where_all_is_installed(self):
        self.assertEqual(self.install("test"), (0, ""))
        self.assertEqual(self.logged(), [])

    def test_only_what_is_missing_is_installed(self):
        self.assertEqual(self.install()[0], 0)
        self.assertRegex(self.logged()[-1], r"-o DPkg::Lock::Timeout=600 install .* missing$")
        self.assertEqual(self.count("twice"), 0, "installed for two architectures is installed")

    def test_it_waits_while_another_updates(self):
        self.apt(f'(($(grep -c sleep "$LOG") >= 3)) || {{ {self.LOCKED}; }}')
        code, output = self.install()
        self.assertEqual(code, 0)
        self.assertEqual((self.count("update"), self.count("install")), (4, 1))
        self.assertEqual(output.count("Waiting up to ten minutes"), 1, output)

    def test_it_does_not_wait_for_ever(self):
        self.apt(self.LOCKED)
        code, output = self.install()
        self.assertEqual(code, 1)
        self.assertEqual(self.count("sleep"), 120)
        self.assertIn("apt-get failed", output)

    def test_another_error_is_said_at_once(self):
        self.apt("echo 'E: no such host' >&2; exit 100")
        code, output = self.install()
        self.assertEqual((code, self.count("update")), (1, 1))
        self.assertIn("E: no such host", output)


if __name__ == "__main__":
    unittest.main()
