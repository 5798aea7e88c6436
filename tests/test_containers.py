"""Dockerfile and compose files, as far as they can be read without an engine to build them."""

import json
import re
import shlex
from pathlib import PurePosixPath

import click
import pytest
import yaml

from iom.cli._command import Command
from iom.cli.gallery import GalleryOptions
from iom.cli.main import root as program
from iom.service.app import OPEN_PATHS

USER = "10001:10001"


def instructions(root):
    """Instructions of the Dockerfile: name and text."""
    lines = [line for line in (root / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def stages(root):
    """Instructions of each stage of the Dockerfile, its FROM first."""
    found = []
    for name, text in instructions(root):
        if name == "FROM":
            found.append([])
        found[-1].append((name, text))
    return found


def of(stage, wanted):
    return [text for name, text in stage if name == wanted]


@pytest.fixture
def compose(root):
    files = [root / "compose.yaml", root / "compose.postgresql.yaml"]
    return [yaml.safe_load(path.read_text()) for path in files]


def parsed(arguments):
    """The command that arguments of `iom` name, and what it takes them for; a wrong one is a `UsageError`."""
    command = program.commands[arguments[0]]
    assert isinstance(command, Command)
    context = command.make_context("iom", list(arguments[1:]), resilient_parsing=False)
    return context.params


def test_what_is_copied_is_there_and_not_ignored(root):
    build, final = stages(root)
    kept = {line.removeprefix("!") for line in (root / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = {name for text in of(build, "COPY") for name in text.split()[:-1]}
    assert copied == kept
    assert all((root / name).exists() for name in copied)
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", "iom", "configs"} <= copied
    named = of(build, "FROM")[0].split(" AS ")[1]
    assert [text.split() for text in of(final, "COPY")] == [[f"--from={named}", "/opt/iom", "/opt/iom"]]
    assert "venv /opt/iom" in of(build, "RUN")[0]


def test_the_image_is_slim_and_runs_without_root(root):
    build, final = stages(root)
    assert all(re.match(r"python:3\.1[1-3]-slim", of(stage, "FROM")[0]) for stage in (build, final))
    assert of(final, "FROM")[0] == of(build, "FROM")[0].split()[0]
    assert of(final, "USER") == [USER]
    assert "--uid 10001" in of(final, "RUN")[0]
    names = [name for name, _ in final]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    assert re.findall(r"'\.\[(.*?)\]'", of(build, "RUN")[1]) == ["postgresql"]


def test_the_image_serves_its_volumes(root):
    _, final = stages(root)
    values = dict(each.split("=", 1) for each in shlex.split(of(final, "ENV")[0]))
    volumes = [PurePosixPath(each) for each in json.loads(of(final, "VOLUME")[0])]
    assert all(str(volume) in of(final, "RUN")[0] for volume in volumes)
    entry, arguments = json.loads(of(final, "ENTRYPOINT")[0]), json.loads(of(final, "CMD")[0])
    assert entry == ["iom"]
    serve = parsed(arguments)
    assert (serve["host"], str(serve["port"])) == ("0.0.0.0", of(final, "EXPOSE")[0])
    places = [values["IOM_GALLERY"].removeprefix("sqlite:///"), values["IOM_KEYS"].removeprefix("file:")]
    parents = [PurePosixPath(each).parent for each in places]
    assert parents == volumes
    assert serve["tokens"].parent in volumes
    check = json.loads(of(final, "HEALTHCHECK")[0].partition("CMD ")[2])
    address = re.search(r"'http://127\.0\.0\.1:(\d+)(/[^']*)'", check[-1])
    assert address[1] == str(serve["port"])
    assert address[2] in OPEN_PATHS
    compile(check[-1], "HEALTHCHECK", "exec")


def test_the_service_has_a_root_that_cannot_be_written(compose, root):
    service = compose[0]["services"]["iom"]
    assert service["read_only"]
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    mounted = dict(each.split(":") for each in service["volumes"])
    assert sorted(mounted) == sorted(compose[0]["volumes"])
    assert list(mounted.values()) == json.loads(of(stages(root)[1], "VOLUME")[0])
    assert service["ports"][0].startswith("127.0.0.1:")


def test_settings_are_those_that_the_commands_read(compose, root):
    known = {each.envvar for each in program.commands["serve"].params if isinstance(each, click.Option)}
    image = dict(each.split("=", 1) for each in shlex.split(of(stages(root)[1], "ENV")[0]))
    for values in (image, *(each["services"]["iom"]["environment"] for each in compose)):
        assert {name for name in values if name.startswith("IOM_")} <= known | {"IOM_CACHE"}
    secret = compose[0]["services"]["iom"]["secrets"][0]
    assert compose[0]["services"]["iom"]["environment"]["IOM_PASSPHRASE_FILE"] == f"/run/secrets/{secret}"
    assert compose[0]["secrets"][secret]["file"].removeprefix("./") in (root / ".gitignore").read_text().split()


def test_the_records_may_lie_in_postgresql(compose):
    one, more = compose
    assert set(more["services"]["iom"]["depends_on"]) == {"database"}
    url = more["services"]["iom"]["environment"]["IOM_GALLERY"]
    database = more["services"]["database"]["environment"]
    assert url == f"postgresql://{database['POSTGRES_USER']}@database/{database['POSTGRES_DB']}"
    assert database["POSTGRES_PASSWORD"] == more["services"]["iom"]["environment"]["PGPASSWORD"]
    assert {**one["volumes"], **more["volumes"]}.keys() == {"records", "keys", "database"}


def test_the_passphrase_may_come_from_a_file_that_the_environment_names(tmp_path, monkeypatch):
    file = tmp_path / "passphrase"
    file.write_text("a long passphrase\nand no more\n")
    monkeypatch.setenv("IOM_PASSPHRASE_FILE", str(file))
    assert GalleryOptions(passphrase_file=parsed(["stats"])["passphrase_file"]).passphrase() == "a long passphrase"
