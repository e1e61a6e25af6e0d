# SPDX-License-Identifier: Apache-2.0
"""What holds for every architecture."""

import inspect

import pytest
import torch

from hf_ganzip.families import family_of
from hf_ganzip.models import ARCHITECTURES
from hf_ganzip.models.base import GeneratorMixin

from ..conftest import TINY, changed, run, sources, state_of
from .golden import close


pytestmark = pytest.mark.processor


OWN = sorted(name for name, make in TINY.items() if type(make()) in ARCHITECTURES.values())
GENERATORS = [name for name in OWN if isinstance(TINY[name](), GeneratorMixin)]
NOISY = ["generator", "stylegan"]
CHECKPOINTED = [name for name in OWN if TINY[name]()._supports_gradient_checkpointing]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "generator" else pytest.mark.process) for name in OWN]
)
def test_torch_export_repeats_the_model(name):
    model = TINY[name]()
    (first, *others), kwargs = family_of(model).example_inputs(model)
    kwargs = kwargs | {"return_dict": False}
    with torch.no_grad():
        exported = torch.export.export(model, (first, *others), kwargs, strict=False).module()
        for inputs in (first, first.flip(0) / 2):
            close(exported(inputs, *others, **kwargs)[0], model(inputs, *others, **kwargs)[0], 1e-4)


@pytest.mark.parametrize("name", OWN)
def test_bfloat16_is_close_to_float32(name):
    model = TINY[name]()
    expected = run(model)
    found = run(model.to(torch.bfloat16)).float()
    assert torch.isfinite(found).all()
    error = (found - expected).square().mean() / expected.square().mean()
    assert error < 0.03**2 * 10


@pytest.mark.parametrize("name", GENERATORS)
@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(name):
    model = TINY[name]()
    z = model.draw_latents(5, torch.Generator().manual_seed(3))
    labels = torch.arange(5) % 3 if model.config.num_classes else None
    together = model(z, labels, noise_mode="const").sample
    for i in (0, 3):
        one = slice(i, i + 1)
        (alone, *_) = model(z[one], None if labels is None else labels[one], noise_mode="const", return_dict=False)
        close(together[one], alone, 1e-5)


@pytest.mark.parametrize("name", GENERATORS)
def test_latents_of_a_list_of_sources_do_not_depend_on_the_batch(name):
    model = TINY[name]()
    together = model.draw_latents(2, sources(1, 2), truncation_psi=0.5)
    assert torch.equal(together[1:], model.draw_latents(1, sources(2), truncation_psi=0.5))
    assert together.shape == (2, model.config.z_dim) and not torch.equal(together[0], together[1])
    for count in (1, 3):
        with pytest.raises(ValueError, match=f"generator is a list of 2 for {count} samples"):
            model.draw_latents(count, sources(1, 2))


def with_noise(model):
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.add_(0.3 * key.endswith("noise_strength"))
    return model


def gradients(model, args, kwargs):
    model.zero_grad()
    model(*args, **kwargs).sample.square().mean().backward()
    return {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(
    "name, noise",
    [(name, None) for name in CHECKPOINTED] + [(name, noise) for name in NOISY for noise in ("one", "listed")],
)
def test_gradient_checkpointing_changes_no_gradient(name, noise):
    """Recomputing repeats the noise of a generator, and leaves its sources where one pass does."""
    model = with_noise(TINY[name]())
    args, kwargs = family_of(model).example_inputs(model)
    found = []
    for _ in range(2):
        drawn = sources(*range(len(args[0])))
        draw = {"noise_mode": "random", "generator": drawn if noise == "listed" else drawn[0]} if noise else {}
        found.append((gradients(model, args, kwargs | draw), [source.get_state() for source in drawn]))
        model.enable_gradient_checkpointing()
    assert len(found[0][0]) > 5
    close(found[1][0], found[0][0], 1e-6, relative=1e-4)
    close(found[1][1], found[0][1], 0)


@pytest.mark.parametrize("name", NOISY)
@torch.no_grad()
def test_noise_of_a_list_of_sources_is_independent_of_the_batch(name):
    model = with_noise(TINY[name]())
    (z, labels), _ = family_of(model).example_inputs(model)
    one = slice(1, 2), None if labels is None else labels[1:2]
    together = model(z, labels, generator=sources(4, 5)).sample[one[0]]
    close(together, model(z[one[0]], one[1], generator=sources(5)).sample)
    assert not torch.allclose(together, model(z[one[0]], one[1], generator=sources(7)).sample)


@pytest.mark.parametrize("name", OWN)
def test_the_folder_of_another_class_is_refused(name, tmp_path):
    """diffusers builds the class that is asked for, with random weights, and warns."""
    model = TINY[name]()
    args, kwargs = family_of(model).example_inputs(model)
    model.train()(*args, **kwargs)  # statistics move
    model.save_pretrained(tmp_path)
    other = next(type(TINY[each]()) for each in OWN if type(TINY[each]()) is not type(model))
    with pytest.raises(ValueError, match=f"holds a {type(model).__name__}, no {other.__name__}; use"):
        other.from_pretrained(tmp_path)
    mine = type("Mine", (type(model),), {})
    mine.from_pretrained(tmp_path).save_pretrained(tmp_path / "mine")
    loaded = type(model).from_pretrained(tmp_path / "mine")
    assert not changed(state_of(model), loaded)
    tensors = (*loaded.parameters(), *loaded.buffers())
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors if tensor.is_floating_point())  # aligned


@pytest.mark.parametrize("name", OWN)
def test_gradients_reach_every_parameter(name):
    model = TINY[name]().train()
    args, kwargs = family_of(model).example_inputs(model)
    output = model(*args, **kwargs)
    sum(value.float().square().mean() for value in output.to_tuple()).backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]


@pytest.mark.parametrize("name", OWN)
def test_presets_build_and_unknown_ones_are_named(name):
    cls = type(TINY[name]())
    with torch.device("meta"):
        for preset in cls.PRESETS:
            model = cls.from_preset(preset)
            assert set(cls.PRESETS[preset]) <= set(inspect.signature(cls.__init__).parameters)
            assert model.num_parameters() > 1e5
    with pytest.raises(ValueError, match="preset"):
        cls.from_preset("no such preset")
