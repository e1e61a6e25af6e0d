# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of StyleGANs, by NVIDIA's torch and TensorFlow and by rosinality, as the official networks."""

import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.checkpoints import CheckpointError

from ..conftest import changed, state_of
from ..models.golden import close, load_golden, part
from . import foreign
from .conftest import FORMATS, PICKLES, notes, save


class TestOfficialPickles:
    @pytest.mark.parametrize(
        "file, options",
        [
            ("stylegan2_small_skip.pkl", {"noise_mode": "const"}),
            ("stylegan2_small_skip.tf.pkl", {"noise_mode": "const"}),
            ("stylegan3_t.pkl", {}),
        ],
    )
    @torch.no_grad()
    def test_official_values(self, file, options):
        _, _, io = load_golden(file.partition(".")[0])
        generator = gz.convert(PICKLES / file)
        close(generator(io["z"], **options).sample, io["img"])
        close(generator(io["z"], truncation_psi=0.7, **options).sample, io["img_trunc"])

    @torch.no_grad()
    def test_discriminator_and_raw_generator_on_request(self):
        _, _, io = load_golden("stylegan2_small_skip")
        path = PICKLES / "stylegan2_small_skip.pkl"
        close(gz.convert(path, network="D")(io["img"]).logits, io["logits"])
        raw = gz.convert(path, network="G")(io["z"], noise_mode="const").sample
        assert not torch.allclose(raw, io["img"], atol=1e-2)

    def test_unknown_network(self):
        with pytest.raises(CheckpointError, match="no network 'H'; it has G_ema, G, D"):
            gz.convert(PICKLES / "stylegan2_small_skip.pkl", network="H")


class TestTensorFlow:
    def file(self, folder, kwargs):
        """A pickle of the reference generator with these options."""
        return foreign.save_tensorflow(folder / "network.pkl", [(*foreign.tensorflow_stylegan2(), kwargs)] * 3)

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    @torch.no_grad()
    def test_stylegan2_of_every_pickle_protocol(self, tmp_path, protocol):
        _, weights, io = load_golden("stylegan2_small_skip")
        kwargs = {"resample_kernel": [1, 3, 3, 1], "architecture": "skip"}
        generator = (*foreign.tensorflow_stylegan2(), kwargs)
        discriminator = (foreign.tensorflow_discriminator(part(weights, "D.")), {}, kwargs)
        path = tmp_path / "network.pkl"
        foreign.save_tensorflow(path, [generator, discriminator, generator], protocol)
        close(gz.convert(path)(io["z"], noise_mode="const").sample, io["img"])
        close(gz.convert(path, network="D")(io["img"]).logits, io["logits"])

    @torch.no_grad()
    def test_extra_keywords_are_ignored_with_a_note(self, tmp_path):
        """The comparison models of the ADA paper: zCR, spectral norm, auxiliary rotation, pixel-wise attention."""
        kwargs = {"zcr_lambda": 10, "auxiliary_rotation": True, "use_spectral_norm": False}
        generator, (_, _, io) = gz.convert(self.file(tmp_path, kwargs)), load_golden("stylegan2_small_skip")
        close(generator(io["z"], noise_mode="const").sample, io["img"])
        (note,) = notes(generator)
        assert "auxiliary_rotation, use_spectral_norm, zcr_lambda" in note

    @pytest.mark.parametrize(
        "option, value",
        [
            ("mapping_lrmul", 1.0),
            ("normalize_latents", False),
            ("nonlinearity", "relu"),
            ("mapping_nonlinearity", "relu"),
            ("use_noise", False),
            ("use_wscale", False),
            ("use_styles", False),
            ("use_pixel_norm", True),
            ("mbstd_num_features", 2),
            ("use_noise", [True]),
        ],
    )
    def test_options_that_change_the_values_are_refused(self, tmp_path, option, value):
        with pytest.raises(CheckpointError, match=f"{option} is .*, supported is"):
            gz.convert(self.file(tmp_path, {option: value}))

    def test_options_that_say_what_these_networks_do_are_not_noted(self, tmp_path):
        kwargs = {"mapping_lrmul": 0.01, "normalize_latents": True, "nonlinearity": "lrelu", "num_fp16_res": 4}
        assert not notes(gz.convert(self.file(tmp_path, kwargs)))

    @pytest.mark.parametrize("resolution, channels", [(16, (12, 8, 8)), (128, (8, 8, 8, 6, 6, 4))])
    @torch.no_grad()
    def test_stylegan_computes_what_the_graph_computes(self, tmp_path, resolution, channels):
        main, components = foreign.random_stylegan(resolution, channels, w_dim=16, layers=3)
        path = foreign.save_tensorflow(tmp_path / "karras2019.pkl", [(main, components, {})] * 3)
        generator = gz.convert(path)
        assert isinstance(generator, gz.StyleGANGenerator) and generator.config.resolution == resolution
        z = torch.randn(2, 16)
        expected = foreign.tensorflow_stylegan_images(main, components, z).float()
        found = generator(z, noise_mode="const").sample
        assert float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt()) < 1e-4
        assert torch.equal(generator.mapping.w_avg, torch.tensor(main["dlatent_avg"]))

    @torch.no_grad()
    def test_configurations_b_to_d_are_stylegan2_orig(self, tmp_path):
        """They have an image output at the last resolution only, under another name."""
        main, components = foreign.tensorflow_stylegan2()
        components["synthesis"] = {
            name.replace("ToRGB", "ToRGB_lod0"): value
            for name, value in components["synthesis"].items()
            if "ToRGB" not in name or name.startswith("32x32")
        }
        found = gz.convert(foreign.save_tensorflow(tmp_path / "b.pkl", [(main, components, {})] * 3))
        expected = gz.convert(PICKLES / "stylegan2_small_skip.tf.pkl")
        for size in (4, 8, 16):
            for tensor in expected.get_submodule(f"synthesis.b{size}.torgb").parameters():
                tensor.zero_()
        z = torch.randn(2, 32)
        assert found.config.architecture == "orig"
        close(found(z, noise_mode="const").sample, expected(z, noise_mode="const").sample)


class TestRosinality:
    @FORMATS
    @torch.no_grad()
    def test_official_values(self, tmp_path, zipped):
        _, weights, io = load_golden("stylegan2_small_skip")
        generator = part(weights, "G.")
        checkpoint = {
            "g_ema": foreign.rosinality_generator(generator),
            "d": foreign.rosinality_discriminator(part(weights, "D."), 32),
            "latent_avg": generator["mapping.w_avg"],
        }
        path = save(tmp_path / "550000.pt", checkpoint, zipped)
        found = gz.convert(path)
        close(found(io["z"], noise_mode="const").sample, io["img"])
        close(found(io["z"], noise_mode="const", truncation_psi=0.7).sample, io["img_trunc"])
        close(gz.convert(path, network="D")(io["img"]).logits, io["logits"])

    def test_a_missing_mean_style_and_missing_noise_are_noted(self, tmp_path):
        _, weights, _ = load_golden("stylegan2_small_skip")
        generator = part(weights, "G.")
        state = foreign.rosinality_generator(generator)
        path = save(tmp_path / "g.pt", {"g_ema": state})
        assert "latent_avg" in notes(gz.convert(path))[0]
        with pytest.raises(CheckpointError, match="no network 'D'; it has G_ema"):
            gz.convert(path, network="D")
        checkpoint = {"g_ema": state, "latent_avg": generator["mapping.w_avg"]}
        assert not notes(gz.convert(save(tmp_path / "a.pt", checkpoint)))
        checkpoint["g_ema"] = {name: value for name, value in state.items() if not name.startswith("noises.")}
        first, second = (gz.convert(save(tmp_path / name, checkpoint)) for name in ("b.pt", "c.pt"))
        (note,) = notes(first)
        assert "stored noise of 7 layers" in note and not changed(state_of(first), second)
