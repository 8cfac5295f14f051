#!/usr/bin/env python3
"""Fails when a file includes something above its folder, or a library that its folder must not know.

server -> scheduler -> runtime -> kernels. gRPC, protobuf, prometheus-cpp and httplib live in server/, client/,
loadtest/ and tests/ only; CUDA headers in kernels/cuda/ only; SentencePiece in the tokenizer plugin only.
usage: check_includes.py ROOT | check_includes.py --self-test
"""
import pathlib
import re
import sys
import tempfile

# folder -> the project folders (or parts of them) that it may include
MAY_INCLUDE = {
    "kernels": {"kernels"},
    "runtime": {"runtime", "kernels"},
    "scheduler": {"scheduler", "runtime", "kernels"},
    "server": {"server", "scheduler", "runtime", "kernels", "proto"},
    "client": {"client", "proto", "runtime/base"},
    "loadtest": {"loadtest", "client", "proto", "runtime/base"},
    "tools": {"tools", "runtime", "kernels"},
}
FOLDERS = set(MAY_INCLUDE) | {"proto", "tests"}
RPC = re.compile(r"^(grpc|grpcpp|google/protobuf|google/rpc|prometheus)/|^httplib\.h$|\.pb\.h$")
RPC_FOLDERS = {"server", "client", "loadtest", "tests"}
CUDA = re.compile(r"^(cuda|cublas|curand|cub/|thrust/|nv/|cooperative_groups|mma\.h)")
SENTENCEPIECE = re.compile(r"^sentencepiece")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]')
SUFFIXES = {".h", ".cc", ".cu", ".cuh"}


def violations(root):
    for path in sorted(p for f in FOLDERS for p in (root / f).rglob("*") if p.suffix in SUFFIXES):
        relative = path.relative_to(root)
        folder = relative.parts[0]
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            target = match.group(1)
            head = target.split("/")[0]
            where = f"{relative}:{number}: includes {target}"
            allowed = any(target.startswith(part + "/") for part in MAY_INCLUDE.get(folder, ()))
            if folder in MAY_INCLUDE and head in FOLDERS and "/" in target and not allowed:
                yield f"{where}: {folder}/ must not know {head}/"
            if RPC.search(target) and folder not in RPC_FOLDERS:
                yield f"{where}: only {', '.join(sorted(RPC_FOLDERS))} may"
            in_cuda = relative.parts[:2] == ("kernels", "cuda") or relative.parts[:3] == ("tests", "kernels", "cuda")
            if CUDA.search(target) and not in_cuda:
                yield f"{where}: only kernels/cuda/ may"
            if SENTENCEPIECE.search(target) and relative.parts[:2] != ("runtime", "tokenizer_plugin"):
                yield f"{where}: only the tokenizer plugin may"


def self_test():
    bad = {
        "kernels/a.h": '#include "runtime/model.h"',
        "runtime/b.cc": '#include "scheduler/core.h"',
        "scheduler/c.h": "#include <grpcpp/grpcpp.h>",
        "scheduler/d.h": '#include "server/main.h"',
        "kernels/cpu/e.cc": "#include <cuda_runtime.h>",
        "runtime/f.cc": "#include <sentencepiece_processor.h>",
        "client/g.cc": '#include "server/flags.h"',
        "client/h.cc": '#include "runtime/model.h"',
    }
    good = {
        "server/a.cc": '#include "scheduler/core.h"\n#include <grpcpp/grpcpp.h>',
        "kernels/cuda/b.cu": "#include <cuda_runtime.h>",
        "runtime/c.cc": '#include "kernels/ops.h"',
        "client/d.cc": '#include "runtime/base/errors.h"',
    }
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {**bad, **good}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text + "\n")
        found = {line.split(":")[0] for line in violations(root)}
    assert found == set(bad), f"expected {sorted(bad)}, found {sorted(found)}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        sys.exit(0)
    lines = list(violations(pathlib.Path(sys.argv[1])))
    print("\n".join(lines))
    sys.exit(1 if lines else 0)
