"""Converts golden cases that were saved in different ways; convert_checkpoint_test.cc loads what comes of them.

usage: make_folders.py FOLDER
"""

import os
import sys

import torch
from state_dicts import golden_options, load_converter, read_golden, with_buffers


def main(folder):
    converter = load_converter()
    base, tied = read_golden("base"), read_golden("tied_head")
    options = golden_options("base")

    def make(name, state, options):
        saved = os.path.join(folder, name + ".pt")
        torch.save(state, saved)
        if converter.main([saved, os.path.join(folder, name)] + options) != 0:
            sys.exit(f"{name}: not converted")

    make("plain", base, options)
    make("buffers", with_buffers(base, head_width=16), options)
    make("wrapped", {"step": 7, "state_dict": {f"module._orig_mod.{k}": v for k, v in base.items()}}, options)
    make("shards", base, options + ["--max-shard-bytes", "100000"])
    make("renamed", {k.replace("model.layers.", "blocks."): v for k, v in base.items()},
         options + ["--rename", r"^blocks\.=model.layers."])
    make("without_model_prefix", {k.removeprefix("model."): v for k, v in base.items()}, options)
    make("double", {k: v.double() for k, v in base.items()}, options)
    make("strided", {k: v.t().contiguous().t() if v.dim() == 2 else v for k, v in base.items()}, options)
    make("bfloat16", base, options + ["--dtype", "bfloat16"])
    make("float16", base, options + ["--dtype", "float16"])
    make("tokenizer", base, options + ["--tokenizer", "models/sessa-recall-7m/tokenizer.model"])
    make("tied", tied, golden_options("tied_head"))
    make("tied_stored", {**tied, "lm_head.weight": tied["model.embed_tokens.weight"]}, golden_options("tied_head"))
    for case in ("single_head_no_rope", "mha_two_pages", "mqa_previous_token"):
        make(case, read_golden(case), golden_options(case))


if __name__ == "__main__":
    main(sys.argv[1])
