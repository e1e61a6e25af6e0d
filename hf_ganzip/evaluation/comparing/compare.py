# SPDX-License-Identifier: Apache-2.0
"""Compare a compressed model with its original, whoever compressed it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...core.modes import evaluating
from ...core.record import machine, versions
from ...metrics import METRICS
from ...metrics.inputs import check_integer
from ...metrics.resampling import Interval, halves, interval_of_mean, resamples
from ..cost import held_bytes, wait_for
from ..evaluate import DEFAULT_METRICS, FAULTS, metrics_of_features
from ..extractors import check_extractor, default_extractor, extract_features, load_extractor
from ..perceptual import perceptual_distances, structural_similarities
from ..sources import Source, common_digest, images_of, open_source
from .drawing import Plan, check_plan, conditions_of, draw
from .measured_pairs import distribution, feature_distance, psnr, sqnr, squared_errors
from .noise_prediction import Replay, refusing_nonfinite
from .peak_memory import peak_of
from .report import CompareReport, Figure
from .sides import Side, compression_said, open_sides, weights_of


_IMAGES = 256
_HALVED = 4  # fewer images have no halves that metrics of distributions take


def compare(
    original: Any,
    candidate: Any,
    *,
    num_images: int | None = None,
    seed: int = 0,
    prompts: Sequence[str] | None = None,
    class_label: int | None = None,
    steps: int | None = None,
    reference: Any = None,
    extractor: Any = None,
    metrics: str | Sequence[str | Callable[..., Any]] = DEFAULT_METRICS,
    perceptual: str | Callable[[Tensor, Tensor], Tensor] | None = None,
    batch_size: int = 16,
    bootstrap: int = 200,
    sqnr_images: int = 32,
    memory: bool = True,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    options: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> CompareReport:
    """Draw the same images from an original and a candidate, and measure how far they lie apart, what the change did
    to quality and diversity, and what it saved.

    Any two generators or pipelines will do: GAN generators of this library, ``UNet2DModel``, pipelines of diffusers
    with or without prompts, as they were loaded, by whatever quantized them (this library, SDNQ, torchao,
    bitsandbytes, GGUF, nunchaku). Packed layers of ours compute as they are set to.

    Intervals are of 95 % and over the images: bootstrap percentiles for the figures of pairs, halves of the
    images, in pairs, for those of distributions, whose figures resamples with replacement would bias;
    :func:`.interval_by_halves` says why. A ``reference`` counts as given. Without one the original's images
    are the real ones and the seeds are shared: FD is 0 and precision and recall 1 for a model with itself, and
    none of them is a distance to real images.

    Args:
        original: Network, pipeline, folder, bundled name or Hub id.
        candidate: The same; or only the denoiser for a pipeline, which takes the place of the original's.
        num_images: Images of each side, >= 2; None: one a prompt, 256 without prompts.
        seed: Image i is drawn from (seed, i) on both sides.
        prompts: For text-to-image pipelines; image i has prompt i modulo their number.
        class_label: One class for all images of a conditional model; None: all in turn.
        steps: Of the sampler; None: 50 of DDIM for a UNet alone, what a pipeline takes otherwise.
        reference: Real images or features as :func:`.open_source` finds them, with which both sides are compared.
        extractor: Of the features, as for :func:`.load_extractor`; None: that of :func:`.default_extractor`.
        metrics: Of features, as for :func:`.find_metrics`, or functions ``(real=, generated=) -> dict``.
        perceptual: Network of :func:`.perceptual_distance` (LPIPS), "alex" for example, whose weights are
            downloaded; None: not computed.
        batch_size: Images drawn at once.
        bootstrap: Number of resamples; 0: no intervals.
        sqnr_images: Images in whose drawing the candidate repeats every call of the original's denoiser; whole batches.
        memory: Measure the peak memory of sides that were given by name, in fresh processes that open them and draw
            one image.
        device: Of sides that are opened here; None: the CPU.
        dtype: Of their weights; None: as they were saved.
        options: Of a pipeline's call, such as ``guidance_scale``; ``truncation_psi`` of a GAN; ``clip_sample`` of a
            UNet alone.
        folder: Where the report is written, see :meth:`.CompareReport.save`.
        progress: Show progress bars.

    Returns:
        The figures with intervals and conditions, and why figures are missing that could not be computed.

    Raises:
        TypeError: A side is no network, pipeline or name.
        ValueError: The sides differ in more than their weights, outputs are NaN or infinite, or an unknown option or
            metric.
        FileNotFoundError: A side that is not there.
        ConnectionError: A Hub id that cannot be downloaded.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("sqnr_images", sqnr_images, 0)):
        check_integer(name, value, least)
    found = metrics_of_features([metrics] if isinstance(metrics, str) else metrics)
    check_extractor(extractor)
    plan = Plan(seed, None if prompts is None else tuple(prompts), class_label, steps, dict(options or {}))
    count = num_images if num_images is not None else len(plan.prompts or ()) or _IMAGES
    check_integer("num_images", count, 2)
    draws = resamples(count, bootstrap, seed)
    extract = None if extractor is None else load_extractor(extractor, device or "cpu")
    real = None if reference is None else _open_reference(reference, progress)
    first, second = sides = open_sides(original, candidate, device, dtype)
    for side in sides:
        check_plan(side, plan)
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    images, seconds, replay = _draw_both(first, second, plan, (count, batch_size, sqnr_images), progress)
    figures, failures = _pairs(images, perceptual, batch_size, draws)
    timesteps: list[dict[str, Any]] = []
    if replay.signal:
        overall, timesteps = sqnr(*replay.sums(), draws=resamples(len(replay.sums()[0]), bootstrap, seed))
        figures.append(Figure("noise predictions", "sqnr", "dB", overall))
    of_features, conditions = _of_features(images, real, extract, found, draws, (seed, progress, device), failures)
    figures += of_features
    costs, said = _costs(sides, plan, seconds, memory, failures)
    conditions = {
        **_what_was_drawn(sides, plan, count),
        **conditions,
        "bootstrap": bootstrap,
        "n_sqnr": len(replay.sums()[0]) if replay.signal else 0,
        "batch_size": batch_size,
        **said,
        "device": str(first.device),
        "machine": machine(),
        "versions": versions() | _versions_of(sides),
    }
    report = CompareReport(tuple(figures + costs), tuple(timesteps), conditions, failures, images)
    if folder is not None:
        report.save(folder)
    return report


def _open_reference(reference: Any, progress: bool) -> Source:
    real = open_source(reference, streamed=True, progress=progress)
    if real.model is not None:
        raise ValueError(f"compare: reference {real.name} is a model; allowed are images and features of real images.")
    return real


def _what_was_drawn(sides: Sequence[Side], plan: Plan, count: int) -> dict[str, Any]:
    """The conditions of the images: of what models, in what form, and how they were drawn."""
    original, candidate = sides
    return {
        "original": original.name,
        "candidate": candidate.name,
        "n_images": count,
        "seed": plan.seed,
        "prompts": None if plan.prompts is None else list(plan.prompts),
        "class_label": plan.class_label,
        **conditions_of(candidate, plan),
        "weights": {side.role: weights_of(side) for side in sides},
        "compression": {side.role: compression_said(side) for side in sides if compression_said(side)},
        "dtype": {side.role: str(next(iter(side.networks.values())).dtype) for side in sides},
    }


def _draw_both(
    first: Side, second: Side, plan: Plan, sizes: tuple[int, int, int], progress: bool
) -> tuple[dict[str, Tensor], dict[str, list[float]], Replay]:
    """Images and seconds an image of every full batch by role, in turn; predictions are compared in the first ones."""
    count, batch_size, sqnr_images = sizes
    images: dict[str, list[Tensor]] = {first.role: [], second.role: []}
    seconds: dict[str, list[float]] = {first.role: [], second.role: []}
    replay = Replay(first.networks, second.networks)
    bar = tqdm(total=2 * count, desc="draw", unit="image", disable=not progress)
    with torch.no_grad(), contextlib.ExitStack() as modes, bar:
        for network in (*first.all_networks.values(), *second.all_networks.values()):
            modes.enter_context(evaluating(network))
        for start in range(0, count, batch_size):
            number = min(batch_size, count - start)
            for side in (first, second):
                recorded = side is first and first.denoises and start < sqnr_images
                drawn, taken = _timed(side, start, number, plan, replay, recorded)
                images[side.role].append(drawn)
                if number == min(batch_size, count):
                    seconds[side.role].append(taken / number)
                bar.update(number)
            shapes = [tuple(images[side.role][-1].shape[1:]) for side in (first, second)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"compare: images of the original are {shapes[0]}, of the candidate {shapes[1]} (C, H, W); they "
                    "must be equal."
                )
    return {role: torch.cat(each) for role, each in images.items()}, seconds, replay


def _timed(side: Side, start: int, number: int, plan: Plan, replay: Replay, recorded: bool) -> tuple[Tensor, float]:
    """One batch, and the seconds that it took without what ``replay`` did meanwhile."""
    recording = replay.recording(number) if recorded else contextlib.nullcontext()
    with refusing_nonfinite(side.role, side.networks, start), recording:
        wait_for(side.device)
        began, elsewhere = time.perf_counter(), replay.seconds
        drawn = draw(side, start, number, plan)
        wait_for(side.device)
        return drawn, time.perf_counter() - began - (replay.seconds - elsewhere)


def _pairs(
    images: Mapping[str, Tensor], perceptual: Any, batch_size: int, draws: Tensor
) -> tuple[list[Figure], dict[str, str]]:
    before, after = images["original"], images["candidate"]
    figures = [Figure("pairs", "psnr", "dB", psnr(squared_errors(before, after), draws))]
    wanted: dict[str, Callable[[], Tensor]] = {"ssim": lambda: structural_similarities(before, after, batch_size)}
    if perceptual is not None:
        wanted["lpips"] = lambda: perceptual_distances(before, after, perceptual, batch_size)
    failures: dict[str, str] = {}
    for name, values in wanted.items():
        with _telling(name, failures):
            figures.append(Figure("pairs", name, "", interval_of_mean(values(), draws)))
    return figures, failures


@contextlib.contextmanager
def _telling(name: str, failures: dict[str, str]) -> Any:
    """A fault of one figure is told, and leaves the others."""
    try:
        yield
    except FAULTS as error:
        failures[name] = " ".join(str(error).split())


def _of_features(
    images: Mapping[str, Tensor],
    real: Source | None,
    extract: Any,
    metrics: Mapping[str, Callable[..., Any]],
    draws: Tensor,
    settings: tuple[int, bool, Any],
    failures: dict[str, str],
) -> tuple[list[Figure], dict[str, Any]]:
    """Distances of features and of distributions, and under what conditions."""
    seed, progress, device = settings
    figures: list[Figure] = []
    conditions: dict[str, Any] = {"reference": "the original's images" if real is None else real.name}
    with _telling("features", failures):
        if extract is None:
            compared = None if real is None else images_of(real)
            extract = load_extractor(default_extractor([images["candidate"], compared]), device or "cpu")
        digest = None if real is None else common_digest({"real": real}, getattr(extract, "digest", None))
        features = {role: extract_features(each, extract, progress=progress) for role, each in images.items()}
        of_real = None if real is None else real.features
        if real is not None and of_real is None:
            of_real = extract_features(images_of(real), extract, progress=progress)  # type: ignore[arg-type]
        rows, dim = features["original"].shape
        conditions |= {
            "n_reference": len(features["original"] if of_real is None else of_real),
            "extractor": getattr(extract, "name", getattr(extract, "__name__", type(extract).__name__)),
            "extractor_digest": digest or getattr(extract, "digest", None),
            "resize": getattr(extract, "resize", None),
            **({"frechet_bias": f"{rows} images of {dim} features: FD is biased upwards"} if rows <= dim else {}),
        }
        with _telling("feature_distance", failures):
            distance = feature_distance(features["original"], features["candidate"], draws)
            figures.append(Figure("pairs", "feature_distance", "", distance))
        drawn = halves(rows, len(draws) if rows >= _HALVED else 0, seed)
        for name, function in metrics.items():
            metric = name if METRICS.get(name) is function else function
            with _telling(name, failures):
                found = distribution(metric, of_real, **features, drawn=drawn, seed=seed, progress=progress)
                figures += [Figure("distributions", figure, "", **sides) for figure, sides in found.items()]
    return figures, conditions


def _costs(
    sides: Sequence[Side], plan: Plan, seconds: Mapping[str, Sequence[float]], memory: bool, failures: dict[str, str]
) -> tuple[list[Figure], dict[str, Any]]:
    warm = {role: each[1:] or each for role, each in seconds.items()}  # the first batch warms up
    measured: dict[str, list[float | int | None]] = {
        "bytes_held": [held_bytes(*side.all_networks.values()) for side in sides],
        "bytes_on_disk": [side.bytes_on_disk for side in sides],
        "peak_bytes": [None, None],
        "ms_per_image": [1000 * statistics.median(warm[side.role]) for side in sides],
    }
    if any(side.all_networks.keys() != side.networks.keys() for side in sides):
        measured["bytes_held_by_denoiser"] = [held_bytes(*side.networks.values()) for side in sides]
    if memory:
        with _telling("peak_bytes", failures):
            measured["peak_bytes"] = [None if side.folder is None else peak_of(side, plan) for side in sides]
    figures = []
    for name, values in measured.items():
        before, after = (None if value is None else Interval(value) for value in values)
        unit = "ms" if name == "ms_per_image" else "bytes"
        if before is not None or after is not None:
            figures.append(Figure("cost", name, unit, after, before))
    known = [value is not None for value in measured["peak_bytes"]]
    said = "of a fresh process that opens the folder and draws one image"
    if not all(known):
        objects = [side.role for side, is_known in zip(sides, known) if not is_known]
        why = "they are objects in memory; give folders" if memory else "memory is off"
        said = f"not measured of {' and '.join(objects)}: " + failures.get("peak_bytes", why)
    return figures, {"timed_batches": len(warm["original"]), "peak_memory": said}


def _versions_of(sides: Sequence[Side]) -> dict[str, str]:
    """Of the libraries that quantized the sides."""
    found = {}
    for side in sides:
        for said in compression_said(side).values():
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[said["quant_method"]] = importlib.metadata.version(said["quant_method"])
    return found
