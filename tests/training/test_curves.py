import numpy as np
from PIL import Image

from iom.training.run_dir import curves_figure, draw_curves, write_records
from tests.commands import command

RECORDS = [
    {"epoch": 1, "step": 2, "lfw_accuracy": 0.55, "learning_rate": 0.1},
    {"epoch": 1, "phase": 0, "loss": 3.0, "a_loss": 2.0, "held_out_eer": 0.4, "lfw_accuracy": 0.6,
     "learning_rate": 0.1, "seconds": 3.0, "steps": 4},
    {"epoch": 2, "phase": 0, "loss": 2.0, "a_loss": 1.0, "held_out_eer": 0.3, "lfw_accuracy": 0.7,
     "learning_rate": 0.05, "seconds": 3.0, "steps": 4},
]  # fmt: skip


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_panel_for_each_figure_and_no_other_field():
    titles = [axes.get_title() for axes in curves_figure({"run": RECORDS}).axes]
    assert titles == ["loss", "a loss", "lfw accuracy, %", "held out eer, %", "learning rate"]


def test_a_step_lies_within_its_epoch():
    rates = curves_figure({"run": RECORDS}).axes[-1].lines[0]
    assert rates.get_xdata().tolist() == [0.5, 1.0, 2.0]
    assert rates.get_ydata().tolist() == [0.1, 0.1, 0.05]


def test_a_run_has_one_colour_in_every_panel():
    """The second run alone has some of the figures; its colour there is that of the legend."""
    runs = {
        "s1": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}],
        "stage2": [{"epoch": 1, "loss": 3.0, "balance": 0.1, "held_out_eer": 0.2}],
    }
    figure = curves_figure(runs)
    of = {run: {line.get_color() for axes in figure.axes for line in axes.lines
                if line.get_label() == run} for run in runs}  # fmt: skip
    assert [len(colours) for colours in of.values()] == [1, 1]
    assert of["s1"] != of["stage2"]
    legend = figure.axes[0].get_legend()
    shown = {line.get_label(): line.get_color() for line in legend.get_lines()}
    assert shown == {run: next(iter(colours)) for run, colours in of.items()}


def test_the_picture_is_written(tmp_path):
    draw_curves(tmp_path / "one.png", {"first": RECORDS})
    assert pixels(tmp_path / "one.png").min() < 128 < pixels(tmp_path / "one.png").max()


def test_the_command_draws_several_runs(tmp_path, capsys):
    for name in ("first", "second"):
        write_records(tmp_path / name / "metrics.jsonl", RECORDS)
    picture = tmp_path / "all.png"
    runs = [str(tmp_path / "first"), str(tmp_path / "second")]
    assert command("curves")([*runs, "--output", str(picture)]) == 0
    assert "2 runs" in capsys.readouterr().out
    assert pixels(picture).size


def test_an_unusable_run_or_output_is_one_line(tmp_path, capsys):
    run = tmp_path / "run"
    write_records(run / "metrics.jsonl", RECORDS)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "metrics.jsonl").write_text("[1]\n")
    file = tmp_path / "file"
    file.write_text("")
    for arguments, message in (
        ([tmp_path / "absent", "--output", tmp_path / "a.png"], "expected a run"),
        ([damaged, "--output", tmp_path / "a.png"], "damaged"),
        ([run, "--output", tmp_path / "a.txt"], ".png or .svg"),
        ([run, "--output", file / "a.png"], "cannot write"),
    ):
        assert command("curves")([str(item) for item in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
