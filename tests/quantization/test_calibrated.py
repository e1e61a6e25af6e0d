# SPDX-License-Identifier: Apache-2.0
"""gptq and latent_distill: what they keep, what they gain, and how they fail."""

import copy
import itertools

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.families.gan import latent_calibration
from hf_ganzip.quantization.grid import QuantizedRows
from hf_ganzip.quantization.methods import GPTQ, LatentDistill
from hf_ganzip.quantization.methods import latent_distill as module
from hf_ganzip.quantization.methods.batch_moments import moment_error
from hf_ganzip.quantization.methods.gptq import compensated
from hf_ganzip.quantization.packed import packed_modules

from ..conftest import changed, refused, run, state_of, tiny_biggan, tiny_discriminator, tiny_generator, tiny_unet
from ..test_integration import QUICK
from .conftest import given


def config(method, bits=3, **options):
    return gz.QuantizeConfig(method, bits=bits, granularity="channel", method_options=QUICK[method] | options)


def output_error(model, reference):
    """Relative squared error of images of 64 latents that no calibration has seen."""
    generator = torch.Generator().manual_seed(99)
    z, labels = torch.randn(64, 8, generator=generator), torch.arange(64) % 3
    with torch.no_grad():
        own, expected = (m(z, labels, noise_mode="const", return_dict=False)[0] for m in (model, reference))
    return float((own - expected).square().mean() / expected.square().mean())


@pytest.mark.processor
@pytest.mark.parametrize("method", sorted(QUICK))
class TestBoth:
    @pytest.mark.parametrize("build", [tiny_discriminator, tiny_unet])
    def test_the_model_of_a_seed_is_always_the_same(self, method, build):
        first = build()
        second = copy.deepcopy(first)
        reports = [gz.quantize_(model, config(method)) for model in (first, second)]
        assert torch.equal(run(first), run(second)) and reports[0].to_dict() == reports[1].to_dict()

    def test_other_methods_keep_their_layers(self, method):
        model = tiny_generator()
        plain = copy.deepcopy(model)
        overrides = {"mapping.*": {"method": "linear", "bits": 8}}
        overrides["synthesis.b4.conv1"] = {"method": "outlier_splitting"}
        gz.quantize_(model, gz.QuantizeConfig(method, bits=3, method_options=QUICK[method], overrides=overrides))
        gz.quantize_(plain, gz.QuantizeConfig("codebook", bits=3, overrides=overrides))
        for name in ("mapping.fc0", "mapping.embed", "synthesis.b4.conv1", "synthesis.b8.conv0"):
            same = packed_modules(model)[name].digest() == packed_modules(plain)[name].digest()
            assert same == (name != "synthesis.b8.conv0")

    def test_an_error_leaves_the_model_as_it_was(self, method):
        def broken(model, batch_size, seed):
            yield lambda model: model(torch.zeros(2, 8), torch.zeros(2, dtype=torch.long), return_dict=False)[0]
            raise RuntimeError("no more inputs")

        model = tiny_generator().train()
        model.mapping.fc0.weight.requires_grad_(False)
        with refused(model, "no more inputs", RuntimeError):
            gz.quantize_(model, config(method, base="codebook", inputs=broken))
        assert model.training and model.synthesis.training
        assert not model.mapping.fc0.weight.requires_grad and model.mapping.fc1.weight.requires_grad

    def test_a_model_of_no_family_needs_inputs(self, method):
        model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 5))
        with refused(model, "Sequential has no calibration inputs; give the method `inputs`"):
            gz.quantize_(model, config(method))

    def test_layers_with_spectral_norm_are_folded_in_a_copy(self, method):
        norm = torch.nn.utils.parametrizations.spectral_norm
        model = nn.Sequential(norm(nn.Linear(6, 12)), nn.ReLU(), nn.Linear(12, 5)).eval()
        expected = model(torch.ones(1, 6)).detach()
        gz.quantize_(model, config(method, bits=8, inputs=given(torch.ones(4, 6))))
        assert set(packed_modules(model)) == {"0", "2"}
        torch.testing.assert_close(model(torch.ones(1, 6)), expected, atol=0.02, rtol=0)


def test_requantizing_a_folded_model_tunes_its_folded_weights():
    """Quantizing again folds the layers that are not quantized, too: what was trained belongs to those."""
    model = tiny_biggan(spectral_norm=True, attention_blocks=())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 4:  # orthogonal at first, so that their norm would be 1
                parameter.mul_(3)
    gz.quantize_(model, gz.QuantizeConfig("linear", bits=8, granularity="channel"))
    before = run(model)
    options = QUICK["latent_distill"] | {"learning_rate": 1e-4, "scale_learning_rate": 1e-5}
    again = gz.QuantizeConfig("latent_distill", 8, "channel", method_options=options, requantize=True)
    gz.quantize_(model, again)
    difference = (run(model) - before).square().mean() / before.square().mean()
    assert float(difference) < 1e-2


def test_gptq_of_outputs_that_are_not_finite_is_refused():
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 5))
    with pytest.raises(ValueError, match="gptq: the curvature of 0 is not finite"):
        gz.quantize_(model, config("gptq", inputs=given(torch.full((4, 6), torch.inf))))
    assert not packed_modules(model)


@pytest.mark.parametrize("method", ["mse_clip", "codebook", "linear"])
@pytest.mark.parametrize("rows", [1, 16, 64])
def test_gptq_lowers_the_error_that_the_curvature_measures(method, rows):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 48, generator=generator)
    inputs = torch.randn(500, 12, generator=generator) @ torch.randn(12, 48, generator=generator)
    curvature = (inputs.t() @ inputs).double() / 500 + 0.1 * torch.eye(48, dtype=torch.float64)
    start = gz.quantization.METHODS[method]()(weight.reshape(rows, -1), 3)
    found = compensated(weight, start, 3, curvature)

    def error(quantized: QuantizedRows):
        difference = weight.double() - quantized.values().view(16, 48).double()
        return float((difference @ curvature * difference).sum())

    assert found.codes.shape == start.codes.shape and error(found) < 0.6 * error(start)


class TestLatentDistill:
    @pytest.mark.parametrize(
        "base", ["linear", *(pytest.param(each, marks=pytest.mark.process) for each in ("codebook", "mse_clip"))]
    )
    def test_learning_lowers_the_error_on_unseen_latents(self, base):
        torch.manual_seed(5)
        reference = tiny_generator()
        errors = {}
        for steps in (1, 60):
            model = copy.deepcopy(reference)
            gz.quantize_(model, config("latent_distill", steps=steps, batch_size=16, base=base))
            errors[steps] = output_error(model, reference)
        assert errors[60] < 0.6 * errors[1]

    def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "_CHECK_EVERY", 4)
        step, train, calls, first = module._Run.step, module._Run.train, itertools.count(), []
        monkeypatch.setattr(module._Run, "train", lambda self, title: train(self, title) or first.append(self.first))
        whole = tiny_generator()
        resumed = copy.deepcopy(whole)
        gz.quantize_(whole, config("latent_distill", steps=12))
        options = config("latent_distill", steps=12, checkpoint_dir=str(tmp_path))

        def killed(self, *args):
            if next(calls) == 12 + 6:  # after the mapping network
                raise KeyboardInterrupt
            return step(self, *args)

        monkeypatch.setattr(module._Run, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            gz.quantize_(resumed, options)
        taken = []
        monkeypatch.setattr(module._Run, "step", lambda self, *args: taken.append(1) or step(self, *args))
        gz.quantize_(resumed, options)
        assert len(taken) == 8  # from the checkpoint after step 4
        assert torch.equal(run(resumed), run(whole))
        assert first[:2] == first[-2:] and min(first) > 0, "errors before the first step"

    def test_a_checkpoint_of_another_model_or_other_options_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "_CHECK_EVERY", 2)
        model = tiny_generator()
        again = copy.deepcopy(model)
        options = {"steps": 4, "checkpoint_dir": str(tmp_path)}
        gz.quantize_(model, config("latent_distill", **options))
        changes = [{"steps": 5}, {"feature_weight": 1.0}, {"tune": "none"}, {"scale_learning_rate": 1e-3}]
        others = [(tiny_generator(), {}), *((copy.deepcopy(again), each) for each in (*changes, {"base": "linear"}))]
        for other, change in others:
            with pytest.raises(ValueError, match="belongs to another run; choose another checkpoint_dir"):
                gz.quantize_(other, config("latent_distill", **options | change))
        gz.quantize_(again, config("latent_distill", **options))
        assert torch.equal(run(again), run(model))

    def test_a_run_that_diverges_keeps_the_best_state_and_says_so(self, monkeypatch):
        monkeypatch.setattr(module, "_CHECK_EVERY", 1)
        reference = tiny_generator()
        model, start = copy.deepcopy(reference), copy.deepcopy(reference)
        options = {"steps": 50, "scale_learning_rate": 50.0}
        with pytest.warns(UserWarning, match="diverged at step .* the best state is kept. Lower learning_rate"):
            gz.quantize_(model, config("latent_distill", bits=4, **options))
        gz.quantize_(start, gz.QuantizeConfig("codebook", bits=4, granularity="channel", hadamard=True))
        assert output_error(model, reference) <= 1.01 * output_error(start, reference)

    @pytest.mark.parametrize("tune", ["all", "biases", "none"])
    def test_which_parameters_in_full_precision_are_tuned(self, tune):
        model = tiny_generator()
        before = state_of(model)
        options = QUICK["latent_distill"] | {"steps": 20, "tune": tune}
        gz.quantize_(model, "latent_distill", bits=2, method_options=options, skip_last_block=True)
        tuned = changed(before, model) & dict(model.named_parameters()).keys()
        if tune == "all":
            assert {"synthesis.b16.conv1.weight", "synthesis.b4.const"} <= tuned
        else:
            assert bool(tuned) == (tune == "biases") and all(name.endswith(".bias") for name in tuned)

    def test_the_mapping_network_is_trained_by_itself_first(self):
        """Inputs of one's own know of no styles: they train everything together."""
        torch.manual_seed(5)
        reference, z, labels = tiny_generator(), torch.randn(200, 8), torch.arange(200) % 3
        errors = []
        for inputs in (None, latent_calibration):
            model = copy.deepcopy(reference)
            gz.quantize_(model, config("latent_distill", bits=2, steps=40, inputs=inputs))
            with torch.no_grad():
                errors.append(float((model.mapping(z, labels) - reference.mapping(z, labels)).square().mean()))
        assert errors[0] < 0.8 * errors[1]

    def test_a_method_that_splits_channels_is_no_start(self):
        with pytest.raises(ValueError, match="allowed are methods that look at single rows"):
            gz.quantize_(tiny_generator(), config("latent_distill", base="outlier_splitting"))

    @pytest.mark.parametrize("base", ["mse_clip", "codebook"])
    def test_it_begins_with_the_codes_of_gptq(self, base):
        """With one step of no length, the result is the start; codebooks of small layers hold levels twice, under
        either code.
        """
        start = GPTQ(base=base, **QUICK["gptq"])
        still = {"steps": 1, "learning_rate": 0.0, "scale_learning_rate": 0.0, "base": start}
        learned = tiny_generator()
        plain = copy.deepcopy(learned)
        gz.quantize_(learned, config("latent_distill", **still))
        gz.quantize_(plain, gz.QuantizeConfig(start, bits=3, granularity="channel", hadamard=True))
        for name, layer in packed_modules(plain).items():
            assert torch.equal(packed_modules(learned)[name].weight, layer.weight), name
            torch.testing.assert_close(packed_modules(learned)[name].weight_scale, layer.weight_scale)

    def test_gptq_by_name_gets_the_same_seed_and_inputs(self):
        options = {"seed": 3, "inputs": given(torch.zeros(2, 6)), "progress": False}
        assert LatentDistill(**options)._base() == GPTQ(**options)


@pytest.mark.parametrize(("make", "steps", "rate"), [(tiny_discriminator, 500, 0.01), (tiny_unet, 300, 0.004)])
def test_options_of_training_that_are_not_given_are_those_of_the_kind_of_model(monkeypatch, make, steps, rate):
    class Stop(Exception):
        pass

    def run(options, *rest):
        assert (options.steps, options.learning_rate, options.feature_weight) == (steps, rate, 7.0)
        raise Stop

    monkeypatch.setattr(module, "_Run", run)
    with pytest.raises(Stop):
        gz.quantize_(make(), "latent_distill", bits=4, method_options={"base": "codebook", "feature_weight": 7.0})


# -- the part of the loss that knows of distributions ---------------------------------------------------------------


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 5), (16, 3, 4, 4), (1, 5), (4, 6, 3)])
def test_only_the_distribution_counts(shape):
    batch = normal(*shape)
    assert moment_error(batch.flip(0), batch) < 1e-9
    assert moment_error(0.5 * batch, batch) > 0.1 < moment_error(batch + 1, batch)
    torch.testing.assert_close(
        moment_error(3 * batch, 3 * batch.roll(1, 0) + 3), moment_error(batch, batch.roll(1, 0) + 1)
    )


def test_pictures_that_vary_less_cost_though_their_squared_error_is_the_least():
    """Half of what decides a picture is lost: the mean over it has the least squared error, another draw the right
    distribution.
    """
    known, lost, other = normal(400, 8, seed=0), normal(400, 8, seed=1), normal(400, 8, seed=2)
    target, mean, draw = known + lost, known, known + other
    assert (mean - target).square().mean() < 0.6 * (draw - target).square().mean()
    assert moment_error(mean, target) > 5 * moment_error(draw, target)


def test_what_does_not_vary_has_finite_gradients():
    batch = torch.ones(4, 3, 2, 2, requires_grad=True)
    moment_error(batch, torch.full((4, 3, 2, 2), 2.0)).backward()
    assert torch.isfinite(batch.grad).all() and batch.grad.abs().sum() > 0


@pytest.mark.process
def test_the_weight_of_latent_distill_brings_the_distribution_nearer():
    z, labels = normal(64, 8, seed=9), torch.arange(64) % 3

    def error(weight):
        torch.manual_seed(0)
        model = tiny_generator()
        with torch.no_grad():
            full = model(z, labels, noise_mode="const", return_dict=False)[0]
        options = {"steps": 25, "batch_size": 16, "base": "codebook", "progress": False, "moment_weight": weight}
        gz.quantize_(model, gz.QuantizeConfig("latent_distill", bits=2, granularity="channel", method_options=options))
        with torch.no_grad():
            return float(moment_error(model(z, labels, noise_mode="const", return_dict=False)[0], full))

    assert error(10.0) < error(0.0)
