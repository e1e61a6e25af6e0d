# SPDX-License-Identifier: Apache-2.0
"""FeatureQuantizer against other vector quantizers, as ratios within one run.

`layer`: forward and backward on features 64 x 256 x 16 x 16 with 1024 codes: vector-quantize-pytorch
(if installed) and the formulation of the released FQ-GAN code (one-hot matrices) / ours. `memory`: the
same as peak MiB above the features. `step`: a training step of BigGAN for CIFAR-10 with the published
codebooks / without, with all positions matched, and a random quarter of them in every pass.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn


sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._memory import peak_above
from benchmarks._timing import conditions, interleaved, parser, ratio, report
from hf_ganzip.models import BigGANDiscriminator, BigGANGenerator
from hf_ganzip.training.feature_quantization import FQ_PRESETS, add_feature_quantizers, phase
from hf_ganzip.training.feature_quantizer import FeatureQuantizer
from hf_ganzip.training.losses import LOSSES


SHAPE, CODES = (64, 256, 16, 16), 1024
QUICK_SHAPE, QUICK_CODES = (4, 16, 8, 8), 32


class OneHot(nn.Module):
    """Exponential-average codebook with one-hot matrices for look-up and sums, as the specification describes the
    released code.
    """

    def __init__(self, dim: int, codes: int, decay: float = 0.8):
        super().__init__()
        embed = torch.randn(dim, codes)
        self.decay = decay
        self.register_buffer("embed", embed)
        self.register_buffer("mean", embed.clone())
        self.register_buffer("size", torch.zeros(codes))

    def forward(self, h):
        rows = h.permute(0, 2, 3, 1)
        flat = rows.reshape(-1, rows.shape[-1])
        distance = flat.pow(2).sum(1, keepdim=True) - 2 * flat @ self.embed + self.embed.pow(2).sum(0, keepdim=True)
        index = (-distance).max(1)[1]
        one_hot = nn.functional.one_hot(index, self.embed.shape[1]).type(flat.dtype)
        quantized = nn.functional.embedding(index.view(rows.shape[:-1]), self.embed.T)
        with torch.no_grad():
            self.size.mul_(self.decay).add_(one_hot.sum(0), alpha=1 - self.decay)
            self.mean.mul_(self.decay).add_(flat.T @ one_hot, alpha=1 - self.decay)
            total = self.size.sum()
            smoothed = (self.size + 1e-5) / (total + len(self.size) * 1e-5) * total
            self.embed.copy_(self.mean / smoothed)
        loss = (quantized.detach() - rows).pow(2).mean()
        perplexity = (-(one_hot.mean(0) * (one_hot.mean(0) + 1e-10).log()).sum()).exp()
        output = rows + (quantized - rows).detach()
        return output.permute(0, 3, 1, 2), loss, perplexity


def build(name: str, dim: int, codes: int):
    """A function features -> (output, loss), of a fresh quantizer in training mode."""
    torch.manual_seed(0)
    if name == "ours":
        ours = FeatureQuantizer(dim, codes, preset="official", feed="quantized", warmup_steps=0, anneal_steps=0)

        def run(h):
            found = ours(h)
            return found.output, found.loss.mean()

        return run
    if name == "one-hot":
        official = OneHot(dim, codes)
        return lambda h: official(h)[:2]
    from vector_quantize_pytorch import VectorQuantize

    other = VectorQuantize(dim=dim, codebook_size=codes, decay=0.8, accept_image_fmap=True).train()

    def run(h):
        output, _, loss = other(h)
        return output, loss.sum()

    return run


def names() -> list[str]:
    try:
        import vector_quantize_pytorch  # noqa: F401

        return ["one-hot", "vector-quantize-pytorch"]
    except ImportError:
        print("vector-quantize-pytorch is not installed; it is left out")
        return ["one-hot"]


def once(run, features: torch.Tensor) -> None:
    features.grad = None
    output, loss = run(features)
    (output.sum() + loss).backward()


def layer(arguments) -> list[dict]:
    """Ratios of time."""
    shape, codes = (QUICK_SHAPE, QUICK_CODES) if arguments.quick else (SHAPE, CODES)
    features = torch.randn(shape).requires_grad_(True)
    found = ["ours", *names()]
    runs = {name: build(name, shape[1], codes) for name in found}
    seconds = interleaved({n: lambda r=r: once(r, features) for n, r in runs.items()}, arguments.repeats)
    targets = {"one-hot": ">= 2", "vector-quantize-pytorch": ">= 3"}
    return [
        {
            "section": "layer",
            "ratio of": f"{name} / ours",
            **ratio(seconds[name], seconds["ours"]),
            "target": targets[name],
        }
        for name in found[1:]
    ]


def memory(arguments) -> list[dict]:
    """Ratios of peak memory, every side in a process of its own."""
    peaks = {}
    for name in ["ours", *names()]:
        command = [sys.executable, __file__, "--peak", name] + (["--quick"] if arguments.quick else [])
        peaks[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [
        {
            "section": "memory",
            "ratio of": f"{name} / ours",
            "ratio": peaks[name] / max(peaks["ours"], 0.1),
            "ours MiB": peaks["ours"],
            "target": "> 1",
        }
        for name in peaks
        if name != "ours"
    ]


def peak(name: str, quick: bool) -> float:
    """MiB above the features that one forward and backward need."""
    shape, codes = (QUICK_SHAPE, QUICK_CODES) if quick else (SHAPE, CODES)
    features = torch.randn(shape).requires_grad_(True)
    run = build(name, shape[1], codes)
    once(build(name, 8, 16), torch.randn(2, 8, 4, 4).requires_grad_(True))
    return peak_above(lambda: once(run, features))


def step(arguments) -> list[dict]:
    """Time of a training step with codebooks / without."""
    torch.manual_seed(0)
    batch = 4 if arguments.quick else 50
    widths = {"channels": (8, 8, 8, 8)} if arguments.quick else {}
    sides = {}
    shares = {"with": 1.0, "with, share=0.25": 0.25}
    for name in (*shares, "without"):
        if arguments.quick:
            options = {"resolution": 32, "num_classes": 10, "shared_dim": 0}
            generator = BigGANGenerator(z_dim=8, **options, **widths)
            discriminator = BigGANDiscriminator(resolution=32, num_classes=10, **widths)
        else:
            generator, discriminator = (cls.from_preset("cifar10") for cls in (BigGANGenerator, BigGANDiscriminator))
        if name in shares:
            places = FQ_PRESETS["biggan-cifar10"].items()
            add_feature_quantizers(discriminator, {path: replace(each, share=shares[name]) for path, each in places})
        sides[name] = training_step(generator.train(), discriminator.train(), batch)
    seconds = interleaved(sides, arguments.repeats)
    return [
        {
            "section": "step",
            "ratio of": f"{name} / without codebooks",
            **ratio(seconds[name], seconds["without"]),
            "target": "<= 1.03",
        }
        for name in shares
    ]


def training_step(generator, discriminator, batch: int):
    """One step of the discriminator and one of the generator, without the optimizers."""
    real = torch.rand(batch, 3, 32, 32) * 2 - 1
    labels = torch.arange(batch) % 10
    of_discriminator, of_generator = LOSSES["hinge"]

    def run():
        with torch.no_grad():
            generated = generator(generator.draw_latents(batch), labels).sample
        outputs = [discriminator(images, labels) for images in (real, generated)]
        loss = of_discriminator(*(each.logits for each in outputs))
        loss = loss + sum(each.quantization_loss.mean() for each in outputs if each.quantization_loss is not None)
        loss.backward()
        with phase(discriminator, "g"):
            output = discriminator(generator(generator.draw_latents(batch), labels).sample, labels)
        loss = of_generator(output.logits)
        if output.quantization_loss is not None:
            loss = loss + output.quantization_loss.mean()
        loss.backward()
        generator.zero_grad()
        discriminator.zero_grad()

    return run


SECTIONS = {"layer": layer, "memory": memory, "step": step}


def main() -> None:
    options = parser(__doc__, repeats=5)
    options.add_argument("--only", nargs="+", choices=sorted(SECTIONS), default=list(SECTIONS), help="sections to run")
    options.add_argument("--peak", metavar="SIDE", help="print the MiB that one side needs, and end")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(peak(arguments.peak, arguments.quick))
        return
    rows = [row for section in arguments.only for row in SECTIONS[section](arguments)]
    report(rows, conditions(arguments), arguments.json)


if __name__ == "__main__":
    main()
