"""A script of the project in a folder of its own, among programs that do what a test says."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class StubbedTest(unittest.TestCase):
    """self.tree is a copy of the files named in FILES; self.log is where stubs tell what they were asked."""

    FILES = ()

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tree = pathlib.Path(folder.name) / "tree"
        self.programs = pathlib.Path(folder.name) / "programs"
        self.log = pathlib.Path(folder.name) / "log"
        self.programs.mkdir()
        self.log.touch()
        for file in self.FILES:
            target = self.tree / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, target)

    def stub(self, name, body, folder=None):
        """Makes a program of shell commands; $LOG is the log."""
        path = (folder or self.programs) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def run_script(self, script, *arguments, **environment):
        """Returns (exit code, all that was printed)."""
        stubs_first = {"PATH": f"{self.programs}:{os.environ['PATH']}", "LOG": str(self.log)}
        done = subprocess.run(
            [self.tree / script, *arguments], env={**os.environ, **stubs_first, **environment}, cwd=self.tree,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    def logged(self):
        return self.log.read_text().splitlines()
