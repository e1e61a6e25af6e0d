# SPDX-License-Identifier: Apache-2.0
"""U-GAT-IT's training: losses by hand, learning rates, what it writes and refuses, images without borders."""

import math

import pytest
import torch

from hf_ganzip.models import UGATITGenerator
from hf_ganzip.training.translation_loop import (
    TranslationConfig,
    discriminator_loss,
    enlarge_images,
    enlarged,
    generator_terms,
    train_translation,
)

from ..conftest import changed
from .conftest import cpu_accelerator, images
from .loops import SIZE, translators
from .loops import train_translators as train


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


def test_grids_log_checkpoints_and_learning(tmp_path, adam_steps):
    """At a rate at which the shares of normalization (rho) would leave [0, 1]."""
    before = translators()[0].state_dict()
    after, _ = train(tmp_path, 4, validation_steps=2, learning_rate=0.2)
    assert [rate for rate, _ in adam_steps[::2]] == pytest.approx([0.2, 0.2, 0.2, 0.1])  # falls in the second half
    moved = changed(before, after)
    assert any(name.startswith("a_to_b") for name in moved) and any(name.startswith("b_to_a") for name in moved)
    for generator in after.children():
        rho = torch.cat([value.flatten() for name, value in generator.state_dict().items() if name.endswith("rho")])
        assert rho.min() == 0 and rho.max() == 1
    assert (tmp_path / "samples" / "step-0000002-trained.png").is_file()
    assert UGATITGenerator.from_pretrained(tmp_path / "checkpoint-2" / "generator_a_to_b").config.light
    log = (tmp_path / "log.jsonl").read_text()
    assert all(f'"{term}"' in log for term in ("adversarial", "cycle", "identity", "cam", "loss_d_a", "loss_d_b"))


def test_enlarged_images_have_no_borders():
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(2, 3, SIZE, SIZE)
    found = enlarge_images(ramp)
    assert found.shape == (2, 3, enlarged(SIZE), enlarged(SIZE)) and found.dtype == torch.uint8
    assert bool((found[..., 1:].int() >= found[..., :-1].int()).all())
    assert int(found[..., 0].max()) <= 4 and int(found[..., -1].min()) >= 244


def test_bad_input(tmp_path):
    config = TranslationConfig(str(tmp_path), max_train_steps=1)
    enlarged_ones, others = (images(side).tensors[0] for side in (enlarged(SIZE), SIZE))
    with pytest.raises(ValueError, match="images_b are"):
        train_translation(*translators(), enlarged_ones, others, config, cpu_accelerator())
    with pytest.raises(ValueError, match="allowed are 1 and more"):
        TranslationConfig("x", train_batch_size=0)
    with pytest.raises(ValueError, match="dataloader_num_workers is 2; allowed is 0"):
        TranslationConfig("x", dataloader_num_workers=2)
    with pytest.raises(ValueError, match="UGATITGenerator cannot recompute activations"):
        train(tmp_path, 1, gradient_checkpointing=True)
