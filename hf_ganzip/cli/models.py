# SPDX-License-Identifier: Apache-2.0
"""Commands that open models: demo, convert, info, sample, translate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .shared import Json, Model, Seed, app, folder_of, open_model, print_json, refuse_full


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(help="Pictures, results.json and one compressed model go here.")] = Path(
        "demo_output"
    ),
    num_samples: Annotated[int, typer.Option(min=200, max=5000, help="Generated and real images per setting.")] = 5000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Quantize the bundled Fashion-MNIST generator by Q and C+Q at 6 to 2 bits and measure each against real images."""
    from ..demo import DemoConfig, format_table, run_demo

    result = run_demo(DemoConfig(output_dir=str(output_dir), num_samples=num_samples, seed=seed))
    if as_json:
        return print_json(result)
    conditions, saved = result["conditions"], result["saved_model"]
    print(format_table(result["rows"]))
    print(
        f"\n{conditions['n_generated']} generated against {conditions['n_real']} real images; features "
        f"{conditions['extractor']} {conditions['extractor_digest'][:12]}; {conditions['num_hyperplanes']} hyperplanes, "
        f"mean of {conditions['draws']} draws, k = {conditions['k']}, seed {conditions['seed']}; FD: Frechet distance of "
        f"the features; KiB: all tensors of the model."
    )
    print(
        f"{saved['folder']}: {saved['method']} at {saved['bits']} bits, {saved['file_bytes']:,} bytes, reloaded bit-exactly."
    )
    print(
        f"Pictures: {output_dir}/samples.png, mean_images.png, precision_recall.png. {result['seconds']:.0f} s in all."
    )


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
    as_json: Json = False,
) -> None:
    """Open a checkpoint of StyleGAN 1-3, BigGAN, BigGAN-deep, TAC-GAN, FQ-GAN or U-GAT-IT, and save it as a diffusers model."""
    from ..checkpoints import convert as run
    from ..checkpoints import save_converted

    refuse_full(output_dir)
    model = run(checkpoint, network=network, license=license, url=url)
    save_converted(model, output_dir)
    source = model.config["_ganzip_source"]
    if as_json:
        return print_json({"class": type(model).__name__, "parameters": model.num_parameters(), "source": source})
    print(
        f"{type(model).__name__}, {model.num_parameters():,} parameters, from {source['format']} ({source['network']})"
    )
    for note in source["notes"]:
        print(f"note: {note}")
    print(f"licence: {source['license']}")
    print(f"saved to {output_dir}")


@app.command()
def translate(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Image files, or one folder of them.")],
    output_dir: Annotated[Path, typer.Option(help="Translated images and heatmaps go here.")] = Path("translated"),
    heatmaps: Annotated[bool, typer.Option(help="Also write where the network looked.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    as_json: Json = False,
) -> None:
    """Translate images with a U-GAT-IT generator."""
    from PIL import Image
    from tqdm.auto import tqdm

    from ..pipelines import ImageTranslationPipeline

    files = [file for path in images for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    files = [file for file in files if file.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")]
    if not files:
        raise ValueError(f"there are no PNG, JPEG or WebP images in {', '.join(map(str, images))}.")
    opened = open_model(model)
    if type(opened).__name__ != "UGATITGenerator":
        raise ValueError(f"{model} is a {type(opened).__name__}; translate needs a UGATITGenerator.")
    pipeline = ImageTranslationPipeline(opened)
    pipeline.set_progress_bar_config(disable=True)
    output_dir.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(files), desc="translate", unit="image") as bar:
        for start in range(0, len(files), batch_size):
            chunk = files[start : start + batch_size]
            output = pipeline([Image.open(file).convert("RGB") for file in chunk], max_batch_size=batch_size)
            for file, image, heatmap in zip(chunk, output.images, output.heatmaps):
                image.save(output_dir / f"{file.stem}.png")
                if heatmaps:
                    heatmap.save(output_dir / f"{file.stem}_heatmap.png")
            bar.update(len(chunk))
    if as_json:
        return print_json({"output": str(output_dir), "num_images": len(files), "heatmaps": heatmaps})
    print(f"{len(files)} images written to {output_dir}")


@app.command()
def info(model: Model, as_json: Json = False) -> None:
    """Show the config of a model, what was done to it, and the bytes of every packed layer."""
    from ..inspection import describe, format_description

    description = describe(folder_of(model))
    print_json(description) if as_json else print(format_description(description))


@app.command()
def sample(
    model: Model,
    output: Annotated[Path, typer.Argument(help="PNG file for a grid, or folder for one PNG per image.")],
    num_samples: Annotated[int, typer.Option(min=1, help="Number of images.")] = 64,
    seed: Seed = 0,
    truncation_psi: Annotated[float, typer.Option(help="1 = no truncation.")] = 1.0,
    class_label: Annotated[int | None, typer.Option(help="One class for all; default: all classes in turn.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of DDIM, for diffusion models.")] = 50,
    clip_sample: Annotated[
        bool,
        typer.Option(help="For diffusion models: clip predicted images in every step (the figures of cards do not)."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Sample images from a GAN generator or a diffusion UNet."""
    from ..evaluation.sampling import sample_images
    from ..plotting import image_grid, save_image_grid

    options = {
        "truncation_psi": truncation_psi,
        "class_label": class_label,
        "steps": steps,
        "clip_sample": clip_sample,
    }
    images, _ = sample_images(open_model(model), num_samples, seed=seed, **options)
    if output.suffix == ".png":
        output.parent.mkdir(parents=True, exist_ok=True)
        save_image_grid(images, output, columns=min(10, num_samples))
    else:
        output.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            image_grid(image[None], 1, padding=0, scale=1).save(output / f"{i:06d}.png")
    if as_json:
        return print_json({"output": str(output), "num_samples": num_samples, "seed": seed})
    print(f"{num_samples} images written to {output}")
