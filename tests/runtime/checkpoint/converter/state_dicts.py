"""State_dicts for the converter's tests, made from golden cases: the author's names, as training code saves them."""

import importlib.util
import json
import struct

import torch

DTYPES = {"F32": torch.float32}


def load_converter():
    spec = importlib.util.spec_from_file_location("convert_checkpoint", "tools/convert_checkpoint.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_golden(case):
    """The tensors of a golden case, read without the converter's own code."""
    with open(f"tests/golden/{case}/model.safetensors", "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        data = bytearray(file.read())
    state = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensor = torch.frombuffer(data[begin:end], dtype=DTYPES[entry["dtype"]])
            state[name] = tensor.reshape(entry["shape"]).clone()
    return state


def golden_options(case):
    """The converter's options that no tensor tells."""
    with open(f"tests/golden/{case}/config.json") as file:
        config = json.load(file)
    options = ["--heads", str(config["num_attention_heads"]), "--max-positions", str(config["max_position_embeddings"]),
               "--dtype", "float32"]
    for key in ("layer_norm_eps", "rope_theta", "use_forward_rope", "gamma_max", "bos_token_id", "eos_token_id"):
        if key in config:
            options += ["--set", f"{key}={json.dumps(config[key])}"]
    return options


def with_buffers(state, head_width, theta=10000.0):
    """As the author's layers save themselves: rotary frequencies and causal masks beside the parameters."""
    state = dict(state)
    layers = {name.split(".")[2] for name in state if name.startswith("model.layers.")}
    for i in layers:
        exponents = -torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
        state[f"model.layers.{i}.mixer.rope_inv_freq"] = theta**exponents
        state[f"model.layers.{i}.mixer.causal_mask_f_full"] = torch.ones(8, 8, dtype=torch.bool).tril()
        state[f"model.layers.{i}.mixer.causal_mask_b_full"] = torch.ones(8, 8, dtype=torch.bool).tril(-1)
    return state
