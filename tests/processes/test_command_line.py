"""What a person sees who mistypes an option: one line that says what to do, and exit status 2."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from signalr_trio.cli import main

APP = "tests.processes.app:make"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "Missing argument 'MODULE:NAME'"),
        (["run", "chat"], "is not of the form MODULE:NAME"),
        (["run", "no_such_module:server"], "there is no module 'no_such_module'"),
        (["run", "tests.processes.app:nothing"], "has no 'nothing'"),
        (["run", "tests.processes.app:ROOT"], "has no 'ROOT'"),
        (["run", "tests.processes.app:Work"], "is a Work, not a HubServer"),
        (["run", APP, "--connection-string", "nonsense"], "'Endpoint' is missing"),
        (["run", APP, "--shutdown-mode", "maybe"], "'maybe' is not one of"),
        (["run", APP, "--shutdown-timeout", "0"], "0.0 is not in the range"),
        (["run", APP, "--port", "99999"], "99999 is not in the range"),
        (["service", "--connection-string", "Endpoint=http://h;AccessKey="], "'AccessKey'"),
        (["service", "--connection-string", "Endpoint=h;AccessKey=k"], "Endpoint must be http"),
        (["service", "--max-message-size", "1"], "1 is not in the range"),
        (["service", "--mode", "serverles"], "'serverles' is not one of"),
        (["service", "--upstream", "http://a/"], "upstreams need mode serverless or classic"),
        (["service", "--upstream", "http://a/{evnt}"], "'{evnt}' is none of"),
        (["service", "--upstream", "http://a/;hubs=x"], "'hubs' is none of hub, category and"),
        (["service", "--origin", "http://a/"], "'http://a/' is not of the form"),
        (["run", APP, "--origin", "a.example"], "'a.example' is not of the form"),
        (["run", APP, "--report", "no/such/folder"], "there is no folder 'no/such'"),
        (["service", "--metrics-port", "ninety"], "'ninety' is not a valid integer"),
        (["service", "--log-level", "loud"], "'loud' is not one of"),
        (["serve"], "No such command 'serve'"),
    ],
)
def test_a_mistake_is_explained(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_what_an_application_misses_is_not_taken_for_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chat_of_mine.py").write_text("import chat_of_")
    monkeypatch.syspath_prepend(tmp_path)
    result = CliRunner().invoke(main, ["run", "chat_of_mine:server"])
    assert isinstance(result.exception, ModuleNotFoundError)
    assert result.exception.name == "chat_of_"


@pytest.mark.parametrize("arguments", [["service"], ["run", APP]])
def test_a_port_that_is_taken(arguments: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(main, [*arguments, "--port", port])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in result.output
    assert "Traceback" not in result.output


def test_options_can_come_from_the_environment() -> None:
    result = CliRunner().invoke(main, ["service"], env={"SIGNALR_TRIO_SERVICE_PORT": "none"})
    assert result.exit_code == 2
    assert "'none' is not a valid integer" in result.output
