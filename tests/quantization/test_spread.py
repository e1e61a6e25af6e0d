# SPDX-License-Identifier: Apache-2.0
"""Headroom: more bits for small and sensitive layers, by numbers and in models."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import hf_ganzip as gz
from hf_ganzip.quantization.spread import spread_bits

from ..conftest import tiny_unet


FULL = 32  # what a weight in full precision is counted with
SHARES = st.floats(0, 1)
SIZES = st.lists(st.integers(1, 10**9), min_size=1, max_size=8)


def spread(sizes, asked, share, sensitive=()):
    """Bits in the order of the sizes; 32 for full precision."""
    names = range(len(sizes))
    asked = dict(zip(names, asked)) if isinstance(asked, list) else dict.fromkeys(names, asked)
    found = spread_bits(dict(zip(names, sizes)), asked, share, sensitive)
    return [found[name] or FULL for name in names]


def error(sizes, bits, sensitive):
    return sum((16 if i in sensitive else 1) * 4.0**-b for i, b in enumerate(bits))


@st.composite
def layers(draw, most=8):
    sizes = draw(st.lists(st.integers(1, 10**9), min_size=1, max_size=most))
    asked = [draw(st.integers(2, 8)) for _ in sizes]
    return sizes, asked, draw(st.sets(st.integers(0, len(sizes) - 1)))


@given(layers(), SHARES)
def test_no_layer_gets_less_than_asked_and_all_together_keep_the_budget(found, share):
    sizes, asked, sensitive = found
    bits = spread(sizes, asked, share, sensitive)
    assert all(before <= after and (after <= 8 or after == FULL) for before, after in zip(asked, bits))
    more = sum(size * (after - before) for size, before, after in zip(sizes, asked, bits))
    assert more <= share * sum(size * before for size, before in zip(sizes, asked)) * (1 + 1e-12)


@given(SIZES, st.integers(2, 8), SHARES, st.booleans())
def test_smaller_layers_never_get_fewer_bits_than_larger_ones_of_their_kind(sizes, asked, share, sensitive):
    sizes = sorted(sizes)
    bits = spread(sizes, asked, share, set(range(len(sizes))) if sensitive else ())
    assert bits == sorted(bits, reverse=True)
    assert all(one == other for (m, one), (n, other) in itertools.combinations(zip(sizes, bits), 2) if m == n)


@given(SIZES, st.integers(2, 8), SHARES)
def test_sensitive_layers_never_get_fewer_bits_than_others_of_their_size(sizes, asked, share):
    count = len(sizes)
    bits = spread(sizes + sizes, asked, share, set(range(count)))
    assert all(own >= other for own, other in zip(bits[:count], bits[count:]))


@given(layers(), SHARES, SHARES)
def test_more_headroom_takes_no_bits_from_any_layer(found, one, other):
    sizes, asked, sensitive = found
    less, more = (spread(sizes, asked, share, sensitive) for share in sorted((one, other)))
    assert all(a <= b for a, b in zip(less, more))


@given(layers(most=3), SHARES)
def test_no_other_bits_have_less_error_for_the_same_bytes(found, share):
    """Of all choices of 2 to 8 bits, by the model of errors in the docstring."""
    sizes, asked, sensitive = found
    bits = spread(sizes, asked, share, sensitive)
    assume(FULL not in bits)
    spent = sum(size * b for size, b in zip(sizes, bits))
    others = itertools.product(*(range(b, 9) for b in asked))
    least = min(error(sizes, o, sensitive) for o in others if sum(s * b for s, b in zip(sizes, o)) <= spent)
    assert error(sizes, bits, sensitive) <= least * (1 + 1e-9)


# -- in models -------------------------------------------------------------------------------------------------------


def entry():
    """One sensitive layer, by its name, a twin of its size, and larger ones."""
    sizes = {"first": (64, 64), "conv_in": (64, 16), "twin": (64, 16), "large": (64, 2048), "tiny": (4, 4)}
    return nn.ModuleDict({name: nn.Linear(*size) for name, size in (sizes | {"last": (64, 64)}).items()})


def test_the_report_says_which_layers_have_more_and_why():
    report = gz.quantize_(entry(), bits=4)
    layers = {layer.name.removesuffix(".weight"): layer for layer in report.layers}
    assert (layers["large"].bits, layers["large"].note) == (4, None)
    assert layers["twin"].bits > 4 and layers["twin"].note == "small (headroom)"
    for name in ("first", "last", "conv_in"):
        assert "sensitive (headroom)" in (layers[name].note, layers[name].skipped)
    assert layers["tiny"].bits is None and layers["tiny"].skipped == "small (headroom)"
    assert layers["tiny"].bytes_after == layers["tiny"].bytes_before
    lines = {line.split()[0]: line for line in str(report).splitlines()}
    assert lines["twin.weight"].endswith("small (headroom)") and not lines["large.weight"].endswith(")")
    assert "note" in report.to_pandas()


@pytest.mark.parametrize("headroom", [0, 0.02, 0.1, 0.5, 1])
def test_the_bytes_of_a_model_keep_the_budget(headroom):
    """Counted in bits of codes and of full precision; scales come on top."""
    model = tiny_unet()
    plan = gz.quantization.plan.plan_quantization(model, gz.QuantizeConfig(bits=3, headroom=headroom))
    sizes = {name: model.get_submodule(name).weight.numel() for name in plan.settings}
    left = sum(model.get_submodule(name).weight.numel() for name, why in plan.skipped.items() if "headroom" in why)
    spent = sum(size * plan.settings[name].bits for name, size in sizes.items()) + FULL * left
    assert spent <= 3 * (1 + headroom) * (sum(sizes.values()) + left)
    assert (spent > 3 * sum(sizes.values())) == (headroom > 0)


def test_bits_that_overrides_choose_stay_and_other_overrides_leave_them_free():
    overrides = {"twin": {"bits": 4}, "tiny": {"bits": 2}, "conv_in": {"method": "linear"}}
    report = gz.quantize_(entry(), bits=4, overrides=overrides)
    layers = {layer.name.removesuffix(".weight"): layer for layer in report.layers}
    assert (layers["twin"].bits, layers["twin"].note, layers["tiny"].bits) == (4, None, 2)
    assert layers["conv_in"].note == "sensitive (headroom)" and layers["conv_in"].method == "linear"
