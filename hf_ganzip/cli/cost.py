# SPDX-License-Identifier: Apache-2.0
"""Commands that say what compression costs: cost, sensitivity."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from . import completion
from .opening import Place, open_model
from .shared import (
    Device,
    Json,
    LoadedDtype,
    Model,
    Plot,
    Quiet,
    Revision,
    Subfolder,
    app,
    print_json,
    refuse_unwritable,
    say,
)


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
    subfolder: Subfolder = None,
    revision: Revision = None,
    device: Device = None,
    dtype: LoadedDtype = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure parameters, MACs, bytes on disk, peak memory and latency on this machine."""
    from ..evaluation.cost import measure_cost

    place = Place(subfolder, revision, device, dtype)
    other = None if base is None else open_model(base, Place(device=device, dtype=dtype))
    report = measure_cost(open_model(model, place), other, repeats=repeats, memory=memory)
    print_json(report.to_dict()) if as_json else say(report)


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
    activations: Annotated[
        bool, typer.Option("--activations", help="Also round one layer's inputs at a time to 8 bits.")
    ] = False,
    plot: Plot = None,
    subfolder: Subfolder = None,
    revision: Revision = None,
    device: Device = None,
    dtype: LoadedDtype = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Quantize one layer at a time and measure how far the output moves, without data."""
    from ..quantization import QuantizeConfig
    from ..quantization import sensitivity as measure

    if plot is not None:
        refuse_unwritable(plot.parent)
    report = measure(
        open_model(model, Place(subfolder, revision, device, dtype)),
        tuple(bits or (2, 3, 4, 6, 8)),
        config=QuantizeConfig(method=method, granularity=granularity),
        num_samples=num_samples,
        activations=activations,
        progress=not quiet,
    )
    overrides = report.allocate(mean_bits=mean_bits) if mean_bits is not None else None
    if plot is not None:
        from ..evaluation.plotting import save_sensitivity_plot

        plot.parent.mkdir(parents=True, exist_ok=True)
        save_sensitivity_plot(report, plot)
    if as_json:
        return print_json(report.to_dict() | {"overrides": overrides})
    say(report)
    if overrides is not None:
        say(f"overrides for a mean of {mean_bits} bits:\n{json.dumps(overrides, indent=1)}")
