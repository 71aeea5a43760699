"""The container image and what runs it, without Docker: what is written is read, and its commands are run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer.main
from packaging.specifiers import SpecifierSet

from phoneagent import Agent, PhoneApp, Settings, cli
from phoneagent.cli.init import write
from tests.patience import HANG_SECONDS
from tests.ports import free_port

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SPARE_SECONDS = 5
"""How much longer than DRAIN_SECONDS a process is given before it is killed."""

SETTINGS = {
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKEN": "a-token-for-tests",
    "PUBLIC_URL": "https://agent.example",
    "REALTIME_URL": "ws://127.0.0.1:1",
    "PHONEAGENT_ENV_FILE": "",
}


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, in order."""
    lines = [line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in found]


DOCKERFILE = instructions()


def only(name: str) -> str:
    (found,) = (rest for each, rest in DOCKERFILE if each == name)
    return found


def environment() -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(only("ENV")))


def parse(words: list[str]) -> None:
    """Check that a command of ours exists, with its options."""
    assert words[0] == "phoneagent"
    command: Any = typer.main.get_command(cli.app)
    with command.commands[words[1]].make_context("phoneagent", words[2:]):
        pass


# --- the Dockerfile ---------------------------------------------------------------------------------------------------


def test_the_image_is_of_a_python_that_we_support_and_slim() -> None:
    version, variant = re.fullmatch(r"python:([\d.]+)-(\w+)", only("FROM")).groups()  # type: ignore[union-attr]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{version}.0")
    assert variant == "slim"


def test_it_does_not_run_as_root_and_can_write_its_records() -> None:
    names = [name for name, _ in DOCKERFILE]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name == "RUN")
    user = only("USER")
    assert user.isdigit()  # Kubernetes' runAsNonRoot cannot tell of a name
    assert int(user) > 0
    made = next(rest for name, rest in DOCKERFILE if name == "RUN")
    assert f"--uid {user}" in made
    assert only("VOLUME") in made
    assert environment()["DATABASE_URL"].removeprefix("sqlite:///").startswith(only("VOLUME") + "/")
    assert only("EXPOSE") == environment()["PORT"]


def test_secrets_and_leftovers_stay_outside() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".env", ".git", ".venv*"} <= set(ignored)
    names = {name.strip("/") for name in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()}
    assert {"demo-call", "phoneagent.db*", "build", "dist"} <= names & set(ignored)


@contextmanager
def container(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """Run what the image starts, in a user's folder; yield the process and its environment."""
    port = str(free_port())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    database = f"sqlite:///{folder}/records.db"
    ours = {"PATH": path, "PYTHONPATH": str(ROOT), "PORT": port, "DATABASE_URL": database}
    env = {**os.environ, **environment(), **SETTINGS, **ours}
    command = json.loads(only("CMD"))
    parse(command)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=folder, env=env, stdout=log, stderr=log)
    try:
        yield process, env
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_it_starts_is_healthy_and_ends_at_sigterm(tmp_path: Path) -> None:
    write(tmp_path)
    words = json.loads(only("HEALTHCHECK").partition("CMD ")[2])
    assert only("STOPSIGNAL") == "SIGTERM"
    with container(tmp_path) as (process, env):

        def healthy() -> bool:
            done = subprocess.run(
                [sys.executable, *words[1:]], env=env, capture_output=True, timeout=HANG_SECONDS, check=False
            )
            return done.returncode == 0

        deadline = time.monotonic() + 30
        while not healthy():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not healthy()


def test_what_it_installs_is_there_in_both_folders(tmp_path: Path) -> None:
    """This repository and a user's folder both have the file that the image installs."""
    install = [rest for name, rest in DOCKERFILE if name == "RUN"][-1]
    assert shlex.split(install) == ["pip", "install", "-r", "requirements.txt"]
    write(tmp_path)
    assert (ROOT / "requirements.txt").exists()
    assert (tmp_path / "requirements.txt").exists()
    shutil.copy(ROOT / "Dockerfile", tmp_path)  # nothing of ours has its name


# --- compose.yaml and the manifests of the documentation --------------------------------------------------------------


def documents(text: str) -> list[Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: it is in the extra `dev`")
    return list(yaml.safe_load_all(text))


def seconds(duration: str) -> int:
    return int(re.fullmatch(r"(\d+)s", duration)[1])  # type: ignore[index]


def manifests() -> dict[str, str]:
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    return dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', page, re.MULTILINE | re.DOTALL))


VARIABLES = {str(field.validation_alias or name).upper() for name, field in Settings.model_fields.items()}
PROBES = {route.path for route in PhoneApp(Agent(instructions="x")).routes if hasattr(route, "path")}


def test_compose_starts_an_agent_on_a_migrated_database() -> None:
    ((compose),) = documents((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    agent, migrate, database = services["agent"], services["migrate"], services["database"]
    for service in (agent, migrate):
        parse(service["command"])
        assert set(service["environment"]) <= VARIABLES
        assert (ROOT / service["build"] / "Dockerfile").exists()
    assert (ROOT / agent["command"][-1]).exists()
    assert agent["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert migrate["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert seconds(agent["stop_grace_period"]) >= int(agent["environment"]["DRAIN_SECONDS"]) + SPARE_SECONDS
    login = database["environment"]
    expected = f"postgresql://{login['POSTGRES_USER']}:{login['POSTGRES_PASSWORD']}@database/{login['POSTGRES_DB']}"
    assert agent["environment"]["DATABASE_URL"] == expected
    assert {volume.partition(":")[0] for volume in database["volumes"]} == set(compose["volumes"])


def test_kubernetes_gives_calls_the_time_to_move() -> None:
    deployment, service = documents(manifests()["agent.yaml"])
    pod = deployment["spec"]["template"]["spec"]
    (agent,), (migrate,) = pod["containers"], pod["initContainers"]
    env = {each["name"]: each["value"] for each in agent["env"]}
    assert set(env) <= VARIABLES
    assert pod["terminationGracePeriodSeconds"] == int(env["DRAIN_SECONDS"]) + SPARE_SECONDS
    assert pod["securityContext"]["runAsUser"] == int(only("USER"))
    parse(migrate["command"])
    for probe in (agent["readinessProbe"], agent["livenessProbe"]):
        assert probe["httpGet"]["path"] in PROBES
        assert str(probe["httpGet"]["port"]) == env["PORT"]
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert str(service["spec"]["ports"][0]["targetPort"]) == env["PORT"]


def test_platforms_give_calls_the_time_to_move() -> None:
    ((render),) = documents(manifests()["render.yaml"])
    (web,) = render["services"]
    env = {each["key"]: each["value"] for each in web["envVars"]}
    assert web["maxShutdownDelaySeconds"] == int(env["DRAIN_SECONDS"]) + SPARE_SECONDS
    for command in (web["preDeployCommand"], web["startCommand"]):
        parse(command.split())
    assert web["healthCheckPath"] in PROBES
    fly = tomllib.loads(manifests()["fly.toml"])
    assert fly["kill_timeout"] == int(fly["env"]["DRAIN_SECONDS"]) + SPARE_SECONDS
    parse(fly["deploy"]["release_command"].split())
    assert [check["path"] in PROBES for check in fly["http_service"]["checks"]] == [True]
    assert fly["http_service"]["internal_port"] == Settings.model_fields["port"].default
