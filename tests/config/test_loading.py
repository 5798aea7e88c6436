import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from iom.config import EvaluateConfig, HasherConfig, Stage1Config, Stage2Config, SweepConfig, load_config, save_config
from iom.errors import ConfigError


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_base_chain_and_overrides_win_in_order(tmp_path):
    write(tmp_path, "base.yaml", "seed: 3\ntraining: {epochs: 5, batch_size: 8}\n")
    write(tmp_path, "middle.yaml", "base: base.yaml\ntraining: {epochs: 6}\n")
    top = write(tmp_path, "top.yaml", "base: middle.yaml\nmargin: {scale: 30}\n")
    config = load_config(Stage1Config, top, overrides=["training.batch_size=16"])
    assert (config.seed, config.training.epochs, config.training.batch_size) == (3, 6, 16)
    assert config.margin.scale == 30.0


def test_a_base_may_be_a_name(tmp_path):
    top = write(tmp_path, "top.yaml", "base: stage1/base\ntraining: {epochs: 3}\n")
    assert load_config(Stage1Config, top) == load_config(Stage1Config, "stage1/base", overrides=["training.epochs=3"])


@pytest.mark.parametrize(
    ("schema", "name"), [(Stage1Config, "stage1"), (Stage2Config, "stage2"), (EvaluateConfig, "evaluate")]
)
def test_the_defaults_are_the_recommended_configuration(schema, name, root):
    assert load_config(schema, root / "configs" / name / "base.yaml") == schema()


def test_reading_a_configuration_imports_no_framework():
    code = (
        "import sys, iom.config as c; c.load_config(c.Stage2Config); c.load_config(c.Stage1Config); print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "keras", "tensorflow"} & set(run.stdout.split())


@pytest.mark.parametrize("schema", [Stage1Config, Stage2Config, EvaluateConfig])
def test_a_saved_configuration_reloads_equal(schema, tmp_path):
    config = load_config(schema, overrides=["seed=11"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(schema, tmp_path / "config.yaml") == config


@given(rate=st.floats(1e-9, 1e3), milestones=st.lists(st.floats(0, 100), max_size=4))
def test_floats_survive_the_round_trip(rate, milestones, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    config = Stage1Config()
    optimizer = config.optimizer.replace(learning_rate=rate, milestones=tuple(milestones))
    config = config.replace(optimizer=optimizer)
    save_config(config, path)
    assert load_config(Stage1Config, path) == config


def test_exponent_without_a_dot_is_a_number(tmp_path):
    path = write(tmp_path, "c.yaml", "optimizer: {learning_rate: 1e-3}\n")
    assert load_config(Stage1Config, path).optimizer.learning_rate == 0.001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainig: {epochs: 3}", "did you mean 'training'"),
        ("training: {epoch: 3}", "unknown key 'training.epoch' - did you mean 'epochs'"),
        ("training: {epochs: many}", "training.epochs: expected an integer, received 'many'"),
        ("training: {epochs: true}", "expected an integer"),
        ("training: 3", "expected a section"),
        ("training: {epochs: 0}", "training.epochs: expected more than 0"),
        ("optimizer: {learning_rate: fast}", "expected a number"),
        ("optimizer: {milestones: 3}", "expected a list"),
        ("- a\n- b", "expected a mapping"),
        ("a: [1", "not valid YAML"),
        ("base: 3", "base: expected a file or the name"),
        ("base: missing.yaml", r"base: no configuration \S+missing.yaml"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(text, message, tmp_path):
    path = write(tmp_path, "c.yaml", text)
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        load_config(Stage1Config, path)


def test_circular_base(tmp_path):
    write(tmp_path, "a.yaml", "base: b.yaml")
    path = write(tmp_path, "b.yaml", "base: a.yaml")
    with pytest.raises(ConfigError, match="comes back"):
        load_config(Stage1Config, path)


def test_binary_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(Stage1Config, path)


@pytest.mark.parametrize("override", ["epochs", "=3", "seed.x=1", "seed=[1"])
def test_bad_overrides(override):
    with pytest.raises(ConfigError):
        load_config(Stage1Config, overrides=["seed=1", override])


def test_every_tracked_configuration_loads(root):
    schemas = {"stage1": Stage1Config, "stage2": Stage2Config, "evaluate": EvaluateConfig, "sweep": SweepConfig}
    paths = sorted((root / "configs").rglob("*.yaml"))
    assert paths
    for path in paths:
        room = path.relative_to(root / "configs").parts[0]
        load_config(schemas[room if room in schemas else path.stem], path)


def test_a_configuration_with_losses_of_its_own_trains(root):
    for path in (root / "configs" / "stage2").glob("*.yaml"):
        own = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "losses" in own and "epochs" not in own:
            assert load_config(Stage2Config, path).epochs > 0, f"{path.name}: epochs: 0 of its base"


def test_every_configuration_says_what_it_is(root):
    for path in (root / "configs").rglob("*.yaml"):
        header = path.read_text(encoding="utf-8").splitlines()[:4]
        assert header[0].startswith("# "), path
        assert any("iom " in line or "python " in line for line in header), f"{path}: no command in the header"


@pytest.mark.parametrize("name", ["stage1/base", "stage2/base"])
def test_a_configuration_of_the_package_has_a_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    schema = Stage1Config if name.startswith("stage1") else Stage2Config
    assert load_config(schema, Path(name)).seed == 1
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("seed: 7\n")
    assert load_config(schema, Path(name)).seed == 7  # a path that exists goes before a name


@pytest.mark.parametrize(
    "given", ["stage1/bace", "configs/stage1/base.yaml", "stage1/base.yaml", "/configs/stage1/base"]
)
def test_an_unknown_configuration_names_the_nearest(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no configuration .* did you mean 'stage1/base'\?"):
        load_config(Stage1Config, Path(given))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.rot=x", "--set: unknown key 'data.rot' - did you mean 'root'"),
        ("dta.root=x", "--set: unknown key 'dta' - did you mean 'data'"),
        ("training.epochs=two", "--set: training.epochs: expected an integer, received 'two'"),
        ("training.epochs=0", "--set: training.epochs: expected more than 0"),
        ("optimizer.learning_rate=fast", "--set: optimizer.learning_rate: expected a number"),
        ("optimizer.milestones=[a]", "--set: optimizer.milestones[0]: expected a number"),
        ("training=3", "--set: training: expected a section"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_told_of_set(override, message, tmp_path):
    path = write(tmp_path, "c.yaml", "training: {epochs: 3}\ndata: {root: faces}\n")
    with pytest.raises(ConfigError) as error:
        load_config(Stage1Config, path, overrides=["seed=3", override])
    assert str(error.value).startswith(message)


def test_what_is_wrong_in_the_file_is_told_of_the_file(tmp_path):
    for text in ("training: {epoch: 3}", "training: {epochs: 0}", "training: 3"):
        path = write(tmp_path, "c.yaml", text)
        with pytest.raises(ConfigError, match=r"c\.yaml: "):
            load_config(Stage1Config, path, overrides=["data.root=faces"])


@pytest.mark.parametrize("text", ["", "\n", "# training: {epochs: 3}\n"])
def test_a_file_without_settings_is_told(tmp_path, text):
    path = write(tmp_path, "c.yaml", text)
    with pytest.raises(ConfigError, match="expected sections and settings, found none"):
        load_config(Stage1Config, path)
    assert load_config(Stage1Config, write(tmp_path, "d.yaml", "{}")) == Stage1Config()


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{low}: &{low} [*{high}, *{high}]\n" for high, low in itertools.pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 50_000, "at most 30 levels"),
        ("a: " + "{a: " * 31 + "1" + "}" * 31, "at most 30 levels"),
        (LAUGHS, "anchors and aliases are not read"),
        ("hasher: *other", "anchors and aliases are not read"),
        (f"seed: {'9' * 100_000}", "integer"),
        (f"seed: 0x{'f' * 5000}", "64 bits"),
        ("a: " + "x" * (1 << 20), "at most 1048576 bytes"),
        ("base: /dev/zero", "not a regular file"),
        ("base: .", "regular file|directory"),
    ],
    ids=range(9),
)
def test_hostile_files_are_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_config(Stage2Config, path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", ["[" * 50_000, "9" * 100_000, "&a [*a]"], ids=range(3))
def test_hostile_overrides_are_one_line(value: str) -> None:
    with pytest.raises(ConfigError, match="--set seed") as caught:
        load_config(Stage2Config, overrides=[f"seed={value}"])
    assert len(str(caught.value)) < 1000


OLD_LOSSES = {
    "triplet: 0.0, distillation: 2.0, distillation_width: 0.2, logistic: 0.3, distillation_centre: 0.4": (
        "losses: [{name: distillation, weight: 2.0, centre: 0.4, width: 0.2}, "
        "{name: logistic, weight: 0.3, centre: 0.4}]"
    ),
    "weighted_margin: 1, weighted_margin_boundary: 1.3": "losses: [{name: weighted_margin, weight: 1, boundary: 1.3}]",
}


@pytest.mark.parametrize(
    ("schema", "old", "new"),
    [
        *((Stage2Config, f"losses: {{{old}}}", new) for old, new in OLD_LOSSES.items()),
        (
            Stage1Config,
            "margin: {name: sphereface, margin: null, arguments: {easing: 0}}",
            "margin: {name: sphereface, easing: 0}",
        ),
        (EvaluateConfig, "code: {code_length: 64, projection: gaussian}", "code: {code_length: 64}"),
    ],
)
def test_an_old_form_is_refused_with_the_new_one_and_read_where_it_was_saved(schema, old, new, tmp_path):
    path = write(tmp_path, "old.yaml", old)
    with pytest.raises(ConfigError) as error:
        load_config(schema, path)
    assert str(error.value).endswith(f"an old form; write {new}")
    assert load_config(schema, path, saved=True) == load_config(schema, write(tmp_path, "new.yaml", new))


def test_a_loss_of_the_list_is_set_by_its_name(tmp_path):
    path = write(tmp_path, "c.yaml", "losses: [{name: triplet, margin: 0.2}]")
    config = load_config(Stage2Config, path, overrides=["losses.triplet.weight=2", "losses.balance.weight=0.1"])
    assert [(loss.name, loss.weight) for loss in config.losses] == [("triplet", 2.0), ("balance", 0.1)]
    assert config.losses[0].margin == 0.2
    config = load_config(Stage2Config, overrides=["losses.logistic.slope=20"])  # beside the default
    assert [loss.name for loss in config.losses] == ["quantization", "logistic"]
    with pytest.raises(ConfigError, match=r"--set losses.triplet: .*losses.triplet.weight=1"):
        load_config(Stage2Config, overrides=["losses.triplet=1"])
    with pytest.raises(ConfigError, match=r"--set: losses.triplet.margin: expected at least 0, received -1"):
        load_config(Stage2Config, path, overrides=["losses.triplet.margin=-1"])


def test_a_hasher_that_names_its_projection_has_nothing_of_short_codes(tmp_path):
    """Configurations of older versions, which name it, mean what they meant."""
    assert Stage2Config(hasher={"code_length": 32}).hasher == Stage2Config().hasher.replace(code_length=32)
    named = load_config(Stage2Config, write(tmp_path, "c.yaml", "hasher: {projection: simplex, code_length: 32}"))
    assert named.hasher == HasherConfig(code_length=32)
    assert (named.hasher.comparison, named.hasher.refinement_steps) == ("symbols", 10)


def test_errors_in_python_name_the_setting_too():
    with pytest.raises(ConfigError, match=r"^hasher\.keep: expected at least 0, received -1$"):
        Stage2Config(hasher={"keep": -1})
    with pytest.raises(ConfigError, match=r"^keep: expected at least 1 with key_kind 'part', received 0$"):
        HasherConfig(key_kind="part")
    with pytest.raises(ConfigError, match="did you mean 'keep'"):
        HasherConfig().replace(kep=3)


@pytest.mark.parametrize("run", ["stage2", "stage2_interrupted"])
def test_the_configuration_of_a_run_of_the_first_edition_is_read(root, run):
    path = root / "tests" / "fixtures" / "edition_1" / run / "config.yaml"
    config = load_config(Stage2Config, path, saved=True)
    assert [loss.name for loss in config.losses] == ["triplet", "quantization", "balance", "distillation"]
    with pytest.raises(ConfigError, match=r"losses: an old form; write losses: \[{name: triplet, weight: 1.0, marg"):
        load_config(Stage2Config, path)
