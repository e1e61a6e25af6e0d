# SPDX-License-Identifier: Apache-2.0
"""What options that are not given are: of presets, of the paper's methods, and of folders older than the options."""

import json

import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.quantization import METHODS

from ..conftest import tiny_unet


PAPER = {"granularity": "tensor", "scale_dtype": "float32", "skip_last_block": True, "headroom": 0.0}
BEST = {"granularity": "channel", "scale_dtype": "float16", "skip_last_block": False, "headroom": 0.1}
OF_THE_PAPER = ("linear", "monte_carlo", "outlier_splitting", "aciq")


def values(config):
    return {name: getattr(config, name) for name in ("method", *BEST)}


def test_the_default_is_the_best_without_calibration():
    best, loading = gz.QuantizeConfig(bits=4, preset="best"), gz.GanzipConfig(bits=4).quantize_config
    for config in (gz.QuantizeConfig(), best, loading):
        assert config == gz.QuantizeConfig("auto", bits=4, **BEST) and values(config) == {"method": "auto"} | BEST
    report = gz.quantize_(tiny_unet(), bits=4)
    assert {layer.method for layer in report.quantized} == {"auto"}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_papers_methods_alone_are_as_in_the_paper_and_all_others_are_not(method):
    expected = PAPER if method in OF_THE_PAPER else BEST
    for given in (method, METHODS[method]()):
        assert gz.QuantizeConfig(given, bits=3) == gz.QuantizeConfig(given, bits=3, **expected)
        assert gz.GanzipConfig(given, 3).quantize_config == gz.QuantizeConfig(given, bits=3, **expected)


def test_what_is_given_counts_more_than_the_preset():
    assert values(gz.QuantizeConfig("codebook", preset="paper")) == {"method": "codebook"} | PAPER
    assert values(gz.QuantizeConfig("linear", preset="best")) == {"method": "linear"} | BEST
    chosen = gz.QuantizeConfig("linear", granularity="channel", headroom=0.5, skip_last_block=False)
    assert values(chosen) == {"method": "linear"} | BEST | {"scale_dtype": "float32", "headroom": 0.5}


@pytest.mark.parametrize("make", [gz.QuantizeConfig, lambda **options: gz.GanzipConfig(**options).quantize_config])
def test_a_changed_config_is_what_it_would_have_been_with_all_at_once(make):
    of = gz.QuantizeConfig.of
    assert of(make(bits=3), method="linear") == gz.QuantizeConfig("linear", bits=3)
    assert of(make(method="linear"), method="gptq") == gz.QuantizeConfig("gptq")
    assert of(make(method="linear"), preset="best") == gz.QuantizeConfig("linear", preset="best")
    assert of(make(bits=3), preset="paper") == gz.QuantizeConfig("aciq", bits=3)
    assert of(make(preset="paper"), bits=2) == gz.QuantizeConfig("aciq", bits=2)
    assert of(make(preset="paper"), method="codebook") == gz.QuantizeConfig("codebook", preset="paper")
    kept = make(granularity="tensor", headroom=0.3)
    assert of(kept, method="linear") == gz.QuantizeConfig("linear", granularity="tensor", headroom=0.3)
    assert of(kept, method="codebook").scale_dtype == "float16"
    aciq = make(method="aciq", method_options={"sigma": "std"})
    assert of(aciq, method="auto") == gz.QuantizeConfig("auto") and of(aciq, bits=2).method_options == {"sigma": "std"}


@pytest.mark.parametrize(
    "options",
    [
        {"method": "linear", "headroom": 0.25},
        {"method": "gptq", "preset": "paper"},
        {"modules_to_not_convert": "mid_block", "skip": ["conv_in"]},
    ],
)
def test_what_is_saved_names_all_options_and_is_read_as_the_same(options):
    config = gz.GanzipConfig(bits=3, **options)
    stored = json.loads(json.dumps(config.to_dict()))
    assert set(BEST) < set(stored) and "preset" not in stored
    assert not any("activation" in name for name in stored)  # of versions that know none
    read = gz.GanzipConfig.from_dict(dict(stored))
    assert read.to_dict() == stored and values(read.quantize_config) == values(config.quantize_config)
    assert read.quantize_config.skip == (("conv_in", ".mid_block.") if "skip" in options else ())


def test_folders_that_are_older_than_headroom_have_none():
    stored = gz.GanzipConfig("mse_clip", headroom=0.5).to_dict() | {"layers": {}}
    del stored["headroom"]
    read = gz.GanzipConfig.from_dict(stored)
    assert read.quantize_config.headroom == read.to_dict()["headroom"] == 0


@pytest.mark.parametrize(
    "flags, expected",
    [
        ((), {"method": "auto"} | BEST),
        (("--preset", "paper"), {"method": "aciq"} | PAPER),
        (("--method", "linear", "--last-block"), {"method": "linear"} | PAPER | {"skip_last_block": False}),
        (("--no-last-block",), {"method": "auto"} | BEST | {"skip_last_block": True}),
        (("--headroom", "0.3"), {"method": "auto"} | BEST | {"headroom": 0.3}),
    ],
)
def test_the_command_has_them(call, folder, tmp_path, flags, expected):
    code, _, err = call("compress", folder, tmp_path / "small", *flags)
    stored = json.loads((tmp_path / "small" / "config.json").read_text())["quantization_config"]
    assert code == 0 and {name: stored[name] for name in expected} == expected, err
    assert "skipped" not in err


def test_auto_is_a_codebook_for_few_bits_and_a_search_above():
    for bits in range(2, 9):
        rows = torch.randn(3, 200)
        found, expected = METHODS["auto"]()(rows, bits), METHODS["codebook" if bits <= 3 else "mse_clip"]()(rows, bits)
        assert torch.equal(found.values(), expected.values()) and (found.codebook is None) == (bits > 3)
