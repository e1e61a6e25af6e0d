# SPDX-License-Identifier: Apache-2.0
"""Commands that compress: compress, prune, refine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from . import completion, flags
from .opening import Place, hushed, open_whole, without_bars
from .shared import app, parse_options, refuse_full, refuse_together, refuse_unwritable, settings, show


_OF_QUANTIZATION = (
    "method bits mean_bits preset granularity group_size scale_dtype headroom svd_rank hadamard activations "
    "activation_range bias_correction option skip last_block requantize"
).split()


@app.command()
def compress(
    context: typer.Context,
    model: flags.Model,
    output_dir: Annotated[Path, typer.Argument(help="Folder for the compressed model.")],
    method: Annotated[
        str | None,
        typer.Option(
            help="auto (codebook up to 3 bits, mse_clip above), mse_clip, codebook, gptq or latent_distill "
            "(calibrated), or the paper's linear (Q), monte_carlo (P+Q), outlier_splitting (S+Q), aciq (C+Q); "
            "default: that of the preset, auto or aciq.",
            autocompletion=completion.methods,
        ),
    ] = None,
    bits: Annotated[int, typer.Option(min=2, max=8, help="Of every weight, but for small and sensitive layers.")] = 4,
    mean_bits: Annotated[
        float | None,
        typer.Option(
            help="Instead of --bits: measure the layers first and give each its own bits, with this mean (scales "
            "included)."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="What options that are not given are. best: auto, by channel, float16, headroom 0.1. paper: aciq, by "
            "tensor, float32, the last block in full precision. Default: paper for the paper's methods, best for "
            "others."
        ),
    ] = None,
    granularity: Annotated[str | None, typer.Option(help="One scale per tensor, channel or group.")] = None,
    group_size: Annotated[int, typer.Option(help="Weights per scale, for granularity group.")] = 128,
    scale_dtype: Annotated[str | None, typer.Option(help="float32 or float16.")] = None,
    headroom: Annotated[
        float | None, typer.Option(help="Share of bytes, on top of --bits, for small and sensitive layers: 0 to 1.")
    ] = None,
    svd_rank: Annotated[
        int, typer.Option(min=0, help="Rank of a part of every weight that is kept in 16 bits; 0 for none.")
    ] = 0,
    hadamard: Annotated[
        bool | None,
        typer.Option(
            "--hadamard/--no-hadamard",
            help="Rotate rows of weights before they are rounded, and back when unpacked.",
            show_default="denoisers at 3 bits by auto, others up to 4 by latent_distill",
        ),
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(help="int8: layers also round what they are given to 8 bits, and compute with integers."),
    ] = None,
    activation_range: Annotated[
        str, typer.Option(help="How ranges of activations are found: mse, percentile or minmax, or dynamic.")
    ] = "mse",
    bias_correction: Annotated[
        bool, typer.Option("--bias-correction", help="Biases take the mean of what rounding adds; runs the model.")
    ] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Option of the method, NAME=VALUE (JSON); repeatable. For example steps=300."),
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Pattern of layers to leave alone; repeatable.")] = None,
    last_block: Annotated[
        bool | None,
        typer.Option("--last-block/--no-last-block", help="Quantize the last block too; with preset best it is."),
    ] = None,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Accept a model that is already quantized.")
    ] = False,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with steps (prune, refine, quantize), or a bundled recipe such as svs-stylegan2, instead "
            "of all options above.",
            autocompletion=completion.bundled_recipes,
        ),
    ] = None,
    components: flags.Components = None,
    subfolder: flags.Subfolder = None,
    revision: flags.Revision = None,
    device: flags.Device = None,
    dtype: flags.SavedDtype = None,
    quiet: flags.Quiet = False,
    as_json: flags.Json = False,
) -> None:
    """Quantize a model, or run the steps of a recipe, and save it; plain from_pretrained restores it once hf_ganzip is
    imported.
    """
    from ..recipes import compress as run
    from ..recipes import read_recipe, steps_of

    refuse_together(context, "recipe", _OF_QUANTIZATION)
    refuse_together(context, "mean_bits", ["bits"])
    if mean_bits is not None and mean_bits <= 2:
        raise ValueError(f"mean_bits is {mean_bits}; allowed are more than 2, the fewest bits, to which scales add.")
    refuse_full(output_dir)
    options = {"step": "quantize", "method": method, "bits": bits, "preset": preset, "granularity": granularity}
    options |= {"group_size": group_size, "scale_dtype": scale_dtype, "method_options": parse_options(option or ())}
    options |= {"skip": tuple(skip or ()), "skip_last_block": None if last_block is None else not last_block}
    options |= {"headroom": headroom, "svd_rank": svd_rank, "hadamard": hadamard, "requantize": requantize}
    options |= {"activations": activations, "activation_range": activation_range, "bias_correction": bias_correction}
    if mean_bits is not None:
        options["bits"] = min(8, int(mean_bits))  # of which defaults depend
    steps = [hushed(step) for step in (read_recipe(recipe) if recipe is not None else [options])]
    steps_of(steps)  # wrong options are found before anything is loaded
    whole, networks = open_whole(model, components, Place(subfolder, revision, device, dtype))
    found = []
    for name, network in networks.items():
        if mean_bits is not None:
            steps[0]["overrides"] = _within(mean_bits, network, steps[0])
        labels = [_labels(name) | ({"step": step["step"]} if recipe is not None else {}) for step in steps]
        found += zip(labels, run(network, steps)[1])
    _finish(whole, output_dir, found, as_json)


def _within(mean_bits: float, network: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides that give each layer its own bits."""
    from ..quantization import QuantizeConfig, sensitivity

    config = QuantizeConfig(**{name: value for name, value in options.items() if name not in ("step", "overrides")})
    measured = sensitivity(network, range(2, 9), config=config, progress=not settings.quiet)
    try:
        return measured.allocate(mean_bits=mean_bits)
    except ValueError as error:
        raise ValueError(f"mean_bits is {mean_bits}: {error}") from error


def _labels(component: str) -> dict[str, str]:
    return {"component": component} if component else {}


def _finish(whole: Any, output_dir: Path, found: Sequence[tuple[dict[str, str], Any]], as_json: bool) -> None:
    """Save, and print the reports: that of a model alone as it is, others in a list with their component and step."""
    whole.save_pretrained(output_dir)
    dicts = [labels | report.to_dict() for labels, report in found]
    texts = [f"--- {' '.join(labels.values())}\n{report}\n" if labels else str(report) for labels, report in found]
    show(dicts if found[0][0] else dicts[0], "\n".join([*texts, f"saved to {output_dir}"]), as_json)


@app.command()
def prune(
    context: typer.Context,
    model: flags.Model,
    output_dir: Annotated[Path, typer.Argument(help="Folder for the pruned model.")],
    criterion: Annotated[
        str,
        typer.Option(
            help="magnitude, random; for StyleGANs dcp, content_aware, gan_slimming; for diffusion UNets diff_prune, "
            "taylor.",
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
            help="Images for diff_prune and taylor: folder, parquet, .npy, bundled name or datasets id (its training "
            "images).",
            autocompletion=completion.sources,
        ),
    ] = None,
    group_rule: Annotated[
        str, typer.Option(help="Channels under group norms: blocks, same_positions, exact or whole_groups.")
    ] = "blocks",
    multiple_of: Annotated[int, typer.Option(min=1, help="Round widths up to multiples of it.")] = 1,
    inherit: Annotated[str, typer.Option(help="all weights, or mapping: the mapping network only.")] = "all",
    init: Annotated[str, typer.Option(help="keep, or draw the synthesis network again: he, xavier.")] = "keep",
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the criterion, NAME=VALUE (JSON); repeatable.")
    ] = None,
    components: flags.Components = None,
    subfolder: flags.Subfolder = None,
    revision: flags.Revision = None,
    device: flags.Device = None,
    dtype: flags.SavedDtype = None,
    quiet: flags.Quiet = False,
    as_json: flags.Json = False,
) -> None:
    """Remove channels of a generator or diffusion UNet; refine and fine-tune it afterwards."""
    from ..pruning import PruneConfig, prune_
    from ..pruning.criteria import CRITERIA
    from ..recipes import with_images

    refuse_together(context, "max_params", ["ratio", "max_macs"])
    refuse_together(context, "max_macs", ["ratio"])
    refuse_full(output_dir)
    options = {"ratio": ratio, "max_params": max_params, "max_macs": max_macs, "multiple_of": multiple_of}
    options |= {"inherit": inherit, "init": init, "group_rule": group_rule}
    of_criterion = parse_options(option or ()) | ({"images": data} if data is not None else {})
    options |= {"criterion": criterion, "criterion_options": of_criterion}
    config = PruneConfig(**without_bars(options, "criterion", CRITERIA))
    whole, networks = open_whole(model, components, Place(subfolder, revision, device, dtype))
    found = [(_labels(name), prune_(each, with_images(config, each))) for name, each in networks.items()]
    _finish(whole, output_dir, found, as_json)


@app.command()
def refine(
    model: flags.Model,
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
    plot: flags.Plot = None,
    components: flags.Components = None,
    subfolder: flags.Subfolder = None,
    revision: flags.Revision = None,
    device: flags.Device = None,
    dtype: flags.SavedDtype = None,
    quiet: flags.Quiet = False,
    as_json: flags.Json = False,
) -> None:
    """Scale the singular values of a pruned model's weights, once, before fine-tuning (Singular Value Scaling)."""
    from ..refine import RefineConfig, refine_

    refuse_full(output_dir)
    if plot is not None:
        refuse_unwritable(plot.parent)
    whole, networks = open_whole(model, components, Place(subfolder, revision, device, dtype))
    options = {"rtol": rtol, "to_rgb": to_rgb, "reset_norms": reset_norms, "skip": tuple(skip or ()), "again": again}
    config = RefineConfig(scaling=scaling, progress=not quiet, **options)
    found = [(_labels(name), refine_(each, config)) for name, each in networks.items()]
    if plot is not None:
        from ..evaluation.plotting import save_spectra_plot

        plot.parent.mkdir(parents=True, exist_ok=True)
        save_spectra_plot(found[0][1], plot)
    _finish(whole, output_dir, found, as_json)
