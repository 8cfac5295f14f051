#!/usr/bin/env python3
"""tests/run: whatever fails on the way makes it fail."""
import unittest

from stubbed import StubbedTest


class RunTest(StubbedTest):
    FILES = ("tests/run",)
    STEPS = ["install build test", "install full"]
    for preset in ("thread-safety", "tsan", "asan", "fuzz", "default"):
        STEPS += [f"cmake --preset {preset}", f"cmake --build --preset {preset}"]
        STEPS += {"tsan": ["ctest tsan"], "asan": ["ctest asan"], "fuzz": ["fuzz build-fuzz 5"],
                  "default": ["ctest full", "ctest default"]}.get(preset, [])

    def setUp(self):
        super().setUp()
        fail = '\necho "$step" >>"$LOG"; [[ $step != "$FAIL" ]]'
        self.stub("cmake", 'step="cmake $*"' + fail)
        self.stub("ctest", 'step="ctest $2"' + fail)
        self.stub("install-packages", 'step="install $*"' + fail, self.tree / "deploy")
        self.stub("run", 'step="fuzz $*"' + fail, self.tree / "tests/fuzz")

    def test_full_is_every_step_in_order(self):
        self.assertEqual(self.run_script("tests/run", "--full", "5", FAIL=""), (0, ""))
        self.assertEqual(self.logged(), self.STEPS)

    def test_each_step_that_fails_is_the_last(self):
        for number, step in enumerate(self.STEPS, 1):
            with self.subTest(step):
                self.log.write_text("")
                self.assertNotEqual(self.run_script("tests/run", "--full", "5", FAIL=step)[0], 0)
                self.assertEqual(self.logged(), self.STEPS[:number])

    def test_the_default_is_built_and_tested(self):
        self.assertEqual(self.run_script("tests/run", FAIL="")[0], 0)
        self.assertEqual(self.logged(), [self.STEPS[0], "cmake --preset default", "cmake --build --preset default",
                                         "ctest default"])

    def test_no_proxy_is_asked_for_this_machine(self):
        self.stub("ctest", 'echo "$no_proxy" >>"$LOG"')
        self.run_script("tests/run", FAIL="", no_proxy="mirror.example.com")
        self.assertEqual(self.logged()[-1], "127.0.0.1,localhost,::1,mirror.example.com")


if __name__ == "__main__":
    unittest.main()
