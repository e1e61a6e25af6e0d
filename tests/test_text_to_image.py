# SPDX-License-Identifier: Apache-2.0
"""Text to image as users have it: whole pipelines, compressed, saved, loaded by plain diffusers, cast, offloaded,
adapted.
"""

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict

import hf_ganzip as gz
from hf_ganzip.core.components import all_networks, network_of
from hf_ganzip.families import recorded_inputs
from hf_ganzip.quantization.packed import packed_modules

from .tiny_pipelines import PIPELINES, build, generate


CPU = torch.device("cpu")
IMAGE_TO_IMAGE = {
    "stable diffusion": "StableDiffusionImg2ImgPipeline",
    "stable diffusion xl": "StableDiffusionXLImg2ImgPipeline",
    "stable diffusion 3": "StableDiffusion3Img2ImgPipeline",
    "flux": "FluxImg2ImgPipeline",
    "pixart": "PixArtSigmaPipeline",  # it has no other that takes the same parts
}
# `dtype` is unknown to older diffusers.
old_name = pytest.mark.filterwarnings("ignore:.torch_dtype. is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pipelines by name, saved in full precision and with their denoiser packed."""
    found = {}
    for name in PIPELINES:
        folder, pipe = tmp_path_factory.mktemp("pipelines"), build(name)
        pipe.save_pretrained(folder / "full")
        gz.quantize_(pipe, bits=4)
        pipe.save_pretrained(folder / "small")
        found[name] = folder
    return found


@pytest.fixture(params=PIPELINES)
def name(request):
    return request.param


def quick(*names):
    """All pipelines; of these `make test` takes the named ones."""
    chosen = [pytest.param(name, marks=() if name in names else pytest.mark.process) for name in PIPELINES]
    return pytest.mark.parametrize("name", chosen, indirect=True)


@pytest.fixture
def full(name, folders):
    return folders[name] / "full"


@pytest.fixture
def small(name, folders):
    return folders[name] / "small"


def test_the_denoiser_is_packed_saved_and_restored(name, small, tmp_path):
    pipe = build(name)
    plain = generate(pipe)
    (component,) = report = gz.quantize_(pipe, bits=4)
    assert component in ("unet", "transformer") and report.bytes_after < report.bytes_before / 2
    expected = generate(pipe)
    assert (expected != plain).any()
    restored = DiffusionPipeline.from_pretrained(small)
    assert type(restored) is type(pipe) and (generate(restored) == expected).all()
    packed = {each for each, network in all_networks(restored).items() if packed_modules(network)}
    assert packed == {component}
    assert all(layer.startswith(f"{component}.") for layer in packed_modules(restored))
    gz.dequantize_(restored)
    assert (generate(restored) == expected).all()
    restored.save_pretrained(tmp_path)
    assert (generate(DiffusionPipeline.from_pretrained(tmp_path)) == expected).all()


@quick("flux")
def test_every_network_is_packed_by_the_command_as_in_python(name, full, tmp_path, done):
    pipe = build(name)
    components = list(all_networks(pipe))
    report = gz.quantize_(pipe, bits=6, components=components)
    assert list(report) == components and len(components) == len(report) >= 3
    flags = [flag for component in components for flag in ("--component", component)]
    out = done("compress", full, tmp_path / "out", "--bits", 6, *flags)
    assert all(f"--- {component}\n" in out for component in components)
    restored = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert (generate(restored) == generate(pipe)).all()
    assert all(packed_modules(network) for network in all_networks(restored).values())


@quick("flux")
def test_calibrated_by_prompts(name):
    pipe = build(name)
    inputs = recorded_inputs(network_of(pipe), lambda: generate(pipe))
    report = gz.sensitivity(pipe, (3,), num_samples=2, inputs=inputs, progress=False)
    assert max(layer.errors[3] for layer in report.layers) > 0
    options = {"batches": 2, "progress": False, "inputs": inputs}
    plain = generate(pipe)
    gz.quantize_(pipe, "gptq", bits=8, granularity="channel", method_options=options)
    assert 0 < abs(generate(pipe) - plain).max() < 0.1


@old_name
def test_half_precision(small, tmp_path):
    """Packed weights, unpacked ones, and the folder of either give the same images."""
    pipe, unpacked = (DiffusionPipeline.from_pretrained(small, torch_dtype=torch.bfloat16) for _ in range(2))
    assert {network.dtype for network in all_networks(pipe).values()} == {torch.bfloat16}
    expected = generate(pipe)
    gz.dequantize_(unpacked)
    pipe.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert (generate(unpacked) == expected).all() and (generate(again) == expected).all()
    assert generate(pipe.to(torch.float32)).dtype == expected.dtype and network_of(pipe).dtype == torch.float32


@quick("flux", "stable diffusion xl")
@old_name
def test_packed_while_loading_in_half_precision(full, tmp_path):
    from diffusers.quantizers import PipelineQuantizationConfig

    components = ["transformer", "unet", "text_encoder"]
    options = {"quant_backend": "hf_ganzip", "quant_kwargs": {"bits": 4}}
    config = PipelineQuantizationConfig(**options, components_to_quantize=components)
    pipe = DiffusionPipeline.from_pretrained(full, quantization_config=config, torch_dtype=torch.bfloat16)
    assert packed_modules(network_of(pipe)) and packed_modules(pipe.text_encoder) and not packed_modules(pipe.vae)
    pipe.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert (generate(again) == generate(pipe)).all()


LEAVES, BLOCKS = {"offload_type": "leaf_level"}, {"offload_type": "block_level", "num_blocks_per_group": 1}


@pytest.mark.parametrize(
    "compute, offload",
    [
        pytest.param("packed", LEAVES, id="packed-leaves"),
        pytest.param("packed", BLOCKS, id="packed-blocks", marks=pytest.mark.process),
        pytest.param("dequantized", LEAVES, id="dequantized-leaves", marks=pytest.mark.process),
    ],
)
def test_group_offload(small, compute, offload):
    pipe = DiffusionPipeline.from_pretrained(small)
    gz.set_compute_(pipe, compute)
    expected = generate(pipe)
    pipe.enable_group_offload(CPU, **offload)
    for _ in range(2):
        assert (generate(pipe) == expected).all()


def adapted(denoiser):
    """The denoiser with random adapters: of diffusers where the class takes some, else of peft."""
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    if not hasattr(denoiser, "add_adapter"):
        return get_peft_model(denoiser, config)
    denoiser.add_adapter(config)
    return denoiser


def test_an_adapter_is_loaded_into_the_packed_denoiser(small, tmp_path):
    pipe, again = DiffusionPipeline.from_pretrained(small), DiffusionPipeline.from_pretrained(small)
    plain = generate(pipe)
    model = adapted(network_of(pipe))
    expected = generate(pipe)
    assert (expected != plain).any() and packed_modules(network_of(pipe))
    if isinstance(model, PeftModel):
        model.save_pretrained(tmp_path)
        PeftModel.from_pretrained(network_of(again), tmp_path)
    else:
        part = "unet" if hasattr(pipe, "unet") else "transformer"
        layers = {f"{part}_lora_layers": get_peft_model_state_dict(model)}
        pipe.save_lora_weights(tmp_path, **layers)
        again.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    assert (generate(again) == expected).all()
    if not isinstance(model, PeftModel):
        again.unload_lora_weights()
        assert (generate(again) == plain).all()


@old_name
def test_another_pipeline_of_the_same_parts(name, small):
    pipe = DiffusionPipeline.from_pretrained(small)
    cls = getattr(diffusers, IMAGE_TO_IMAGE[name])
    other = cls.from_pipe(pipe)
    assert network_of(other) is network_of(pipe) and packed_modules(network_of(other))
    given = {"image": torch.zeros(1, 3, 16, 16), "strength": 0.9} if "Img2Img" in IMAGE_TO_IMAGE[name] else {}
    assert generate(other, **given).shape == (1, 16, 16, 3)
    assert given or (generate(other) == generate(pipe)).all()
    assert (
        cls.from_pipe(pipe, torch_dtype=torch.float16).dtype == pipe.dtype == torch.float16
    )  # they share their parts


def test_adapters_of_flux_for_fewer_or_more_inputs(folders, tmp_path):
    """diffusers pads the first, and replaces the layer for the second, those of control, by one that is not packed."""
    pipe = DiffusionPipeline.from_pretrained(folders["flux"] / "small")
    plain, generator = generate(pipe), torch.Generator().manual_seed(0)
    for name, width in (("transformer_blocks.0.attn.to_q", 8), ("x_embedder", 32)):
        layers = {f"{name}.lora_A.weight": torch.randn(2, width, generator=generator)}
        layers[f"{name}.lora_B.weight"] = torch.randn(32, 2, generator=generator)
        pipe.save_lora_weights(tmp_path / name, transformer_lora_layers=layers)
        pipe.load_lora_weights(tmp_path / name, weight_name="pytorch_lora_weights.safetensors")
        if name != "x_embedder":
            assert (generate(pipe) != plain).any()
            pipe.unload_lora_weights()
            assert (generate(pipe) == plain).all()
    layer = pipe.transformer.x_embedder
    assert layer.in_features == pipe.transformer.config.in_channels == 32 and not packed_modules(layer)
