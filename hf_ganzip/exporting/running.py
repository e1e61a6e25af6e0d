# SPDX-License-Identifier: Apache-2.0
"""Exported models, run by ONNX Runtime and called like the models that they were."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ..core.hub import HUB_OPTIONS, model_folder
from ..models.base import (
    GeneratorOutput,
    RandomSource,
    TranslationOutput,
    check_latents,
    check_noise_mode,
    check_sources,
    class_named,
    one_hot_labels,
)
from .exporter import CONFIG, FILE
from .graph import part
from .libraries import Session


_FILES = ("*.json", "*.onnx", "*.onnx.data")
_NO_OPTIONS = ("export", "quantization_config", "feature_quantizers")


class OnnxModel(nn.Module):
    """An exported model; called with tensors by the names of its inputs, it gives a tuple of tensors.

    ``config`` is that of the model, and ``export``: how it was exported. It has no weights that torch knows of.

    Args:
        folder: That :func:`.export` wrote.
        providers: Execution providers as onnxruntime names them, in order; None: the CPU.
        threads: Of one operator; None: as onnxruntime chooses.

    Raises:
        FileNotFoundError: A folder that is no export.
        ValueError: A damaged one, that of another kind of model, or a provider that is not here.
        ImportError: onnxruntime is missing.
    """

    _kind = ""  # what was exported: a class, or more in words; "": any

    def __init__(self, folder: str | Path, *, providers: Sequence[Any] | None = None, threads: int | None = None):
        super().__init__()
        self.folder = Path(folder)
        self.config = FrozenDict(read_config(self.folder))
        self.exported = self.config["export"]
        if not self._takes(name := self.exported["class_name"]):
            raise ValueError(f"{folder} is an exported {name}; allowed for {type(self).__name__} are {self._kind}.")
        self._options: dict[str, Any] = {"providers": providers, "threads": threads}
        self._options["integer"] = bool(self.exported["activations"])
        self.session = Session(self.folder / FILE, **self._options)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        providers: Sequence[Any] | None = None,
        threads: int | None = None,
        **hub_options: Any,
    ) -> OnnxModel:
        """Open a folder or a Hub id; ``hub_options`` as for :func:`.model_folder`."""
        unknown = sorted(set(hub_options) - set(HUB_OPTIONS))
        if unknown:
            raise TypeError(f"{cls.__name__} has no option {unknown[0]!r}; options of the Hub are {HUB_OPTIONS}.")
        folder = model_folder(pretrained_model_name_or_path, patterns=_FILES, **hub_options)
        return cls(folder, providers=providers, threads=threads)

    @property
    def device(self) -> torch.device:
        """Where inputs are expected and outputs come from: the CPU, whatever the provider."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of inputs and outputs."""
        return torch.float32

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        return self._run(self.session, inputs)

    def extra_repr(self) -> str:
        return f"{self.exported['class_name']}, {self.folder / FILE}"

    def _takes(self, name: str) -> bool:
        """Whether exports of this class are called so."""
        return self._kind in ("", name)

    def _run(
        self, session: Session, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None
    ) -> tuple[Tensor, ...]:
        feeds = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in inputs.items()}
        return tuple(map(torch.from_numpy, session(feeds, outputs)))


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of an export.

    Raises:
        FileNotFoundError: The folder is no export.
        ValueError: The file is damaged.
    """
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if not (folder / FILE).is_file() or "export" not in config:
            raise FileNotFoundError(
                f"{folder} is no export: it has no {FILE} with the {CONFIG} that belongs to it. hf-ganzip export "
                f"MODEL {folder} makes one."
            )
        config["export"]["class_name"], config["export"]["activations"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error!r}. Export the model again.") from error
    return config


class OnnxGenerator(OnnxModel):
    """An exported generator of images from latents, for :class:`.GANPipeline` and to be called like our generators.

    Args:
        folder: As for :class:`OnnxModel`, as are the others.
    """

    _kind = "generators of images from latents"
    _shape: Any  # what was exported, without weights: it knows its latents and noise

    def __new__(cls, folder: str | Path, **options: Any) -> Any:
        config = read_config(Path(folder))
        styled = cls is OnnxGenerator and hasattr(class_named(config["export"]["class_name"]), "synthesize")
        return super().__new__(OnnxStyleGenerator if styled else cls)

    def __init__(self, folder: str | Path, **options: Any):
        super().__init__(folder, **options)
        cls: Any = class_named(self.exported["class_name"])
        names = [name for name in self.config if not name.startswith("_") and name not in _NO_OPTIONS]
        with torch.device("meta"):  # in __dict__, as it is no part of this module
            self.__dict__["_shape"] = cls(**{name: self.config[name] for name in names})

    @property
    def truncates_only_latents(self) -> bool:
        """Whether calls do not use ``truncation_psi``."""
        return self._shape.truncates_only_latents or self.exported["truncation_psi"] is not None

    def draw_latents(
        self, count: int, generator: RandomSource = None, device: Any = None, truncation_psi: float = 1.0
    ) -> Tensor:
        """As of the model that was exported."""
        return self._shape.draw_latents(count, generator, device, truncation_psi)

    def forward(  # type: ignore[override]  # called like what was exported
        self,
        z: Tensor,
        class_labels: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        noise_mode: str = "random",
        generator: RandomSource = None,
        return_dict: bool = True,
    ) -> GeneratorOutput | tuple[Tensor]:
        """Generate images; arguments as of the model that was exported.

        Raises:
            ValueError: A wrong shape, or a value that the export has fixed to another.
        """
        check_noise_mode(noise_mode)
        (image,) = self._run(self.session, self._inputs(z, class_labels), ["sample"])
        return GeneratorOutput(sample=image) if return_dict else (image,)

    def _inputs(self, z: Tensor, class_labels: Tensor | None) -> dict[str, Tensor]:
        check_latents(z, self.config["z_dim"])
        inputs = {"z": z.float()}
        label = self.exported["class_label"]
        if label is None:
            rows = one_hot_labels(class_labels, self.config["num_classes"], len(z), torch.float32)
            return inputs if rows is None else inputs | {"class_labels": rows}
        if class_labels is not None and not bool((class_labels == label).all()):
            raise ValueError(
                f"class_labels: {self.folder} was exported with class_label={label}; allowed is that one."
            )
        return inputs

    def _takes(self, name: str) -> bool:
        return hasattr(class_named(name), "draw_latents")


class OnnxStyleGenerator(OnnxGenerator):
    """An exported StyleGAN: its mapping and synthesis run by themselves, too; each part opens when it is needed."""

    def __init__(self, folder: str | Path, **options: Any):
        super().__init__(folder, **options)
        self._parts: dict[str, Session] = {}

    @property
    def num_ws(self) -> int:
        """Number of styles."""
        return self._shape.num_ws

    def forward(  # type: ignore[override]  # called like what was exported
        self,
        z: Tensor,
        class_labels: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        generator: RandomSource = None,
        return_dict: bool = True,
    ) -> GeneratorOutput | tuple[Tensor]:
        """As :meth:`.StyleGeneratorMixin.forward`.

        Raises:
            ValueError: As there, or a value that the export has fixed to another.
        """
        inputs = self._inputs(z, class_labels) | self._truncation(truncation_psi, truncation_cutoff)
        inputs |= self._noise(len(z), noise_mode, generator)
        (image,) = self._run(self.session, inputs, ["sample"])
        return GeneratorOutput(sample=image) if return_dict else (image,)

    def mapping(
        self,
        z: Tensor,
        class_labels: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Styles (B, num_ws, w_dim), as :meth:`.MappingNetwork.forward`."""
        inputs = self._inputs(z, class_labels) | self._truncation(truncation_psi, truncation_cutoff)
        return self._run(self._part("mapping", list(inputs), "ws"), inputs)[0]

    def synthesize(self, ws: Tensor, *, noise_mode: str = "random", generator: RandomSource = None) -> Tensor:
        """Styles to images, as :meth:`.StyleGeneratorMixin.synthesize`."""
        noise = self._noise(len(ws), noise_mode, generator)
        inputs = ["ws", *(["noise"] if self.exported["noise"] == "input" else [])]
        return self._run(self._part("synthesis", inputs, "sample"), {"ws": ws.float(), **noise})[0]

    def _part(self, name: str, inputs: Sequence[str], output: str) -> Session:
        if name not in self._parts:
            self._parts[name] = Session(part(self.folder / FILE, inputs, [output]), **self._options)
        return self._parts[name]

    def _truncation(self, psi: float, cutoff: int | None) -> dict[str, Tensor]:
        fixed = self.exported["truncation_psi"]
        if fixed is not None:
            if psi not in (1, fixed) or cutoff is not None:
                raise ValueError(
                    f"truncation_psi is {psi}, truncation_cutoff {cutoff}; {self.folder} was exported with "
                    f"truncation_psi={fixed}."
                )
            return {}
        if cutoff is not None and cutoff < 0:
            raise ValueError(f"truncation_cutoff is {cutoff}; allowed are 0 and more, and None for all styles.")
        values = torch.full((self.num_ws,), float(psi))
        values[self.num_ws if cutoff is None else cutoff :] = 1
        return {"truncation_psi": values}

    def _noise(self, count: int, mode: str, generator: RandomSource) -> dict[str, Tensor]:
        check_noise_mode(mode)
        check_sources(generator, count)
        exported = self.exported["noise"]
        if exported == "input":
            shapes = [each.shape for name, each in self._shape.named_buffers() if name.endswith("noise_const")]
            if mode == "const":
                return {}
            if mode == "none":
                return {"noise": torch.zeros(count, sum(shape.numel() for shape in shapes))}
            drawn = [randn_tensor((count, 1, *shape), generator=generator).flatten(1) for shape in shapes]
            return {"noise": torch.cat(drawn, dim=1)}
        if exported is not None and mode != exported:
            raise ValueError(
                f"noise_mode is {mode!r}; {self.folder} was exported with noise={exported!r}, which is allowed. "
                "Export with noise='input' for the others."
            )
        return {}


class OnnxTranslator(OnnxModel):
    """An exported network from images to images, for :class:`.ImageTranslationPipeline`."""

    _kind = "UGATITGenerator"

    def forward(  # type: ignore[override]  # called like what was exported
        self, images: Tensor, return_dict: bool = True
    ) -> TranslationOutput | tuple[Tensor, ...]:
        """As :meth:`.UGATITGenerator.forward`."""
        found = self._run(self.session, {"images": images.float()})
        return TranslationOutput(*found) if return_dict else found


class OnnxUNet2DModel(OnnxModel):
    """An exported UNet2DModel, for diffusers' ``DDPMPipeline`` and ``DDIMPipeline``."""

    _kind = "UNet2DModel"

    def forward(  # type: ignore[override]  # called like what was exported
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """As ``UNet2DModel.forward``: a prediction (B, C, H, W) for noisy images (B, C, H, W)."""
        steps = torch.as_tensor(timestep).to(torch.int64).flatten().expand(len(sample))
        inputs = {"sample": sample.float(), "timestep": steps}
        if class_labels is not None:
            inputs["class_labels"] = class_labels
        (found,) = self._run(self.session, inputs)
        return UNet2DOutput(sample=found) if return_dict else (found,)
