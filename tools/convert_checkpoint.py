#!/usr/bin/python3
"""Makes a checkpoint folder for sessad out of a PyTorch state_dict of Sessa layers.

The input is what torch.save wrote: a state_dict, or a dictionary that holds one under "state_dict", "model" or
"model_state_dict". Its tensors carry the author's names behind a prefix for the layer, as in
model.layers.0.mixer.q_proj.weight; a prefix "module." (DistributedDataParallel) or "_orig_mod." (torch.compile) is
dropped, buffers that are computed anyway (rope_inv_freq, causal masks) are left out, and other names are brought
into this form by --rename. Sizes are read from the tensors; what no tensor tells is given by options.

The output holds config.json and model.safetensors (or shards with an index), and the tokenizer when there is one. It
is written beside its place first and then renamed, so a folder that exists is whole. Needs python3-torch.

Example:
  convert_checkpoint.py run/last.pt models/mine --heads 16 --max-positions 4096 --dtype bfloat16 \\
      --tokenizer run/spm.model --set bos_token_id=1 --set eos_token_id=2
"""

import argparse
import json
import os
import re
import shutil
import struct
import sys

import torch

DTYPES = {"float32": (torch.float32, "F32"), "bfloat16": (torch.bfloat16, "BF16"), "float16": (torch.float16, "F16")}
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
IGNORED = re.compile(r".*(\.mixer\.rope_inv_freq|causal_mask_[^.]*_full)$")
# Keys of config.json that no tensor determines and that --set may give; None: no default, left out.
SETTINGS = {"layer_norm_eps": 1e-5, "rope_theta": 10000.0, "use_forward_rope": True, "gamma_max": 0.999,
            "bos_token_id": None, "eos_token_id": None}


class ConversionError(Exception):
    """Something about the input or the options; the message is for the user."""


def load_state_dict(path):
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)  # never runs code from the file
    except Exception as error:
        raise ConversionError(f"{path}: not a file of torch.save, or one with more than tensors in it: {error}")
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not loaded:
        raise ConversionError(f"{path}: holds no state_dict")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ConversionError(f"{path}: entry {name!r} is not a tensor")
    return loaded


def canonical_name(name, renames):
    while name.startswith(("module.", "_orig_mod.")):
        name = name.split(".", 1)[1]
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    if name.startswith(("layers.", "embed_tokens.", "norm.")):
        name = "model." + name
    return name


def rename_all(state, renames):
    """The tensors under their names in a checkpoint, and the rotary frequencies that were among the buffers."""
    tensors, frequencies, origin = {}, [], {}
    for old, tensor in state.items():
        name = canonical_name(old, renames)
        if name.endswith(".mixer.rope_inv_freq"):
            frequencies.append(tensor)
        if IGNORED.match(name):
            continue
        if name in tensors:
            raise ConversionError(f"{origin[name]!r} and {old!r} would both become {name!r}")
        tensors[name], origin[name] = tensor, old
    return tensors, frequencies


def infer_sizes(tensors, heads):
    """The sizes of the model, from the tensors and the number of attention heads."""
    def shape(name):
        if name not in tensors:
            raise ConversionError(f"tensor {name!r} is missing; names can be changed with --rename")
        return tuple(tensors[name].shape)

    if len(shape("model.embed_tokens.weight")) != 2:
        raise ConversionError("tensor 'model.embed_tokens.weight' must have two dimensions")
    vocab, width = shape("model.embed_tokens.weight")
    indices = {int(m.group(1)) for m in map(LAYER.fullmatch, tensors) if m}
    if not indices or indices != set(range(len(indices))):
        raise ConversionError(f"layers must be numbered from 0 without a gap; found {sorted(indices)}")
    if heads < 1 or width % heads:
        raise ConversionError(f"--heads {heads} does not divide the width {width}")
    kv_width = shape("model.layers.0.mixer.k_proj.weight")[0]
    head_width = width // heads
    if kv_width % head_width or heads % (kv_width // head_width):
        raise ConversionError(f"--heads {heads} (of width {head_width}) does not fit keys of width {kv_width}")
    return {"vocab_size": vocab, "hidden_size": width, "num_hidden_layers": len(indices),
            "num_attention_heads": heads, "num_key_value_heads": kv_width // head_width}


def drop_tied_head(tensors):
    """True when the head is the embedding: there is none, or an equal one, which is then dropped."""
    head = tensors.get("lm_head.weight")
    if head is None:
        return True
    if torch.equal(head, tensors["model.embed_tokens.weight"]):
        del tensors["lm_head.weight"]
        return True
    return False


def expected_shapes(config):
    d, v = config["hidden_size"], config["vocab_size"]
    kv = d // config["num_attention_heads"] * config["num_key_value_heads"]
    layer = {"ln.weight": (d,), "ln.bias": (d,), "W_in.weight": (2 * d, d), "W_in.bias": (2 * d,),
             "mixer.q_proj.weight": (d, d), "mixer.q_proj.bias": (d,),
             "mixer.k_proj.weight": (kv, d), "mixer.k_proj.bias": (kv,),
             "mixer.v_proj.weight": (kv, d), "mixer.v_proj.bias": (kv,),
             "mixer.proj_fb.weight": (2 * d, d), "mixer.proj_fb.bias": (2 * d,),
             "mixer.gamma_bias": (), "mixer.gamma_ctx.weight": (1, d),
             "W_out.weight": (d, d), "W_out.bias": (d,)}
    if config["num_attention_heads"] > 1:
        layer["mixer.out_proj.weight"] = (d, d)
    shapes = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,), "model.norm.bias": (d,)}
    for i in range(config["num_hidden_layers"]):
        shapes.update({f"model.layers.{i}.{name}": dims for name, dims in layer.items()})
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (v, d)
    return shapes


def check_tensors(tensors, config):
    shapes = expected_shapes(config)
    for name, dims in shapes.items():
        if name not in tensors:
            raise ConversionError(f"tensor {name!r} is missing")
        if tuple(tensors[name].shape) != dims:
            raise ConversionError(f"tensor {name!r} has shape {list(tensors[name].shape)}; {list(dims)} is needed")
    for name in tensors:
        if name not in shapes:
            raise ConversionError(f"tensor {name!r} is not part of such a model")


def check_frequencies(frequencies, config):
    """Rotary frequencies that were stored say what rope_theta was; a wrong one would give a model that babbles."""
    if not frequencies:
        return
    if not config["use_forward_rope"]:
        raise ConversionError("the layers have rotary embeddings, but use_forward_rope is false")
    d = config["hidden_size"] // config["num_attention_heads"]
    expected = config["rope_theta"] ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    for stored in frequencies:
        if stored.numel() != d // 2:
            raise ConversionError(f"rope_inv_freq has {stored.numel()} numbers; --heads gives {d // 2}")
        if not torch.allclose(stored.double().flatten(), expected, rtol=1e-2, atol=0):  # it may be stored in bf16
            raise ConversionError(f"rope_inv_freq does not belong to rope_theta = {config['rope_theta']}")


def convert(name, tensor, dtype):
    if not tensor.is_floating_point():
        raise ConversionError(f"tensor {name!r} holds {tensor.dtype}, not floating-point numbers")
    if not torch.isfinite(tensor).all():
        raise ConversionError(f"tensor {name!r} holds NaN or infinity")
    converted = tensor.detach().to(dtype).contiguous()
    if not torch.isfinite(converted).all():
        raise ConversionError(f"tensor {name!r} has numbers too large for {dtype}")
    return converted


def tensor_bytes(tensor):
    if tensor.numel() == 0:
        return b""
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def write_safetensors(path, tensors, tag):
    """Tensors in the order given, without gaps; the header is padded so that the data begin at a multiple of 8."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": tag, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor_bytes(tensor))


def split_into_shards(tensors, limit):
    shards, size = [{}], 0
    for name, tensor in tensors.items():
        bytes_ = tensor.numel() * tensor.element_size()
        if shards[-1] and size + bytes_ > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += bytes_
    return shards


def write_folder(folder, config, tensors, args):
    os.makedirs(folder)
    if args.tokenizer:
        config["tokenizer_file"] = "tokenizer.model"
        shutil.copyfile(args.tokenizer, os.path.join(folder, config["tokenizer_file"]))
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    tag = DTYPES[args.dtype][1]
    shards = split_into_shards(tensors, args.max_shard_bytes)
    if len(shards) == 1:
        write_safetensors(os.path.join(folder, "model.safetensors"), tensors, tag)
        return
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards):
        write_safetensors(os.path.join(folder, name), shard, tag)
    index = {"metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
             "weight_map": {t: name for name, shard in zip(names, shards) for t in shard}}
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as file:
        json.dump(index, file, indent=2)


def make_config(args, tensors):
    config = {"architectures": ["SessaForCausalLM"], "model_type": "sessa", **infer_sizes(tensors, args.heads)}
    settings = {**SETTINGS, **dict(args.set)}
    config.update({key: value for key, value in settings.items() if value is not None})
    config["tie_word_embeddings"] = drop_tied_head(tensors)
    config["max_position_embeddings"] = args.max_positions
    config["torch_dtype"] = args.dtype
    return config


def run(args):
    if os.path.exists(args.output):
        raise ConversionError(f"{args.output}: exists already")
    tensors, frequencies = rename_all(load_state_dict(args.input), args.rename)
    config = make_config(args, tensors)
    check_tensors(tensors, config)
    check_frequencies(frequencies, config)
    dtype = DTYPES[args.dtype][0]
    tensors = {name: convert(name, tensors[name], dtype) for name in expected_shapes(config)}
    partial = args.output.rstrip("/") + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write_folder(partial, config, tensors, args)
        os.rename(partial, args.output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    count = sum(t.numel() for t in tensors.values())
    print(f"{args.output}: {count} parameters in {args.dtype}, {config['num_hidden_layers']} layers")


def setting(text):
    key, _, value = text.partition("=")
    if key not in SETTINGS:
        raise argparse.ArgumentTypeError(f"{key!r} is none of {', '.join(SETTINGS)}")
    try:
        return key, json.loads(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"the value of {key} is not JSON: {value!r}")


def renaming(text):
    pattern, separator, replacement = text.partition("=")
    try:
        re.compile(pattern)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{pattern!r} is not a regular expression: {error}")
    if not separator:
        raise argparse.ArgumentTypeError("PATTERN=REPLACEMENT is needed")
    return pattern, replacement


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="file of torch.save")
    parser.add_argument("output", help="folder to be made; must not exist")
    parser.add_argument("--heads", type=int, required=True, help="forward attention (query) heads")
    parser.add_argument("--max-positions", type=int, required=True, help="length that the model was trained for, tokens")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the stored weights (default: bfloat16)")
    parser.add_argument("--tokenizer", help="SentencePiece model, copied into the folder")
    parser.add_argument("--set", type=setting, action="append", default=[], metavar="KEY=JSON",
                        help=f"a key of config.json: {', '.join(SETTINGS)}; may be repeated")
    parser.add_argument("--rename", type=renaming, action="append", default=[], metavar="PATTERN=REPLACEMENT",
                        help="regular expression for tensor names, as in '^blocks=model.layers'; may be repeated")
    parser.add_argument("--max-shard-bytes", type=int, default=5 * 10**9,
                        help="a larger model is cut into several files (default: 5e9)")
    return parser.parse_args(argv)


def main(argv):
    try:
        run(parse_args(argv))
    except (ConversionError, OSError) as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
