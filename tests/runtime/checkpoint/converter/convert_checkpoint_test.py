"""What the converter refuses, and how it says so. What it makes is loaded by convert_checkpoint_test.cc."""

import contextlib
import io
import os
import tempfile
import unittest

import torch
from state_dicts import golden_options, load_converter, read_golden, with_buffers

converter = load_converter()
OPTIONS = golden_options("base")
LAYER = "model.layers.0."


class Dangerous:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (os.mkdir, (os.path.join(tempfile.gettempdir(), "convert_checkpoint_test_was_here"),))


class RefusalTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.output = os.path.join(self.folder.name, "out")
        self.state = read_golden("base")

    def refuse(self, state, message, options=OPTIONS):
        saved = os.path.join(self.folder.name, "in.pt")
        torch.save(state, saved)
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            self.assertEqual(converter.main([saved, self.output] + options), 1)
        self.assertIn(message, errors.getvalue())
        self.assertEqual(sorted(os.listdir(self.folder.name)), ["in.pt"])  # nothing half made is left

    def change(self, name, tensor):
        return {**self.state, name: tensor}

    def test_no_state_dict(self):
        self.refuse([1, 2], "holds no state_dict")
        self.refuse({}, "holds no state_dict")
        self.refuse({"a": 1}, "is not a tensor")

    def test_code_in_the_file_is_not_run(self):
        self.refuse({"a": Dangerous()}, "more than tensors in it")

    def test_other_file(self):
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            self.assertEqual(converter.main(["tests/golden/base/config.json", self.output] + OPTIONS), 1)
            self.assertEqual(converter.main(["/nowhere/x.pt", self.output] + OPTIONS), 1)
        self.assertIn("tests/golden/base/config.json", errors.getvalue())
        self.assertIn("/nowhere/x.pt", errors.getvalue())

    def test_missing_tensor(self):
        del self.state[LAYER + "W_out.bias"]
        self.refuse(self.state, "'model.layers.0.W_out.bias' is missing")

    def test_missing_embedding(self):
        del self.state["model.embed_tokens.weight"]
        self.refuse(self.state, "'model.embed_tokens.weight' is missing; names can be changed with --rename")

    def test_missing_layer(self):
        self.refuse({k: v for k, v in self.state.items() if not k.startswith(LAYER)}, "found [1]")

    def test_extra_tensor(self):
        self.refuse(self.change(LAYER + "mlp.weight", torch.zeros(2)), "'model.layers.0.mlp.weight' is not part")

    def test_wrong_shape(self):
        self.refuse(self.change(LAYER + "ln.bias", torch.zeros(63)), "has shape [63]; [64] is needed")

    def test_two_names_for_one_tensor(self):
        self.refuse(self.change("module.model.norm.bias", torch.zeros(64)), "would both become 'model.norm.bias'")

    def test_heads(self):
        self.refuse(self.state, "--heads 5 does not divide the width 64", OPTIONS + ["--heads", "5"])
        self.refuse(self.state, "--heads 1 (of width 64) does not fit keys of width 32", OPTIONS + ["--heads", "1"])
        self.refuse(self.state, "--heads 0 does not divide", OPTIONS + ["--heads", "0"])

    def test_numbers(self):
        name = LAYER + "ln.bias"
        self.refuse(self.change(name, torch.full((64,), float("nan"))), f"{name!r} holds NaN or infinity")
        self.refuse(self.change(name, torch.full((64,), 1e6)), f"{name!r} has numbers too large",
                    OPTIONS + ["--dtype", "float16"])
        self.refuse(self.change(name, torch.zeros(64, dtype=torch.int32)), f"{name!r} holds torch.int32")

    def test_rotary_frequencies(self):
        self.refuse(with_buffers(self.state, 16, theta=500000.0), "does not belong to rope_theta = 10000.0")
        self.refuse(with_buffers(self.state, 32), "rope_inv_freq has 16 numbers; --heads gives 8")
        self.refuse(with_buffers(self.state, 16), "use_forward_rope is false",
                    OPTIONS + ["--set", "use_forward_rope=false"])

    def test_an_existing_folder_is_left_alone(self):
        saved = os.path.join(self.folder.name, "in.pt")
        torch.save(self.state, saved)
        os.mkdir(self.output)
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            self.assertEqual(converter.main([saved, self.output] + OPTIONS), 1)
        self.assertIn("exists already", errors.getvalue())
        self.assertEqual(os.listdir(self.output), [])

    def test_options(self):
        for options in (["--set", "colour=1"], ["--set", "gamma_max=x"], ["--rename", "("], ["--rename", "a"],
                        ["--dtype", "int8"]):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                converter.main(["in", "out"] + OPTIONS + options)


if __name__ == "__main__":
    unittest.main()
