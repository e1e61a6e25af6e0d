# SPDX-License-Identifier: Apache-2.0
"""The first hour of a newcomer: what they type, line by line, and what they get. Every line here once failed."""

# --- models: quantize_, dequantize_, compile, memory

# --- loading and saving: from_pretrained, configs, casting, LoRA

# --- the command line

# --- evaluating

# --- training and fine-tuning


def run_example(name, *flags):
    """``python examples/NAME.py FLAGS`` in this process."""
    import runpy
    from pathlib import Path

    from accelerate.state import AcceleratorState, GradientState, PartialState

    try:
        script = runpy.run_path(str(Path(__file__).parents[1] / "examples" / f"{name}.py"))
        script["main"](script["parse_args"]([str(flag) for flag in flags]))
    finally:
        for state in (AcceleratorState, PartialState, GradientState):
            state._reset_state()


def test_a_short_run_does_not_save_its_start(tmp_path, monkeypatch, caplog):
    from safetensors.torch import load_file

    import hf_ganzip as gz

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def moved(*flags):
        """How far the saved weights are from those before training, of the way that the trained weights have gone."""
        folder = tmp_path / str(len(flags))
        run_example("finetune_stylegan2", "--smoke", "--output_dir", folder, *flags)
        start, saved = (gz.load_model(folder / name).state_dict() for name in ("start", "generator"))
        trained = load_file(folder / "checkpoint-4" / "model.safetensors")
        name = "synthesis.b16.conv1.weight"
        return float((saved[name] - start[name]).norm() / (trained[f"generator.{name}"] - start[name]).norm())

    assert moved() > 0.9 and not caplog.messages
    assert moved("--preset", "svs-stylegan2-base") < 0.01  # the paper's, for 15 million images
    assert "will be 100 % starting point after the 32 images" in caplog.text and "ema_rampup" in caplog.text
    assert {path.name for path in (tmp_path / "0" / "samples").iterdir()} >= {
        "step-0000004-average.png",
        "step-0000004-trained.png",
    }


# --- reports and pictures
