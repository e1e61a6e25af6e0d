# SPDX-License-Identifier: Apache-2.0
"""Commands that compress and say what it cost: compress, prune, refine, cost, sensitivity, study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from . import completion
from .shared import (
    Extractor,
    Json,
    Model,
    Seed,
    app,
    open_model,
    parse_options,
    print_json,
    refuse_full,
    refuse_together,
    refuse_unwritable,
)


Plot = Annotated[Path | None, typer.Option(help="PNG file for a picture.", dir_okay=False)]
_OF_QUANTIZATION = "method bits mean_bits granularity group_size scale_dtype option skip last_block requantize".split()


@app.command()
def compress(
    context: typer.Context,
    model: Model,
    output_dir: Annotated[Path, typer.Argument(help="Folder for the compressed model.")],
    method: Annotated[
        str,
        typer.Option(
            help="linear (Q), monte_carlo (P+Q), outlier_splitting (S+Q), aciq (C+Q), mse_clip, codebook, gptq or latent_distill.",
            autocompletion=completion.methods,
        ),
    ] = "aciq",
    bits: Annotated[int, typer.Option(min=2, max=8, help="Of every weight.")] = 4,
    mean_bits: Annotated[
        float | None,
        typer.Option(
            help="Instead of --bits: measure the layers first and give each its own bits, with this mean (scales included)."
        ),
    ] = None,
    granularity: Annotated[str, typer.Option(help="One scale per tensor, channel or group.")] = "tensor",
    group_size: Annotated[int, typer.Option(help="Weights per scale, for granularity group.")] = 128,
    scale_dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    option: Annotated[
        list[str] | None,
        typer.Option(help="Option of the method, NAME=VALUE (JSON); repeatable. For example steps=300."),
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Pattern of layers to leave alone; repeatable.")] = None,
    last_block: Annotated[bool, typer.Option("--last-block", help="Quantize the last block too.")] = False,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Accept a model that is already quantized.")
    ] = False,
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML file with steps (prune, refine, quantize), instead of all options above."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Quantize a model, or run the steps of a recipe, and save it; plain from_pretrained restores it once hf_ganzip is imported."""
    from ..recipes import compress as run
    from ..recipes import read_recipe

    refuse_together(context, "recipe", _OF_QUANTIZATION)
    refuse_together(context, "mean_bits", ["bits"])
    refuse_full(output_dir)
    if recipe is not None:
        steps = read_recipe(recipe)
        compressed, reports = run(open_model(model), steps)
        compressed.save_pretrained(output_dir)
        if as_json:
            return print_json([{"step": step["step"], **report.to_dict()} for step, report in zip(steps, reports)])
        for step, report in zip(steps, reports):
            print(f"--- {step['step']}\n{report}\n")
        print(f"saved to {output_dir}")
        return
    options = {"step": "quantize", "method": method, "bits": bits, "granularity": granularity}
    options |= {"group_size": group_size, "scale_dtype": scale_dtype, "method_options": parse_options(option or ())}
    options |= {"skip": tuple(skip or ()), "skip_last_block": not last_block, "requantize": requantize}
    opened = open_model(model)
    if mean_bits is not None:
        from ..quantization import QuantizeConfig
        from ..quantization import sensitivity as measure

        config = QuantizeConfig(**{name: value for name, value in options.items() if name != "step"})
        options["overrides"] = measure(opened, range(2, 9), config=config).allocate(mean_bits=mean_bits)
    compressed, (report,) = run(opened, [options])
    compressed.save_pretrained(output_dir)
    if as_json:
        return print_json(report.to_dict())
    print(report)
    print(f"saved to {output_dir}")


@app.command()
def prune(
    context: typer.Context,
    model: Model,
    output_dir: Annotated[Path, typer.Argument(help="Folder for the pruned model.")],
    criterion: Annotated[
        str,
        typer.Option(
            help="magnitude, random; for StyleGANs dcp, content_aware, gan_slimming; for diffusion UNets diff_prune, taylor.",
            autocompletion=completion.criteria,
        ),
    ] = "magnitude",
    ratio: Annotated[float, typer.Option(help="Share of the channels that is removed, 0 to below 1.")] = 0.7,
    max_params: Annotated[
        int | None, typer.Option(help="Find the ratio for at most so many parameters instead.")
    ] = None,
    max_macs: Annotated[
        int | None, typer.Option(help="Find the ratio for at most so many operations instead.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images for diff_prune and taylor: folder, parquet, .npy, bundled name or datasets id (its training images).",
            autocompletion=completion.sources,
        ),
    ] = None,
    group_rule: Annotated[
        str, typer.Option(help="Channels under group norms: blocks, same_positions or exact.")
    ] = "blocks",
    multiple_of: Annotated[int, typer.Option(min=1, help="Round widths up to multiples of it.")] = 1,
    inherit: Annotated[str, typer.Option(help="all weights, or mapping: the mapping network only.")] = "all",
    init: Annotated[str, typer.Option(help="keep, or draw the synthesis network again: he, xavier.")] = "keep",
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the criterion, NAME=VALUE (JSON); repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove channels of a generator or diffusion UNet; refine and fine-tune it afterwards."""
    from ..pruning import PruneConfig, prune_
    from ..recipes import with_images

    refuse_together(context, "max_params", ["ratio", "max_macs"])
    refuse_together(context, "max_macs", ["ratio"])
    refuse_full(output_dir)
    options = {"ratio": ratio, "max_params": max_params, "max_macs": max_macs, "multiple_of": multiple_of}
    options |= {"inherit": inherit, "init": init, "group_rule": group_rule}
    of_criterion = parse_options(option or ()) | ({"images": data} if data is not None else {})
    config = PruneConfig(criterion, criterion_options=of_criterion, **options)
    opened = open_model(model)
    report = prune_(opened, with_images(config, opened))
    opened.save_pretrained(output_dir)
    if as_json:
        return print_json(report.to_dict())
    print(report)
    print(f"saved to {output_dir}")


@app.command()
def refine(
    model: Model,
    output_dir: Annotated[Path, typer.Argument(help="Folder for the refined model.")],
    scaling: Annotated[
        str,
        typer.Option(
            help="sqrt, log1p or abslog; the ablations orthogonal, spectral, square.",
            autocompletion=completion.scalings,
        ),
    ] = "sqrt",
    rtol: Annotated[
        float | None, typer.Option(help="Singular values up to this share of the largest count as zero.")
    ] = None,
    to_rgb: Annotated[bool, typer.Option(help="StyleGAN2: refine the image outputs too.")] = True,
    reset_norms: Annotated[bool, typer.Option(help="Diffusion models: reset group norms first.")] = True,
    skip: Annotated[list[str] | None, typer.Option(help="Pattern of tensors to leave alone; repeatable.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Accept a model that was refined before.")] = False,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Scale the singular values of a pruned model's weights, once, before fine-tuning (Singular Value Scaling)."""
    from ..refine import RefineConfig, refine_

    refuse_full(output_dir)
    if plot is not None:
        refuse_unwritable(plot.parent)
    opened = open_model(model)
    options = {"rtol": rtol, "to_rgb": to_rgb, "reset_norms": reset_norms, "skip": tuple(skip or ()), "again": again}
    report = refine_(opened, RefineConfig(scaling=scaling, **options))
    opened.save_pretrained(output_dir)
    if plot is not None:
        from ..plotting import save_spectra_plot

        plot.parent.mkdir(parents=True, exist_ok=True)
        save_spectra_plot(report, plot)
    if as_json:
        return print_json(report.to_dict())
    print(report)
    print(f"saved to {output_dir}")


@app.command()
def cost(
    model: Model,
    base: Annotated[
        str | None,
        typer.Option(
            help="The full model, to compare with: folder, Hub id or bundled name.", autocompletion=completion.models
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed forward passes of each.")] = 7,
    memory: Annotated[bool, typer.Option(help="Also measure the peak memory, in fresh processes.")] = True,
    as_json: Json = False,
) -> None:
    """Measure parameters, MACs, bytes on disk, peak memory and latency on this machine."""
    from ..evaluation.cost import measure_cost

    other = None if base is None else open_model(base)
    report = measure_cost(open_model(model), other, repeats=repeats, memory=memory)
    print_json(report.to_dict()) if as_json else print(report)


@app.command()
def sensitivity(
    model: Model,
    bits: Annotated[
        list[int] | None, typer.Option(min=2, max=8, help="Bits to try; repeatable; default 2 3 4 6 8.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="Method; calibrated ones are measured by what they start from.", autocompletion=completion.methods
        ),
    ] = "codebook",
    granularity: Annotated[str, typer.Option(help="tensor, channel or group.")] = "channel",
    mean_bits: Annotated[
        float | None,
        typer.Option(help="Also propose bits for every layer within this mean of stored bits per weight."),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Samples in the comparison.")] = 32,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Quantize one layer at a time and measure how far the output moves, without data."""
    from ..quantization import QuantizeConfig
    from ..quantization import sensitivity as run

    if plot is not None:
        refuse_unwritable(plot.parent)
    config = QuantizeConfig(method=method, granularity=granularity)
    report = run(open_model(model), tuple(bits or (2, 3, 4, 6, 8)), config=config, num_samples=num_samples)
    overrides = report.allocate(mean_bits=mean_bits) if mean_bits is not None else None
    if plot is not None:
        from ..plotting import save_sensitivity_plot

        plot.parent.mkdir(parents=True, exist_ok=True)
        save_sensitivity_plot(report, plot)
    if as_json:
        return print_json(report.to_dict() | {"overrides": overrides})
    print(report)
    if overrides is not None:
        print(f"overrides for a mean of {mean_bits} bits:")
        print(json.dumps(overrides, indent=1))


@app.command()
def study(
    model: Model,
    reference: Annotated[
        str,
        typer.Option(
            help="Real images: bundled name, folder, parquet, .npy, datasets id.", autocompletion=completion.sources
        ),
    ],
    output_dir: Annotated[
        Path, typer.Option(help="Report, figures and pieces; a study that was stopped goes on here.")
    ] = Path("study_output"),
    method: Annotated[
        list[str] | None,
        typer.Option(
            help='Method, or "gptq mixed" and the like; repeatable; default: all.', autocompletion=completion.studied
        ),
    ] = None,
    bits: Annotated[list[int] | None, typer.Option(min=2, max=8, help="Bits; repeatable; default 6 5 4 3 2.")] = None,
    num_samples: Annotated[int, typer.Option(min=2, help="Generated images per draw.")] = 5000,
    draws: Annotated[int, typer.Option(min=1, help="Repetitions with other latents and hyperplanes.")] = 3,
    seed: Seed = 0,
    k: Annotated[int, typer.Option(min=1, help="Neighbour that sets the radius.")] = 3,
    extractor: Extractor = "fashion_mnist",
    option: Annotated[
        list[str] | None, typer.Option(help="Option of a method, METHOD.NAME=VALUE; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compress by many methods at many bits, measure each, and write a report with tables and figures."""
    from ..evaluation.compression_study import StudyConfig, run_study
    from ..evaluation.study_report import write_report

    refuse_unwritable(output_dir)
    method_options: dict[str, dict[str, Any]] = {}
    for name, value in parse_options(option or ()).items():
        owner, dot, setting = name.partition(".")
        if not dot:
            raise typer.BadParameter(f"option {name!r} does not say of which method; write METHOD.{name}=VALUE.")
        method_options.setdefault(owner, {})[setting] = value
    chosen = {"methods": tuple(method) if method else None, "bits": tuple(bits) if bits else None}
    config = StudyConfig(
        **{name: value for name, value in chosen.items() if value is not None},
        num_samples=num_samples,
        draws=draws,
        seed=seed,
        k=k,
        extractor=extractor,
        method_options=method_options,
    )
    result = run_study(model, reference, output_dir, config)
    file = write_report(result, output_dir)
    print_json(result) if as_json else print(f"{file}\n{file.read_text(encoding='utf-8')}")
