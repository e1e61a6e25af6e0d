# SPDX-License-Identifier: Apache-2.0
"""Train the small classifier whose penultimate layer is the feature space of metrics on small images.

    accelerate launch examples/train_feature_network.py --dataset_name zalando-datasets/fashion_mnist --output_dir out
    accelerate launch --cpu examples/train_feature_network.py --train_data_dir FOLDER --output_dir out

The data need a "train" and a "test" split. Writes a diffusers folder and training.json (options, versions, time, test
accuracy). The same seed on the same machine gives the same weights. CPU smoke run: --smoke (a few seconds).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

from hf_ganzip.images import load_images, to_model_range
from hf_ganzip.models.feature_network import FeatureNetwork
from hf_ganzip.scripts.flags import make_parser


def parse_args(input_args=None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--dataset_name", help="`datasets` id with image and label columns")
    add("--train_data_dir", help="folder of images, or of MNIST-type idx files")
    add("--image_column", help="default: image, or else the only column that holds images")
    add("--label_column", default="label", help="column of the labels")
    add("--output_dir", required=True, help="where the network and training.json go")
    add("--resolution", type=int, default=32, help="side in pixels; smaller images are centred on black")
    add("--channels", type=int, nargs="+", default=[32, 64, 96], help="one width per convolution")
    add("--embedding_dim", type=int, default=128, help="dimensions of the feature space")
    add("--num_train_epochs", type=int, default=8, help="passes over the images")
    add("--train_batch_size", type=int, default=128, help="per process")
    add("--learning_rate", type=float, default=4e-3, help="peak of the one-cycle schedule")
    add("--weight_decay", type=float, default=0.02, help="of AdamW")
    add("--max_shift", type=int, default=2, help="random shift in pixels, each direction")
    add("--seed", type=int, default=0, help="of the network and the order of images")
    add("--smoke", action="store_true", help="tiny network, random images, 16 steps; no data needed")
    args = parser.parse_args(input_args)
    if not args.smoke and bool(args.dataset_name) == bool(args.train_data_dir):
        parser.error("give one of --dataset_name and --train_data_dir")
    if args.smoke:
        args.channels, args.embedding_dim, args.num_train_epochs, args.train_batch_size = [4, 4], 8, 2, 8
    return args


def check_splits(source: Path) -> None:
    """Refuse what would give the same images for both splits.

    Raises:
        ValueError: A parquet file, or a folder without `train` and `test`.
    """
    folders = all((source / split).is_dir() for split in ("train", "test"))
    if source.suffix == ".parquet" or (source.is_dir() and not folders and not list(source.glob("t10k-images-idx3*"))):
        raise ValueError(
            f"{source} has no test images; allowed are a `datasets` id, a folder with `train` and `test`, and one "
            "with idx files of both."
        )


def load_splits(args: argparse.Namespace) -> tuple[TensorDataset, TensorDataset]:
    if args.smoke:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(
            0, 256, (64, 1, args.resolution, args.resolution), generator=generator, dtype=torch.uint8
        )
        dataset = TensorDataset(images, torch.arange(64) % 2)
        return dataset, dataset
    source = args.dataset_name or args.train_data_dir
    check_splits(Path(source))
    columns = {"image_column": args.image_column, "label_column": args.label_column}
    train, test = (
        load_images(source, split=split, resolution=args.resolution, **columns) for split in ("train", "test")
    )
    return train, test


def augment(images: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    """Flip each image (B, C, H, W) left-right with probability 1/2 and shift it; uncovered pixels are black (0)."""
    batch, _, height, width = images.shape
    flip = torch.rand(batch, generator=generator) < 0.5
    shift = torch.randint(0, 2 * max_shift + 1, (2, batch, 1), generator=generator)
    columns = torch.arange(width).expand(batch, -1)
    columns = torch.where(flip[:, None], columns.flip(1), columns) + shift[0]
    rows = torch.arange(height) + shift[1]
    padded = F.pad(images, [max_shift] * 4).permute(0, 2, 3, 1)
    return padded[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(network, loader: DataLoader, accelerator: Accelerator) -> float:
    """Share of images in ``loader`` whose class has the highest logit."""
    network.eval()
    hits = [
        accelerator.gather_for_metrics(network(to_model_range(images)).logits.argmax(dim=1) == labels)
        for images, labels in loader
    ]
    network.train()
    return torch.cat(hits).float().mean().item()


def train(network, train_set: TensorDataset, test_set: TensorDataset, args, accelerator: Accelerator) -> float:
    """Train in place with AdamW and a one-cycle schedule; return the test accuracy."""
    loader = DataLoader(train_set, batch_size=args.train_batch_size, shuffle=True, drop_last=True)
    test_loader = DataLoader(test_set, batch_size=500)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    network, optimizer, loader, test_loader = accelerator.prepare(network, optimizer, loader, test_loader)
    steps = args.num_train_epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, total_steps=steps, pct_start=0.25)
    generator = torch.Generator().manual_seed(args.seed * 4096 + accelerator.process_index)
    bar = tqdm(total=steps, desc="train", unit="step", disable=not accelerator.is_main_process)
    for epoch in range(args.num_train_epochs):
        for images, labels in loader:
            images = augment(images.cpu(), args.max_shift, generator).to(accelerator.device)
            loss = F.cross_entropy(network(to_model_range(images)).logits, labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            bar.update()
        test_accuracy = accuracy(network, test_loader, accelerator)
        bar.set_postfix(loss=f"{loss.item():.3f}", test_accuracy=f"{test_accuracy:.4f}", epoch=epoch + 1)
    bar.close()
    return test_accuracy


def main(args: argparse.Namespace) -> None:
    accelerator = Accelerator(
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=args.seed)
    )
    set_seed(args.seed)
    train_set, test_set = load_splits(args)
    network = FeatureNetwork(
        image_size=args.resolution,
        image_channels=train_set.tensors[0].shape[1],
        num_classes=int(train_set.tensors[1].max()) + 1,
        channels=tuple(args.channels),
        embedding_dim=args.embedding_dim,
    ).to(memory_format=torch.channels_last)
    accelerator.print(
        f"{len(train_set)} training and {len(test_set)} test images; {network.num_parameters():,} parameters"
    )
    start = time.monotonic()
    test_accuracy = train(network, train_set, test_set, args, accelerator)
    if accelerator.is_main_process:
        network.to(memory_format=torch.contiguous_format).save_pretrained(args.output_dir)
        skipped = ("dataset_name", "train_data_dir", "image_column", "label_column", "output_dir", "smoke")
        report = {
            "test_accuracy": round(test_accuracy, 4),
            "test_images": len(test_set),
            "train_images": len(train_set),
            "parameters": network.num_parameters(),
            "seconds": round(time.monotonic() - start),
            "processes": accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "options": {name: value for name, value in vars(args).items() if name not in skipped},
        }
        Path(args.output_dir, "training.json").write_text(json.dumps(report, indent=2) + "\n")
    accelerator.print(f"test accuracy {test_accuracy:.4f}")
    accelerator.end_training()


if __name__ == "__main__":
    main(parse_args())
