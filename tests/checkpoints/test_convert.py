# SPDX-License-Identifier: Apache-2.0
"""Every format opens to the official network's values, and says where it came from."""

import hashlib
import json
import logging

import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.checkpoints import CONVERTERS, CheckpointError, DamagedCheckpointError, save_converted
from hf_ganzip.checkpoints.torch_file import read_torch

from ..conftest import changed, state_of
from ..models.golden import close, load_golden, part
from .conftest import FORMATS, PICKLES, notes, save


class TestBigGAN:
    @pytest.mark.processor
    @FORMATS
    @pytest.mark.parametrize("name", ["biggan32_cifar", "biggan64_hier"])
    @torch.no_grad()
    def test_official_values(self, tmp_path, name, zipped):
        _, weights, io = load_golden(name)
        generator = gz.convert(save(tmp_path / "G_ema.pth", part(weights, "G."), zipped))
        discriminator = gz.convert(save(tmp_path / "D.pth", part(weights, "D."), zipped), network="D")
        close(generator(io["z"], io["y"]).sample, io["img"])
        close(discriminator(io["img"], io["y"]).logits, io["logits"])

    def test_the_other_network_is_pointed_to(self, tmp_path):
        _, weights, _ = load_golden("biggan32_cifar")
        path = save(tmp_path / "D.pth", part(weights, "D."))
        with pytest.raises(CheckpointError, match="one file per network"):
            gz.convert(path)
        with pytest.raises(CheckpointError, match="no network 'H'; allowed are G_ema, G, D"):
            gz.convert(path, network="H")

    @torch.no_grad()
    def test_statistics_of_the_batch_norm_variant(self, tmp_path):
        _, weights, io = load_golden("biggan32_cifar")
        state = {
            key.replace(".stored_", ".bn.stored_") if ".bn1." in key or ".bn2." in key else key: value
            for key, value in part(weights, "G.").items()
        }
        state["blocks.0.0.bn1.bn.accumulation_counter"] = torch.zeros(1)
        close(gz.convert(save(tmp_path / "G.pth", state))(io["z"], io["y"]).sample, io["img"])

    @torch.no_grad()
    def test_feature_quantizers(self, tmp_path):
        """FQ-GAN: the codebook is blocks.i.1, transposed, and attention moves to blocks.i.2."""
        _, weights, io = load_golden("biggan64_hier")
        state = {key.replace("blocks.0.1.", "blocks.0.2."): value for key, value in part(weights, "D.").items()}
        embed = torch.randn(8, 16)
        state |= {
            "blocks.0.1.embed": embed,
            "blocks.0.1.embed_avg": embed * 2,
            "blocks.0.1.cluster_size": torch.ones(16),
        }
        found = gz.convert(save(tmp_path / "D.pth", state), network="D")
        output = found(io["img"], io["y"])
        close(output.logits, io["logits"])  # continuous features go on
        quantizer = found.codebooks["blocks/0/0"]
        assert torch.equal(quantizer.embed, embed.T) and torch.equal(quantizer.embed_avg, embed.T * 2)
        assert output.quantization_loss.shape == (4,) and output.quantization_loss.min() > 0
        found.save_pretrained(tmp_path / "model")
        restored = gz.load_model(tmp_path / "model")
        again = restored(io["img"], io["y"])
        assert torch.equal(again.quantization_loss, output.quantization_loss)
        assert torch.equal(again.logits, output.logits)

    def test_twin_classifiers(self, tmp_path):
        own = gz.BigGANDiscriminator(resolution=32, channels=(8, 8, 8, 8), num_classes=4, head="tac").eval()
        found = gz.convert(save(tmp_path / "D.pth", own.state_dict()), network="D")
        images = torch.randn(2, 3, 32, 32)
        for first, second in zip(found(images).to_tuple(), own(images).to_tuple()):
            assert torch.equal(first, second)


class TestBigGANDeep:
    def folder(self, path, zipped=True, **changes):
        options, weights, io = load_golden("biggan_deep_64")
        (path / "config.json").write_text(json.dumps(options["config"] | changes))
        save(path / "pytorch_model.bin", weights, zipped)
        return path, io

    @pytest.mark.processor
    @FORMATS
    @torch.no_grad()
    def test_official_values(self, tmp_path, zipped):
        folder, io = self.folder(tmp_path, zipped)
        generator = gz.convert(folder)
        for truncation in (0.4, 0.43, 1.0):
            close(generator(io["z"], io["c"], truncation_psi=truncation).sample, io[f"img_trunc_{truncation}"])

    def test_the_file_alone_is_not_enough(self, tmp_path):
        folder, _ = self.folder(tmp_path)
        with pytest.raises(CheckpointError, match="give the folder"):
            gz.convert(folder / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="no network 'D'"):
            gz.convert(folder, network="D")

    def test_hub_ids_may_have_dots(self, tmp_path, monkeypatch):
        folder, _ = self.folder(tmp_path)
        asked = []
        monkeypatch.setattr(
            "hf_ganzip.core.hub.snapshot_download", lambda name, **_: asked.append(name) or str(folder)
        )
        gz.convert("me/biggan-deep-1.0")
        assert asked == ["me/biggan-deep-1.0"]
        with pytest.raises(FileNotFoundError):
            gz.convert("me/550000.pt")

    @pytest.mark.parametrize("change", [{"channel_width": 16}, {"num_classes": 7}, {"layers": [[False, 16, 16]]}])
    def test_a_config_that_lies_is_refused(self, tmp_path, change):
        folder, _ = self.folder(tmp_path, **change)
        with pytest.raises(DamagedCheckpointError, match="do not fit|is missing|not expected"):
            gz.convert(folder)


class TestUGATIT:
    @pytest.mark.processor
    @FORMATS
    @torch.no_grad()
    def test_official_values(self, tmp_path, zipped):
        _, weights, io = load_golden("ugatit_light")
        checkpoint = {"genA2B": part(weights, "G."), "disLB": part(weights, "DL."), "disGB": part(weights, "DG.")}
        path = save(tmp_path / "params_latest.pt", checkpoint, zipped)
        model = gz.convert(path)
        (note,) = notes(model)
        assert "resolution is set to 256" in note
        found = model(io["x"])
        close(found.sample, io["img"])
        close(found.cam_logits, io["cam"])
        close(found.heatmap, io["heatmap"])
        for network, name, logits in (("disLB", "local", "local"), ("D", "global", "global_")):
            found = gz.convert(path, network=network)(io["xd"])
            for value, key in (("logits", logits), ("cam_logits", f"{name}_cam"), ("heatmap", f"{name}_heatmap")):
                # spectral norms were not iterated: values reach 1e10, so the tolerance is relative to them
                close(found[value], io[key], float(io[key].abs().max()) * 1e-5)
        with pytest.raises(CheckpointError, match="no network 'genB2A'; it has genA2B, disGB, disLB"):
            gz.convert(path, network="genB2A")

    def test_the_full_model_knows_its_size(self, tmp_path):
        own = gz.UGATITGenerator(resolution=16, base_channels=4, num_blocks=1, light=False)
        found = gz.convert(save(tmp_path / "x.pt", {"genB2A": own.state_dict()}), network="genB2A")
        assert (found.config.resolution, found.config.light, found.config.num_blocks) == (16, False, 1)
        assert not notes(found)


class TestSource:
    def test_origin_survives_saving_and_stands_on_the_card(self, tmp_path, caplog):
        path = PICKLES / "stylegan3_t.pkl"
        model = gz.convert(path, url="https://example.org/stylegan3_t.pkl")
        save_converted(model, tmp_path)
        with caplog.at_level(logging.WARNING):
            restored = gz.load_model(tmp_path)
        source = restored.config["_ganzip_source"]
        assert not caplog.records and not changed(state_of(model), restored)
        assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert source["format"] == "stylegan-torch" and source["network"] == "G_ema"
        card = (tmp_path / "README.md").read_text()
        assert source["sha256"] in card and "https://example.org/stylegan3_t.pkl" in card

    def test_nothing_is_labelled_more_freely_than_its_source(self, tmp_path):
        save_converted(gz.convert(PICKLES / "stylegan3_t.pkl"), tmp_path)
        header = (tmp_path / "README.md").read_text().split("---")[1]
        assert "license: other\nlicense_name: nvidia-source-code-license-nc\n" in header
        save_converted(gz.convert(PICKLES / "stylegan3_t.pkl", license="cc-by-nc-4.0"), tmp_path)
        assert "license: cc-by-nc-4.0" in (tmp_path / "README.md").read_text()


def test_unknown_content_is_described(tmp_path):
    path = save(tmp_path / "x.pt", {"epoch": 3, "weights": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="a dict with epoch, weights; known formats are stylegan-torch"):
        gz.convert(path)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        gz.convert(tmp_path / "nothing.pkl")


def test_every_converter_says_whose_licence_holds():
    assert all(converter.LICENSE for converter in CONVERTERS.values())


@FORMATS
def test_torch_files_are_read_as_torch_reads_them(tmp_path, zipped):
    data = {
        "kinds": [torch.zeros(2).to(getattr(torch, kind)) for kind in "half bfloat16 double int8 bool".split()],
        "view": torch.arange(12.0).view(3, 4)[::2, 1:3],
        "shared": (base := torch.randn(6))[:3],
        "same": base,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "plain": [1, -(2**40), 2.5, "text", b"bytes", None, True, (1, 2), {"a": 1}],
        "state": torch.nn.BatchNorm1d(3).state_dict(),
    }
    path = save(tmp_path / "x.pt", data, zipped)
    found, expected = read_torch(path.read_bytes()), torch.load(path, weights_only=True)

    def same(a, b):
        if isinstance(b, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b)
        elif isinstance(b, dict):
            assert list(a) == list(b)
            same(list(a.values()), list(b.values()))
        elif isinstance(b, (list, tuple)):
            assert type(a) is type(b) and len(a) == len(b)
            for x, y in zip(a, b):
                same(x, y)
        else:
            assert a == b

    same(found, expected)
