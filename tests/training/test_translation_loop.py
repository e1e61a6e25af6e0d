# SPDX-License-Identifier: Apache-2.0
"""U-GAT-IT's training: losses by hand, exact resume, the same result on two processes."""

import math

import pytest
import torch

from hf_ganzip.models import UGATITDiscriminator, UGATITGenerator
from hf_ganzip.training import translation_loop
from hf_ganzip.training.feature_quantization import FQConfig, add_feature_quantizers
from hf_ganzip.training.translation_loop import (
    Discriminators,
    Generators,
    TranslationConfig,
    clip_rho_,
    discriminator_loss,
    enlarge_images,
    enlarged,
    generator_terms,
    train_translation,
)

from ..processes import run_processes
from .conftest import close, cpu_accelerator, join_group, same, weights


SIZE = 32


def networks(quantized=False):
    torch.manual_seed(0)
    options = {"resolution": SIZE, "base_channels": 4, "num_blocks": 1, "light": True}
    generators = Generators(UGATITGenerator(**options), UGATITGenerator(**options))
    found = {
        f"{kind}_{side}": UGATITDiscriminator(base_channels=4, num_layers=layers)
        for side in "ab"
        for kind, layers in (("global", 5), ("local", 4))
    }
    if quantized:
        for side in "ab":
            add_feature_quantizers(found[f"global_{side}"], {"model.5": FQConfig(4, preset="official")})
    return generators, Discriminators(**found)


def images(seed, side=None):
    random = torch.Generator().manual_seed(seed)
    side = side or enlarged(SIZE)
    return torch.randint(0, 256, (7, 3, side, side), generator=random, dtype=torch.uint8)


def train(folder, steps, quantized=False, **options):
    generators, discriminators = networks(quantized)
    options = {"train_batch_size": 2, "checkpointing_steps": 2, "validation_steps": 1000} | options
    config = TranslationConfig(str(folder), max_train_steps=steps, **options)
    train_translation(generators, discriminators, images(1), images(2), config, cpu_accelerator())
    return weights((generators, discriminators))


def test_discriminator_loss_by_hand():
    real = [(torch.full((1, 1, 2, 2), 0.5), torch.tensor([[1.0, 0.0]]), None)]
    generated = [(torch.full((1, 1, 2, 2), 2.0), torch.zeros(1, 2), torch.tensor([3.0]))]
    assert float(discriminator_loss(real, generated)) == pytest.approx(0.25 + 0.5 + 4 + 0 + 3)


def test_generator_terms_by_hand():
    a, b, zero = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2), torch.zeros(1, 2)
    made = {
        name: (torch.full((1, 3, 2, 2), 0.5), zero) for name in ("a", "b", "cycle_a", "cycle_b", "same_a", "same_b")
    }
    judged = {name: [[(torch.zeros(1, 1, 2, 2), torch.ones(1, 2), None)] * 2] for name in ("a", "b")}
    terms = generator_terms(a, b, made, judged)
    assert {name: pytest.approx(float(value)) for name, value in terms.items()} == {
        "adversarial": 4.0,  # four discriminators, logits 0 instead of 1, CAM logits right
        "cycle": 1.0,
        "identity": 1.0,
        "cam": 4 * math.log(2),
    }


def test_shares_of_normalization_stay_shares():
    generators, _ = networks()
    rho = [p for name, p in generators.named_parameters() if name.endswith("rho")]
    with torch.no_grad():
        rho[0].fill_(1.5)
        rho[1].fill_(-0.5)
    clip_rho_(generators)
    assert all(0 <= float(each.min().detach()) and float(each.max().detach()) <= 1 for each in rho)


@pytest.mark.parametrize("quantized", [False, True])
def test_a_resumed_run_is_an_uninterrupted_run(tmp_path, monkeypatch, quantized):
    whole = train(tmp_path / "whole", 4, quantized)
    original = translation_loop._Training.train_step

    def interrupted(self):
        if self.step == 3:
            raise RuntimeError("stop")
        return original(self)

    monkeypatch.setattr(translation_loop._Training, "train_step", interrupted)
    with pytest.raises(RuntimeError, match="stop"):
        train(tmp_path / "parts", 4, quantized)
    monkeypatch.undo()
    torch.manual_seed(99)
    assert same(whole, train(tmp_path / "parts", 4, quantized, resume_from_checkpoint="latest"))
    assert UGATITGenerator.from_pretrained(tmp_path / "parts" / "checkpoint-4" / "generator_a_to_b").config.light


def train_in_a_group(rank, count, folder):
    join_group(rank, count)
    return train(f"{folder}/group", 2, train_batch_size=1)


@pytest.mark.process
def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    alone = train(tmp_path / "alone", 2, train_batch_size=2)
    first, second = run_processes(train_in_a_group, 2, tmp_path, str(tmp_path))
    assert same(first, second)
    close(alone, first, rtol=2e-3, atol=2e-4)


def test_grids_log_and_learning(tmp_path):
    before = networks()[0].state_dict()
    after = train(tmp_path, 2, validation_steps=2)
    changed = [name for name in before if not torch.equal(before[name], after[f"0.{name}"])]
    assert any(name.startswith("a_to_b") for name in changed) and any(name.startswith("b_to_a") for name in changed)
    assert (tmp_path / "samples" / "step-0000002-trained.png").is_file()
    log = (tmp_path / "log.jsonl").read_text()
    assert all(f'"{term}"' in log for term in ("adversarial", "cycle", "identity", "cam", "loss_d_a", "loss_d_b"))


def test_the_learning_rate_falls_to_zero_in_the_second_half(tmp_path, monkeypatch):
    rates, step = [], torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self, c=None: rates.append(self.param_groups[0]["lr"]) or step(self, c)
    )
    train(tmp_path, 4, learning_rate=1.0e-4)
    assert rates[::2] == pytest.approx([1e-4, 1e-4, 1e-4, 0.5e-4])


def test_options_that_this_loop_has_not(tmp_path):
    with pytest.raises(ValueError, match="dataloader_num_workers is 2; allowed is 0"):
        TranslationConfig("x", dataloader_num_workers=2)
    with pytest.raises(ValueError, match="UGATITGenerator cannot recompute activations"):
        train(tmp_path, 1, gradient_checkpointing=True)


def test_enlarged_images_have_no_borders():
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(2, 3, SIZE, SIZE)
    found = enlarge_images(ramp)
    assert found.shape == (2, 3, enlarged(SIZE), enlarged(SIZE)) and found.dtype == torch.uint8
    assert bool((found[..., 1:].int() >= found[..., :-1].int()).all())
    assert int(found[..., 0].max()) <= 4 and int(found[..., -1].min()) >= 244
    assert torch.equal(
        enlarge_images(torch.full((1, 3, SIZE, SIZE), 200, dtype=torch.uint8)).unique(),
        torch.tensor([200], dtype=torch.uint8),
    )


def test_bad_input(tmp_path):
    generators, discriminators = networks()
    config = TranslationConfig(str(tmp_path), max_train_steps=1)
    with pytest.raises(ValueError, match="images_b are"):
        train_translation(generators, discriminators, images(1), images(2, SIZE), config, cpu_accelerator())
    with pytest.raises(ValueError, match="allowed are 1 and more"):
        TranslationConfig("x", train_batch_size=0)
