# SPDX-License-Identifier: Apache-2.0
import torch

from hf_ganzip.core.seeding import derive_seed, sample_generators


def draws(generators):
    return [tuple(torch.randn(4, generator=generator).tolist()) for generator in generators]


def test_images_of_all_small_seeds_are_different():
    seen = [draw for seed in range(40) for draw in draws(sample_generators(seed, 25))]
    assert len(set(seen)) == len(seen)


def test_start_continues_the_sequence():
    assert draws(sample_generators(3, 6)) == draws(sample_generators(3, 2)) + draws(sample_generators(3, 4, start=2))


def test_derived_seeds_fit_the_cpu_generator_and_differ():
    seeds = {derive_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500 and max(seeds) < 2**32
