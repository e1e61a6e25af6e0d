# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from hf_ganzip.models.biggan_layers import StatisticsNorm
from hf_ganzip.training.standing_statistics import set_standing_statistics_

from ..conftest import changed, run, state_of, tiny_biggan, tiny_generator


def test_one_batch_gives_the_statistics_of_that_batch():
    model = tiny_biggan()
    seen = {}
    norm = next(module for module in model.modules() if isinstance(module, StatisticsNorm))
    hook = norm.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    set_standing_statistics_(model, batches=1, batch_size=32)
    hook.remove()
    x = seen["x"].movedim(1, 0).flatten(1)
    torch.testing.assert_close(norm.stored_mean, x.mean(dim=1))
    torch.testing.assert_close(norm.stored_var, x.var(dim=1))


def test_nothing_else_changes_and_it_is_repeatable():
    model = tiny_biggan().train()
    before = state_of(model)
    set_standing_statistics_(model, batches=3, batch_size=8)
    after, moved = state_of(model), changed(before, model)
    assert moved and all(key.rpartition(".")[2] in ("stored_mean", "stored_var") for key in moved)
    assert model.training and all(m.momentum == 0.1 for m in model.modules() if isinstance(m, StatisticsNorm))
    set_standing_statistics_(model, batches=3, batch_size=8)
    assert not changed(after, model)
    assert torch.isfinite(run(model.eval())).all()


def test_bad_input():
    with pytest.raises(ValueError, match="0 norms with batch statistics"):
        set_standing_statistics_(tiny_generator())
    for options in ({"batches": 0}, {"batch_size": 1}):
        with pytest.raises(ValueError, match="allowed are"):
            set_standing_statistics_(tiny_biggan(), **options)
