# SPDX-License-Identifier: Apache-2.0
"""The `evaluate` modules in several processes, which meet through files or by torch.distributed."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hf_ganzip import metrics

from ..processes import run_processes
from .conftest import FOLDERS, NAMES, evaluate, pixels


def together(part, count=3):
    """What ``part(rank)`` returns, of all ranks at once."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(part, range(count)))


class TestSeveralProcesses:
    @staticmethod
    def load(tmp_path, rank, count=3, **options):
        options = {"experiment_id": "x/y", "timeout": 20} | options
        folder, cache = str(FOLDERS[options.pop("name", "knn_precision_recall")]), str(tmp_path / "cache")
        return evaluate.load(folder, cache_dir=cache, num_process=count, process_id=rank, **options)

    @pytest.mark.parametrize("name", NAMES)
    def test_threads_that_meet_through_files(self, tmp_path, features, name):
        real, generated = features
        expected = metrics.METRICS[name](real=real, generated=generated)

        def part(rank):
            metric = self.load(tmp_path, rank, name=name)
            for _ in range(2):  # again from the start
                if rank < 2:  # the last one has nothing of one side
                    metric.add_batch(predictions=generated[rank::2])
                found = metric.compute(references=real[rank::3])
            return found

        found = together(part)
        assert found[0] == pytest.approx(expected, rel=1e-9) and found[1:] == [None, None]
        assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".lock"}

    def test_images(self, tmp_path, images):
        rows = images.reshape(2, 40, 36)[..., :9].astype("float32")

        def part(rank):
            metric = self.load(tmp_path, rank, 2)
            metric.add_batch(predictions=images[0, rank::2], references=images[1, rank::2])
            return metric.compute(feature_extractor=pixels)

        assert together(part, 2)[0] == metrics.knn_precision_recall(real=rows[1], generated=rows[0])

    def test_one_that_never_comes(self, tmp_path, features):
        for rank, missing in ((0, "1, 2"), (1, "0")):
            with pytest.raises(ValueError, match=f"experiment_id x/y: process {missing} of 3 did not come"):
                self.load(tmp_path, rank, timeout=0.2).add_batch(references=features[0])

    def test_one_that_died_half_way_and_what_it_left(self, tmp_path, features):
        real, generated = features

        def first(rank):
            metric = self.load(tmp_path, rank, timeout=1)
            metric.add_batch(predictions=generated + 5, references=real)
            if rank != 1:  # it added, and died
                return metric.compute()

        with ThreadPoolExecutor(3) as threads:
            running = [threads.submit(first, rank) for rank in range(3)]
            with pytest.raises(ValueError, match="process 1 of 3 gave nothing: it died"):
                running[0].result()
        gc.collect()  # what a process held is free when it dies
        (folder,) = tmp_path.rglob("x%2Fy-3")
        (left,) = folder.glob("2-*.safetensors")  # of the third
        (folder / "token").write_text(left.name[2:].partition(".")[0])  # process 0 was killed, too

        def again(rank):
            time.sleep(0.3 * (rank == 0))
            return self.load(tmp_path, rank).compute(predictions=generated[rank::3], references=real[rank::3])

        assert together(again)[0] == metrics.knn_precision_recall(real=real, generated=generated)

    def test_two_evaluations_at_the_same_place(self, tmp_path, features):
        def part(rank):
            metric = self.load(tmp_path, rank, 2)
            metric.add_batch(references=features[0])
            if rank:
                with pytest.raises(ValueError, match="another evaluation is process 1 of 2 of it"):
                    self.load(tmp_path, rank, 2).add_batch(references=features[0])
            return metric.compute(predictions=features[1])

        assert [found is None for found in together(part, 2)] == [False, True]

    @pytest.mark.process
    @pytest.mark.parametrize("name", NAMES)
    def test_torch_distributed(self, tmp_path, features, name):
        found = run_processes(_distributed, 2, tmp_path, name, *features, str(tmp_path / "cache"))
        expected = metrics.METRICS[name](real=features[0], generated=features[1])
        assert found[0] == pytest.approx(expected, rel=1e-9) and found[1] is None
        assert not (tmp_path / "cache").exists()


def _distributed(rank, count, name, real, generated, cache):
    metric = evaluate.load(str(FOLDERS[name]), num_process=count, process_id=rank, cache_dir=cache)
    metric.add_batch(references=real[rank::count])
    return metric.compute(predictions=generated if rank else None)
