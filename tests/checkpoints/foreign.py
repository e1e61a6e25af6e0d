# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of other libraries, written as those write them; independent of the converters."""

import contextlib
import pickle
import sys
import types

import numpy as np
import torch


@contextlib.contextmanager
def fake_modules(**classes):
    """Modules with classes of these dotted names, for pickling only: ``dnnlib__tflib__network__Network=cls``."""
    made = []
    try:
        for dotted, cls in classes.items():
            *path, name = dotted.split("__")
            for depth in range(1, len(path) + 1):
                module = ".".join(path[:depth])
                if module not in sys.modules:
                    sys.modules[module] = types.ModuleType(module)
                    made.append(module)
            cls.__module__, cls.__qualname__, cls.__name__ = ".".join(path), name, name
            setattr(sys.modules[".".join(path)], name, cls)
        yield
    finally:
        for module in made:
            del sys.modules[module]


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
    with fake_modules(dnnlib__tflib__network__Network=Network):
        objects = [
            Network(variables, {name: Network(own) for name, own in components.items()}, kwargs)
            for variables, components, kwargs in networks
        ]
        path.write_bytes(pickle.dumps(tuple(objects), protocol=protocol))
    return path


def array(tensor):
    return np.array(tensor.detach().numpy(), order="C")


def tensorflow_stylegan2(weights):
    """Variables of the official generator from its torch tensors: (main, {component: variables})."""
    mapping, synthesis = {}, {}
    for key, value in weights.items():
        parts = key.split(".")
        if parts[:2] == ["mapping", "w_avg"] or "resample_filter" in key:
            continue
        if parts[0] == "mapping":
            name = f"Dense{parts[1].removeprefix('fc')}/{parts[2]}"
            mapping[name] = array(value.T if parts[2] == "weight" else value)
            continue
        size, layer, *rest = parts[1].removeprefix("b"), *parts[2:]
        block = int(size).bit_length() - 3
        own = {"const": "Const", "conv0": "Conv0_up", "torgb": "ToRGB", "skip": "Skip"}.get(layer)
        own = own or ("Conv" if size == "4" else "Conv1")
        name = f"{size}x{size}/{own}/"
        kind = ".".join(rest)
        if layer == "const":
            synthesis[name + "const"] = array(value[None])
        elif kind == "weight":
            turned = value.flip(2, 3) if layer in ("conv0", "skip") else value
            synthesis[name + "weight"] = array(turned.permute(2, 3, 1, 0))
        elif kind == "affine.weight":
            synthesis[name + "mod_weight"] = array(value.T)
        elif kind == "affine.bias":
            synthesis[name + "mod_bias"] = array(value - 1)
        elif kind == "noise_const":
            index = 0 if size == "4" else 2 * block - (layer == "conv0")
            synthesis[f"noise{index}"] = array(value[None, None])
        else:
            synthesis[name + kind] = array(value)
    return {"dlatent_avg": array(weights["mapping.w_avg"])}, {"mapping": mapping, "synthesis": synthesis}


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


class _Persistent:
    """A module as StyleGAN's persistence writes it: class name, source text and the module's attributes."""

    def __init__(self, module):
        self.module = module

    def __reduce__(self):
        state = dict(self.module.__dict__)
        state["_modules"] = {name: _Persistent(child) for name, child in self.module._modules.items()}
        state = {
            key: value
            for key, value in state.items()
            if key in ("training", "_parameters", "_buffers", "_modules") or isinstance(value, (int, float, str))
        }
        meta = {"type": "class", "version": 6, "module_src": "raise RuntimeError('source was executed')"}
        return reconstruct_persistent, ({**meta, "class_name": type(self.module).__name__, "state": state},)


def reconstruct_persistent(meta):
    raise AssertionError("only named, never called")


def save_persistent(path, networks):
    """Official torch pickle: a dict of modules under the class names and attributes they have here."""
    with fake_modules(torch_utils__persistence___reconstruct_persistent_obj=reconstruct_persistent):
        path.write_bytes(pickle.dumps({name: _Persistent(module) for name, module in networks.items()}, 4))
