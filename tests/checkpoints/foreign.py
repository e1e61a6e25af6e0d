# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of other libraries, written as those write them; independent of the converters."""

import contextlib
import pickle
import sys
import types
import unittest.mock

import numpy as np
import torch

from ..models.golden import GOLDEN


@contextlib.contextmanager
def importable_as(dotted, thing):
    """A class or function that pickles know under another name."""
    thing.__module__, _, thing.__name__ = dotted.rpartition(".")
    thing.__qualname__ = thing.__name__
    package = thing.__module__.partition(".")[0]
    modules = {name: types.ModuleType(name) for name in (package, thing.__module__)}
    setattr(modules[thing.__module__], thing.__name__, thing)
    with unittest.mock.patch.dict(sys.modules, modules):
        yield


class Network:
    """A TensorFlow-era network object."""

    def __init__(self, variables, components=None, static_kwargs=None):
        self.state = {
            "version": 4,
            "name": "Gs",
            "static_kwargs": static_kwargs or {},
            "components": components or {},
            "build_module_src": "raise RuntimeError('source code inside a checkpoint was executed')\n",
            "build_func_name": "G_main",
            "variables": list(variables.items()),
        }

    def __getstate__(self):
        return self.state


def save_tensorflow(path, networks, protocol=4):
    """Pickle of (G, D, Gs), each (variables, {component: variables}, static_kwargs); its path."""
    with importable_as("dnnlib.tflib.network.Network", Network):
        objects = [
            Network(variables, {name: Network(own) for name, own in components.items()}, kwargs)
            for variables, components, kwargs in networks
        ]
        path.write_bytes(pickle.dumps(tuple(objects), protocol=protocol))
    return path


def tensorflow_stylegan2():
    """Variables of the official generator of the reference vectors: (main, {component: variables})."""
    with importable_as("dnnlib.tflib.network.Network", Network):
        *_, averaged = pickle.loads((GOLDEN / "pickles" / "stylegan2_small_skip.tf.pkl").read_bytes())
    return dict(averaged.variables), {name: dict(part.variables) for name, part in averaged.components.items()}


def array(tensor):
    return np.array(tensor.detach().numpy(), order="C")


def tensorflow_discriminator(weights):
    """Variables of the official discriminator from its torch tensors."""
    names = {"fromrgb": "FromRGB", "conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip", "conv": "Conv"}
    variables = {}
    for key, value in weights.items():
        if "resample_filter" in key:
            continue
        block, layer, kind = key.split(".")
        size = block.removeprefix("b")
        name = {"fc": "4x4/Dense0", "out": "Output"}.get(layer) or f"{size}x{size}/{names[layer]}"
        if kind == "weight":
            value = value.T if value.ndim == 2 else value.permute(2, 3, 1, 0)
        variables[f"{name}/{kind}"] = array(value)
    return variables


def rosinality_generator(weights):
    """State dict of the rosinality generator from the official one's tensors."""
    state = {"input.input": weights["synthesis.b4.const"][None]}
    for key, value in weights.items():
        parts = key.split(".")
        if parts[0] == "mapping":
            if parts[1] != "w_avg":
                state[f"style.{int(parts[1].removeprefix('fc')) + 1}.{parts[2]}"] = value
            continue
        block, layer, kind = int(parts[1].removeprefix("b")).bit_length() - 3, parts[2], ".".join(parts[3:])
        if layer == "torgb":
            source = "to_rgb1" if block == 0 else f"to_rgbs.{block - 1}"
            entries = {"weight": ("conv.weight", value[None]), "bias": ("bias", value.view(1, -1, 1, 1))}
        elif layer in ("conv0", "conv1"):
            source = "conv1" if block == 0 else f"convs.{2 * (block - 1) + (layer == 'conv1')}"
            entries = {"weight": ("conv.weight", value[None]), "bias": ("activate.bias", value)}
            entries["noise_strength"] = ("noise.weight", value.flatten())
            if kind == "noise_const":
                state[f"noises.noise_{0 if block == 0 else 2 * block - (layer == 'conv0')}"] = value[None, None]
                continue
        else:
            continue
        entries |= {"affine.weight": ("conv.modulation.weight", value), "affine.bias": ("conv.modulation.bias", value)}
        if kind in entries:
            state[f"{source}.{entries[kind][0]}"] = entries[kind][1]
    return state


def rosinality_discriminator(weights, resolution):
    """State dict of the rosinality discriminator from the official one's tensors."""
    names = {  # of the modules with weight and bias
        "fromrgb": ("convs.0.0", "convs.0.1"),
        "conv0": ("convs.{}.conv1.0", "convs.{}.conv1.1"),
        "conv1": ("convs.{}.conv2.1", "convs.{}.conv2.2"),
        "skip": ("convs.{}.skip.1", None),
        "conv": ("final_conv.0", "final_conv.1"),
        "fc": ("final_linear.0", "final_linear.0"),
        "out": ("final_linear.1", "final_linear.1"),
    }
    state = {}
    for key, value in weights.items():
        if "resample_filter" in key:
            continue
        block, layer, kind = key.split(".")
        index = resolution.bit_length() - int(block.removeprefix("b")).bit_length() + 1
        state[f"{names[layer][kind == 'bias'].format(index)}.{kind}"] = value
    return state


def random_stylegan(resolution, channels, w_dim, layers):
    """Random variables of a TensorFlow StyleGAN: (main, {component: variables})."""
    random = np.random.default_rng(0)

    def draw(*shape):
        return random.standard_normal(shape).astype(np.float32)

    mapping, synthesis = {}, {}
    for index in range(layers):
        mapping[f"Dense{index}/weight"] = draw(w_dim, w_dim) * 100
        mapping[f"Dense{index}/bias"] = draw(w_dim)
    size, inputs, noise = 4, channels[0], 0
    for width in channels:
        for part, name in enumerate(("Const", "Conv") if size == 4 else ("Conv0_up", "Conv1")):
            source = f"{size}x{size}/{name}"
            if name == "Const":
                synthesis[f"{source}/const"] = draw(1, width, 4, 4)
            else:
                synthesis[f"{source}/weight"] = draw(3, 3, inputs if part == 0 else width, width)
            synthesis[f"{source}/bias"] = draw(width) * 0.3
            synthesis[f"{source}/Noise/weight"] = draw(width) * 0.3
            synthesis[f"{source}/StyleMod/weight"] = draw(w_dim, 2 * width)
            synthesis[f"{source}/StyleMod/bias"] = draw(2 * width)
            synthesis[f"noise{noise}"] = draw(1, 1, size, size)
            noise += 1
        inputs, size = width, 2 * size
    for lod in range(len(channels)):
        width = channels[len(channels) - 1 - lod]
        synthesis[f"ToRGB_lod{lod}/weight"], synthesis[f"ToRGB_lod{lod}/bias"] = draw(1, 1, width, 3), draw(3)
    synthesis["lod"] = np.float32(0)
    return {"dlatent_avg": draw(w_dim)}, {"mapping": mapping, "synthesis": synthesis}


def tensorflow_stylegan_images(main, components, z):
    """What the TensorFlow graph computes, literally: layouts, fused upsampling from 128 pixels, gains before biases."""
    import torch.nn.functional as F

    mapping, synthesis = (
        {k: torch.tensor(v, dtype=torch.float64) for k, v in components[c].items()} for c in ("mapping", "synthesis")
    )
    x = z.double()
    x = x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for index in range(sum(name.endswith("/weight") for name in mapping)):
        weight, bias = mapping[f"Dense{index}/weight"], mapping[f"Dense{index}/bias"]
        x = F.leaky_relu(x @ weight * (2**0.5 / len(weight) ** 0.5 * 0.01) + bias * 0.01, 0.2)
    w = x

    def scaled(name, gain=2**0.5):
        weight = synthesis[f"{name}/weight"]
        return weight * gain / weight[..., 0].numel() ** 0.5

    def epilogue(x, name, noise):
        x = x + synthesis[f"noise{noise}"] * synthesis[f"{name}/Noise/weight"].view(1, -1, 1, 1)
        x = F.leaky_relu(x + synthesis[f"{name}/bias"].view(1, -1, 1, 1), 0.2)
        x = x - x.mean(dim=(2, 3), keepdim=True)
        x = x * (x.square().mean(dim=(2, 3), keepdim=True) + 1e-8).rsqrt()
        style = w @ scaled(f"{name}/StyleMod", 1) + synthesis[f"{name}/StyleMod/bias"]
        style = style.view(len(w), 2, -1, 1, 1)
        return x * (style[:, 0] + 1) + style[:, 1]

    def convolution(x, name):
        return F.conv2d(x, scaled(name).permute(3, 2, 0, 1), padding=1)

    def upsampled(x, name):
        if 2 * x.shape[2] >= 128:  # fused: a transposed convolution with the kernel summed over four shifts
            weight = F.pad(scaled(name).permute(2, 3, 0, 1), (1, 1, 1, 1))
            weight = weight[..., 1:, 1:] + weight[..., :-1, 1:] + weight[..., 1:, :-1] + weight[..., :-1, :-1]
            x = F.conv_transpose2d(x, weight, stride=2, padding=1)
        else:
            x = convolution(F.interpolate(x, scale_factor=2), name)
        kernel = torch.outer(*[torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype)] * 2).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(x, kernel, padding=1, groups=x.shape[1])

    x = epilogue(synthesis["4x4/Const/const"].expand(len(z), -1, -1, -1), "4x4/Const", 0)
    x, noise, size = epilogue(convolution(x, "4x4/Conv"), "4x4/Conv", 1), 2, 8
    while f"{size}x{size}/Conv1/weight" in synthesis:
        x = epilogue(upsampled(x, f"{size}x{size}/Conv0_up"), f"{size}x{size}/Conv0_up", noise)
        x = epilogue(convolution(x, f"{size}x{size}/Conv1"), f"{size}x{size}/Conv1", noise + 1)
        noise, size = noise + 2, 2 * size
    weight = synthesis["ToRGB_lod0/weight"]
    return F.conv2d(x, weight.permute(3, 2, 0, 1) / weight[..., 0].numel() ** 0.5) + synthesis["ToRGB_lod0/bias"].view(
        1, -1, 1, 1
    )


class Persistent:
    """An object as StyleGAN's persistence writes it: class name, source text and attributes."""

    def __init__(self, state, class_name="Generator"):
        self.meta = {"type": "class", "version": 6, "module_src": "raise RuntimeError('source was executed')"}
        self.meta |= {"class_name": class_name, "state": state}

    def __reduce__(self):
        return reconstruct_persistent, (self.meta,)


def reconstruct_persistent(meta):
    raise AssertionError("only named, never called")


def persistent_pickle(networks):
    """Official torch pickle of a dict of such objects."""
    with importable_as("torch_utils.persistence._reconstruct_persistent_obj", reconstruct_persistent):
        return pickle.dumps(networks, 4)
