import dataclasses
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.config.loading import load_config, save_config
from iom.config.schema import EvaluateConfig, Stage1Config, Stage2Config
from iom.config.search import SearchConfig
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


@pytest.mark.parametrize("schema", [Stage1Config, Stage2Config, EvaluateConfig])
def test_a_saved_configuration_reloads_equal(schema, tmp_path):
    config = load_config(schema, overrides=["seed=11"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(schema, tmp_path / "config.yaml") == config


@given(rate=st.floats(1e-9, 1e3), milestones=st.lists(st.floats(0, 100), max_size=4))
def test_floats_survive_the_round_trip(rate, milestones, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    config = Stage1Config()
    optimizer = dataclasses.replace(config.optimizer, learning_rate=rate, milestones=tuple(milestones))
    config = dataclasses.replace(config, optimizer=optimizer)
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
        ("training: {epochs: many}", "training.epochs: expected int, received 'many'"),
        ("training: {epochs: true}", "expected int"),
        ("training: 3", "expected a section"),
        ("training: {epochs: 0}", "training.epochs: expected at least 1"),
        ("optimizer: {learning_rate: fast}", "expected a number"),
        ("optimizer: {milestones: 3}", "expected a list"),
        ("- a\n- b", "expected a mapping"),
        ("a: [1", "not valid YAML"),
        ("base: 3", "base: expected a file name"),
        ("base: missing.yaml", "cannot read configuration"),
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
    schemas = {"stage1": Stage1Config, "stage2": Stage2Config, "evaluate": EvaluateConfig, "search": SearchConfig}
    paths = sorted((root / "configs").rglob("*.yaml"))
    assert paths
    for path in paths:
        room = path.relative_to(root / "configs").parts[0]
        load_config(schemas[room if room in schemas else path.stem], path)


def test_every_configuration_says_what_it_is(root):
    for path in (root / "configs").rglob("*.yaml"):
        header = path.read_text(encoding="utf-8").splitlines()[:4]
        assert header[0].startswith("# "), path
        assert any("python " in line for line in header), f"{path}: no command in the header"


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
        ("training.epochs=two", "--set: training.epochs: expected int, received 'two'"),
        ("training.epochs=0", "--set: training.epochs: expected at least 1"),
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
