#!/usr/bin/env python3
"""Writes a checkpoint folder with random bf16 weights: something to measure speed with, nothing to talk to.

usage: random_checkpoint.py DIR [--shape=D,L,H,KV,V] [--max_context=N] [--seed=N]
Needs nothing but Python. Matrices are drawn from numbers of magnitude 2^-7 to 2^-5; LayerNorm weights are 1,
biases 0. The default shape is the bench shape of docs/benchmarks.md.
"""
import argparse
import json
import pathlib
import random
import struct

# A random byte to the upper byte of a bf16 number of either sign with exponent -7 .. -6 (or -5 with the lower byte).
UPPER = bytes((0xBC if i & 1 else 0x3C) for i in range(256))
ONE = b"\x80\x3f"


def tensors(width, layers, heads, kv_heads, vocab):
    """Names and shapes, in file order."""
    kv = kv_heads * (width // heads)
    yield "model.embed_tokens.weight", [vocab, width]
    for i in range(layers):
        layer = {
            "ln.weight": [width], "ln.bias": [width],
            "W_in.weight": [2 * width, width], "W_in.bias": [2 * width],
            "mixer.q_proj.weight": [width, width], "mixer.q_proj.bias": [width],
            "mixer.k_proj.weight": [kv, width], "mixer.k_proj.bias": [kv],
            "mixer.v_proj.weight": [kv, width], "mixer.v_proj.bias": [kv],
            "mixer.proj_fb.weight": [2 * width, width], "mixer.proj_fb.bias": [2 * width],
            "mixer.gamma_bias": [], "mixer.gamma_ctx.weight": [1, width],
            "W_out.weight": [width, width], "W_out.bias": [width],
        }
        if heads > 1:
            layer["mixer.out_proj.weight"] = [width, width]
        for name, shape in layer.items():
            yield f"model.layers.{i}.{name}", shape
    yield "model.norm.weight", [width]
    yield "model.norm.bias", [width]
    yield "lm_head.weight", [vocab, width]


def content(name, count, generator):
    if name.endswith("bias"):
        return bytes(2 * count)
    if name.endswith(("ln.weight", "norm.weight")):
        return ONE * count
    data = bytearray(generator.randbytes(2 * count))
    data[1::2] = data[1::2].translate(UPPER)
    return bytes(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--shape", default="1024,24,16,4,32000", help="width, layers, heads, key/value heads, vocabulary")
    parser.add_argument("--max_context", type=int, default=32768)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    width, layers, heads, kv_heads, vocab = (int(n) for n in args.shape.split(","))
    config = {
        "architectures": ["SessaForCausalLM"], "model_type": "sessa", "vocab_size": vocab, "hidden_size": width,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": args.max_context, "torch_dtype": "bfloat16",
    }
    args.dir.mkdir(parents=True, exist_ok=True)
    (args.dir / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    header, sizes, end = {}, [], 0
    for name, shape in tensors(width, layers, heads, kv_heads, vocab):
        count = 1
        for extent in shape:
            count *= extent
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * count]}
        sizes.append((name, count))
        end += 2 * count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = random.Random(args.seed)
    with open(args.dir / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, count in sizes:
            file.write(content(name, count, generator))


if __name__ == "__main__":
    main()
