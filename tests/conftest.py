# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: tiny models, and an environment without network."""

import contextlib
import copy
import functools
import gc
import os
import sys


# Before any Hugging Face import: they are read once. A process of a test that talks to a LocalHub says "0".
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")

import pytest
import torch


TINY_UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}


def pytest_collection_finish():
    """A million objects of the imported libraries: left out of every garbage collection, a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_GANZIP_CACHE", str(tmp_path / "features"))


@pytest.fixture
def call(monkeypatch, capsys):
    """Run hf-ganzip with arguments: (exit code, standard output, standard error)."""
    from hf_ganzip import cli

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["hf-ganzip", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return invoke


@pytest.fixture
def done(call):
    """Run hf-ganzip with arguments that must do: standard output."""

    def invoke(*arguments):
        code, out, err = call(*arguments)
        assert code == 0, err
        return out

    return invoke


@pytest.fixture
def folder(tmp_path):
    """A saved generator of grey images; some files have a folder of their own."""
    tiny_generator(image_channels=1).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def packed(folder, tmp_path):
    """The same generator quantized while loading, saved."""
    import hf_ganzip as gz

    config = gz.GanzipConfig(bits=4)
    gz.StyleGAN2Generator.from_pretrained(folder, quantization_config=config).save_pretrained(tmp_path / "packed")
    return tmp_path / "packed"


def tiny_generator(**changes):
    from hf_ganzip.models import StyleGAN2Generator

    config = {"resolution": 16, "z_dim": 8, "w_dim": 8, "num_classes": 3, "mapping_layers": 2, "channels": (16, 16, 8)}
    return StyleGAN2Generator(**config | changes).eval()


def tiny_discriminator(**changes):
    from hf_ganzip.models import StyleGAN2Discriminator

    config = {"resolution": 16, "num_classes": 3, "mapping_layers": 2, "channels": (16, 16, 8)}
    return StyleGAN2Discriminator(**config | changes).eval()


def tiny_biggan(**changes):
    from hf_ganzip.models import BigGANGenerator

    config = {"resolution": 16, "z_dim": 12, "num_classes": 3, "channels": (16, 16, 8), "shared_dim": 6}
    model = BigGANGenerator(**config | {"hierarchical": True, "attention_blocks": (0,)} | changes).eval()
    return perturbed(model)


def tiny_biggan_discriminator(**changes):
    from hf_ganzip.models import BigGANDiscriminator

    config = {"resolution": 16, "num_classes": 3, "channels": (8, 16, 16), "attention_blocks": (0,)}
    return perturbed(BigGANDiscriminator(**config | changes).eval())


def tiny_biggan_deep(**changes):
    from hf_ganzip.models import BigGANDeepGenerator

    config = {"z_dim": 6, "num_classes": 3, "channels": (32, 32, 16), "upsample": (False, True)}
    return perturbed(BigGANDeepGenerator(**config | {"attention_before": 1, "n_stats": 11} | changes).eval())


def tiny_stylegan(**changes):
    from hf_ganzip.models import StyleGANGenerator

    config = {"resolution": 16, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channels": (16, 16, 8)}
    model = perturbed(StyleGANGenerator(**config | changes).eval())
    with torch.no_grad():  # features that do not vary have no instance norm
        model.synthesis.b4.const.add_(torch.randn(model.synthesis.b4.const.shape))
    return model


def tiny_stylegan3(**changes):
    from hf_ganzip.models import StyleGAN3Generator

    config = {"resolution": 16, "z_dim": 8, "w_dim": 8, "num_classes": 3, "num_layers": 4, "margin_size": 2}
    return perturbed(StyleGAN3Generator(**config | {"channel_base": 128, "channel_max": 12} | changes).eval())


def tiny_ugatit(**changes):
    from hf_ganzip.models import UGATITGenerator

    return perturbed(UGATITGenerator(**{"resolution": 16, "base_channels": 4, "num_blocks": 2} | changes).eval())


def tiny_ugatit_discriminator():
    return copy.deepcopy(_ugatit_discriminator())


@functools.cache
def _ugatit_discriminator():
    from hf_ganzip.models import UGATITDiscriminator

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UGATITDiscriminator(**{"base_channels": 2, "num_layers": 5}).train()
        with torch.no_grad():
            for _ in range(20):  # power iterations
                model(torch.zeros(1, 3, 64, 64))
    return model.eval()


@torch.no_grad()
def perturbed(model):
    """The model with random values where initialization leaves zeros and ones, so that no path is dead."""
    generator = torch.Generator().manual_seed(5)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("gamma", "bias", "stored_mean", "running_means", "noise_strength")):
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.2)
        elif name.endswith(("stored_var", "running_vars")):
            tensor.mul_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


@torch.no_grad()
def randomized(model, scale=0.05):
    """The model with every parameter moved: biases and norms that are not at their start."""
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape) * scale)
    return model


def state_of(model):
    """Copies of the tensors of a model, by name."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before, model):
    """Names of the tensors of a model that are not what :func:`state_of` copied, NaN included."""
    after = model.state_dict()
    same = {
        name for name in before if name in after and torch.equal(before[name].nan_to_num(), after[name].nan_to_num())
    }
    return (before.keys() | after.keys()) - same


@contextlib.contextmanager
def refused(model, message, error=ValueError):
    """What is done inside must fail with a message that matches, and leave every tensor of the model as it was."""
    before = state_of(model)
    with pytest.raises(error, match=message):
        yield
    assert not changed(before, model)


def reopened(model, folder):
    """The model, saved in a folder and loaded from it."""
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder)


def sources(*seeds):
    """A random source for each seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def gan_pipeline(model, **options):
    """A pipeline without progress bars."""
    from hf_ganzip import GANPipeline

    pipe = GANPipeline(model, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_unet(**changes):
    from diffusers import UNet2DModel

    return UNet2DModel(**TINY_UNET | changes).eval()


TINY = {
    "generator": tiny_generator,
    "discriminator": tiny_discriminator,
    "stylegan": tiny_stylegan,
    "stylegan3": tiny_stylegan3,
    "biggan": tiny_biggan,
    "biggan_deep": tiny_biggan_deep,
    "ugatit": tiny_ugatit,
    "ugatit_discriminator": tiny_ugatit_discriminator,
    "biggan_discriminator": tiny_biggan_discriminator,
    "unet": tiny_unet,
}


@pytest.fixture(params=sorted(TINY))
def tiny_model(request):
    """One freshly initialized small model of each kind."""
    return TINY[request.param]()


WITH_GRADIENTS = os.environ.get("TEST_WITH_GRADIENTS") == "yes"


@contextlib.contextmanager
def same_conditions(*models):
    """What outputs depend on besides weights and inputs (docs/quantization.md), equal for all: memory alignment,
    flags, grad mode.

    `make test-processors` repeats what depends on kernels with gradients recorded: that chooses other kernels.
    """
    from hf_ganzip.core.alignment import align_

    parameters = {p: (n, p.requires_grad) for model in models for n, p in model.named_parameters()}
    for model in models:
        align_(model)
    for parameter, (name, flag) in parameters.items():  # packed weights have no flag: it is that of a frozen one
        parameter.requires_grad_(WITH_GRADIENTS and flag and not name.endswith("weight"))
    try:
        with torch.set_grad_enabled(WITH_GRADIENTS):
            yield
    finally:
        for parameter, (_, flag) in parameters.items():
            parameter.requires_grad_(flag)


def run(model):
    """Output tensor of the model's example inputs."""
    from hf_ganzip.families import family_of

    args, kwargs = family_of(model).example_inputs(model)
    dtype = next(p.dtype for p in [*model.parameters(), *model.buffers()] if p.is_floating_point())
    if type(model).__name__ == "UNet2DModel":
        args = (args[0].to(model.conv_in.bias.dtype), *args[1:])
    elif dtype != torch.float32:
        args = (args[0], *args[1:])
    with same_conditions(model):
        return model(*args, return_dict=False, **kwargs)[0].detach()
