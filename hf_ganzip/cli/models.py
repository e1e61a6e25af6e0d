# SPDX-License-Identifier: Apache-2.0
"""Commands that open models: demo, convert, info, sample, translate."""

from __future__ import annotations

import difflib
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from . import flags
from .opening import Place, open_model, open_whole, prompted_pipeline, read_prompts
from .shared import app, refuse_full, refuse_options, refuse_unwritable, show


_IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(help="Pictures, results.json and one compressed model go here.")] = Path(
        "demo_output"
    ),
    num_samples: Annotated[int, typer.Option(min=200, max=5000, help="Generated and real images per setting.")] = 5000,
    seed: flags.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Quantize the bundled Fashion-MNIST generator by Q and C+Q at 6 to 2 bits and measure each against real images."""
    from .demo import DemoConfig, format_table, run_demo

    refuse_unwritable(output_dir)
    result = run_demo(DemoConfig(output_dir=str(output_dir), num_samples=num_samples, seed=seed))
    conditions, saved, speed = result["conditions"], result["saved_model"], result["speed"]
    text = (
        f"{format_table(result['rows'])}\n\n"
        f"{conditions['n_generated']} generated against {conditions['n_real']} real images; features "
        f"{conditions['extractor']} {conditions['extractor_digest'][:12]}; {conditions['num_hyperplanes']} "
        f"hyperplanes, mean of {conditions['draws']} draws, k = {conditions['k']}, seed {conditions['seed']}; FD: "
        "Frechet distance of the features; KiB: all tensors of the model.\n"
        f"{saved['folder']}: {saved['method']} at {saved['bits']} bits, {saved['file_bytes']:,} bytes, reloaded "
        "bit-exactly.\n"
    )
    text += (
        f"{speed['folder']}: 8 bits, activations too, {speed['file_bytes']:,} bytes, in ONNX Runtime "
        f"{speed['int8_ms']:.2f} ms an image; full precision in torch {speed['full_ms']:.2f} ms: {speed['times']:.1f} "
        "times as fast."
        if speed
        else "Speed: not measured; pip install 'hf_ganzip[export]' brings ONNX Runtime."
    )
    pictures = f"{output_dir}/samples.png, mean_images.png, precision_recall.png"
    show(result, f"{text}\nPictures: {pictures}. {result['seconds']:.0f} s in all.", as_json)


@app.command()
def convert(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint file, or a BigGAN-deep folder or Hub id. Nothing in it is executed.")
    ],
    output_dir: Annotated[Path, typer.Argument(help="Folder for the converted model and its card.")],
    network: Annotated[
        str, typer.Option(help="G_ema (averaged generator), G or D; for U-GAT-IT also genA2B, genB2A, disGA ...")
    ] = "G_ema",
    license: Annotated[
        str | None, typer.Option(help="Licence of the weights, if you know it; otherwise the card says other.")
    ] = None,
    url: Annotated[str, typer.Option(help="Where the checkpoint was found, for the card.")] = "",
    as_json: flags.Json = False,
) -> None:
    """Open a checkpoint of StyleGAN 1-3, BigGAN, BigGAN-deep, TAC-GAN, FQ-GAN or U-GAT-IT, and save it as a diffusers
    model.
    """
    from ..checkpoints import convert as run
    from ..checkpoints import save_converted

    refuse_full(output_dir)
    model = run(checkpoint, network=network, license=license, url=url)
    save_converted(model, output_dir)
    source = model.config["_ganzip_source"]
    name, parameters = type(model).__name__, model.num_parameters()
    lines = [f"{name}, {parameters:,} parameters, from {source['format']} ({source['network']})"]
    lines += [f"note: {note}" for note in source["notes"]]
    lines += [f"licence: {source['license']}", f"saved to {output_dir}"]
    show({"class": name, "parameters": parameters, "source": source}, "\n".join(lines), as_json)


@app.command()
def translate(
    model: flags.Model,
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or WebP files, or folders of them.")],
    output_dir: Annotated[Path, typer.Option(help="Translated images and heatmaps go here.")] = Path("translated"),
    heatmaps: Annotated[bool, typer.Option(help="Also write where the network looked.")] = True,
    batch_size: flags.BatchSize = 8,
    subfolder: flags.Subfolder = None,
    revision: flags.Revision = None,
    device: flags.Device = None,
    dtype: flags.LoadedDtype = None,
    quiet: flags.Quiet = False,
    as_json: flags.Json = False,
) -> None:
    """Translate images with a U-GAT-IT generator."""
    from tqdm.auto import tqdm

    from ..pipelines import ImageTranslationPipeline
    from ..quantization.packed import computing

    files = _image_files(images, output_dir)
    refuse_unwritable(output_dir)
    opened = open_model(model, Place(subfolder, revision, device, dtype))
    if type(opened).__name__ != "UGATITGenerator":
        raise ValueError(f"{model} is a {type(opened).__name__}; translate needs a UGATITGenerator.")
    pipeline = ImageTranslationPipeline(opened)
    pipeline.set_progress_bar_config(disable=True)
    output_dir.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(files), desc="translate", unit="image", disable=quiet)
    with computing(opened, "dequantized"), bar:
        for start in range(0, len(files), batch_size):
            chunk = files[start : start + batch_size]
            output = pipeline([_read_image(file) for file in chunk], max_batch_size=batch_size)
            for file, image, heatmap in zip(chunk, output.images, output.heatmaps):
                image.save(output_dir / f"{file.stem}.png")
                if heatmaps:
                    heatmap.save(output_dir / f"{file.stem}_heatmap.png")
            bar.update(len(chunk))
    value = {"output": str(output_dir), "num_images": len(files), "heatmaps": heatmaps}
    show(value, f"{_count(len(files))} written to {output_dir}", as_json)


def _image_files(paths: list[Path], output_dir: Path) -> list[Path]:
    """The files that are named, and those of folders that are images.

    Raises:
        ValueError: A named file is no image, a folder has none, or files would be overwritten.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files = [file for file in inside if file.suffix.lower() in _IMAGES and file.is_file()]
        if not files:
            wanted = "has no PNG, JPEG or WebP images" if path.is_dir() else "is no PNG, JPEG or WebP file"
            raise ValueError(f"{path} {wanted}.")
        found += files
    origin: dict[str, Path] = {}
    for file in found:
        if file.parent.resolve() == output_dir.resolve():
            raise ValueError(
                f"{output_dir} holds {file.name}, which would be overwritten; choose another --output-dir."
            )
        for name in (file.stem, f"{file.stem}_heatmap"):
            if (other := origin.setdefault(name, file)) is not file:
                raise ValueError(
                    f"{other} and {file} would both be written to {name}.png; translate one after the other."
                )
    return found


def _read_image(file: Path) -> Any:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{file} is not a readable image: {error}") from error


@app.command()
def info(
    model: flags.Model, subfolder: flags.Subfolder = None, revision: flags.Revision = None, as_json: flags.Json = False
) -> None:
    """Show the config of a model, or of each in a pipeline, what was done to it, and the bytes of packed layers."""
    from ..saved.inspection import describe, format_description

    description = describe(model, **Place(subfolder, revision).hub_options(model))
    show(description, format_description(description), as_json)


@app.command()
def sample(
    model: flags.Model,
    output: Annotated[
        Path, typer.Argument(help="PNG, JPEG or WebP file for a grid, or new folder for one PNG per image.")
    ],
    num_samples: Annotated[
        int | None, typer.Option(min=1, help="Number of images; default: 64, of prompts one each.")
    ] = None,
    seed: flags.Seed = 0,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="What a text-to-image pipeline draws; repeatable.")
    ] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="Text file with a prompt on each line.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="With prompts; default: the pipeline's own.")] = None,
    truncation_psi: Annotated[float, typer.Option(help="Of GANs; 1 = no truncation.")] = 1.0,
    class_label: Annotated[int | None, typer.Option(help="One class for all; default: all classes in turn.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Of diffusion; default: 50 of DDIM, with prompts the pipeline's own."),
    ] = None,
    clip_sample: Annotated[
        bool,
        typer.Option(help="For diffusion models: clip predicted images in every step (the figures of cards do not)."),
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per forward pass; default: 100, with prompts 1.")
    ] = None,
    subfolder: flags.Subfolder = None,
    revision: flags.Revision = None,
    device: flags.Device = None,
    dtype: flags.LoadedDtype = None,
    quiet: flags.Quiet = False,
    as_json: flags.Json = False,
) -> None:
    """Sample images from a GAN generator, a diffusion UNet or a text-to-image pipeline."""
    from ..assets import class_names

    if output.suffix.lower() not in _IMAGES and _is_file_ending(output.suffix.lower()):
        raise typer.BadParameter(f"{output} is no folder; files of grids end in {', '.join(_IMAGES)}.")
    refuse_unwritable(output.parent) if output.suffix.lower() in _IMAGES else refuse_full(output)
    place = Place(subfolder, revision, device, dtype)
    prompts = [*(prompt or ()), *(read_prompts(prompts_file) or ())]
    name = prompted_pipeline(model, place)
    if name:
        others = {"truncation_psi": truncation_psi != 1, "class_label": class_label is not None}
        refuse_options(others | {"clip_sample": clip_sample}, f"{model} is a {name}, which takes prompts")
        if not prompts:
            raise ValueError(f"{model} is a {name}, which draws what it is told: set --prompt or --prompts-file.")
        from ..evaluation.sampling import sample_prompts

        whole, _ = open_whole(model, None, place)
        num_samples = num_samples or len(prompts)
        images, labels = sample_prompts(
            whole.to(device or "cpu"),
            prompts,
            num_samples,
            seed=seed,
            steps=steps,
            guidance_scale=guidance_scale,
            batch_size=batch_size or 1,
            progress=not quiet,
        )
        names = prompts
    else:
        others = {"prompt": bool(prompts), "guidance_scale": guidance_scale is not None}
        refuse_options(others, f"{model} is no text-to-image pipeline")
        from ..evaluation.sampling import sample_images

        num_samples = num_samples or 64
        images, labels = sample_images(
            open_model(model, place),
            num_samples,
            seed=seed,
            batch_size=batch_size or 100,
            truncation_psi=truncation_psi,
            class_label=class_label,
            steps=steps or 50,
            clip_sample=clip_sample,
            progress=not quiet,
        )
        names = class_names(model)
    _save_images(images, labels, names, output)
    value = {"output": str(output), "num_samples": num_samples, "seed": seed}
    told = {"prompts": prompts} if prompts else {}
    show(value | told, f"{_count(num_samples)} written to {output}", as_json)


def _save_images(images: Any, labels: Any, names: Sequence[str] | None, output: Path) -> None:
    """A grid with a row of its own for every label, or one file for every image."""
    from ..images.grids import class_rows, image_grid, save_image_grid

    if output.suffix.lower() in _IMAGES:
        output.parent.mkdir(parents=True, exist_ok=True)
        columns, texts = min(10, len(images)), []
        if labels is not None:
            columns = min(columns, int(labels.bincount().max()))
            images, starts = class_rows(images, labels, columns)
            texts = ["" if i is None else names[i] if names else f"class {i}" for i in starts]
        save_image_grid(images, output, columns=columns, row_labels=texts)
        return
    output.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        image_grid(image[None], 1, padding=0, scale=1).save(output / f"{i:06d}.png")


def _count(images: int) -> str:
    return f"{images} image{'s' * (images != 1)}"


def _is_file_ending(suffix: str) -> bool:
    """Whether it names a kind of file, or is a slip of an ending for grids; folders may be called run-0.5."""
    from PIL import Image

    kinds = {*Image.registered_extensions(), *mimetypes.types_map}
    return suffix in kinds or bool(difflib.get_close_matches(suffix, _IMAGES))
