#!/usr/bin/env python3
"""Runs step_bench: it must succeed and print one JSON line a cell, each measured and none skipped; or, for a flag that
cannot be, fail and name it.

usage: check_step_bench.py CELLS|MESSAGE STEP_BENCH [FLAG...]
"""
import json
import subprocess
import sys

wanted, command = sys.argv[1], sys.argv[2:]
result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
print(result.stdout + result.stderr)
if not wanted.isdigit():
    assert result.returncode == 1 and wanted in result.stderr, f"exit {result.returncode}, expected: {wanted}"
    sys.exit()
assert result.returncode == 0, f"exit {result.returncode}"
lines = result.stdout.splitlines()
assert len(lines) == int(wanted), f"{len(lines)} lines for {wanted} cells"
for line in map(json.loads, lines):
    assert "skipped" not in line and line["tokens_per_second"] > 0, line
