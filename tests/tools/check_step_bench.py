#!/usr/bin/env python3
"""Runs step_bench: it must succeed and print one JSON line a cell, each measured and none skipped.

usage: check_step_bench.py CELLS STEP_BENCH [FLAG...]
"""
import json
import subprocess
import sys

cells, command = int(sys.argv[1]), sys.argv[2:]
lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
print("\n".join(lines))
assert len(lines) == cells, f"{len(lines)} lines for {cells} cells"
for line in map(json.loads, lines):
    assert "skipped" not in line and line["tokens_per_second"] > 0, line
