"""The group of commands: its help, and errors in one line with exit code 1 or 2."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest
from click.shell_completion import ShellComplete

from mecoq_faiss_cli.main import COMMANDS, NO_MEMORY, main
from tests.cli.calls import call, fails, ok


def test_every_command_has_help() -> None:
    assert all(name in ok("--help") for name in COMMANDS)
    for name in COMMANDS:
        assert "Usage:" in ok(name, "--help")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_does_not_wait_for_torch(command: str) -> None:
    code = (
        "import sys\nfrom mecoq_faiss_cli.main import main\n"
        f"try:\n    main({[command, '--help'] if command else ['--help']})\n"
        "finally:\n    print(*sorted({'torch', 'faiss', 'numpy'} & sys.modules.keys()), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Usage:" in done.stdout and done.stderr.strip() == "", done.stderr


def test_wrong_usage_is_exit_2() -> None:
    assert call("train").exit_code == 2
    assert call("serch").exit_code == 2
    assert call("search", "x").exit_code == 2


def test_a_shell_completes_the_names() -> None:
    completion = ShellComplete(main, {}, "mecoq-faiss", "_MECOQ_FAISS_COMPLETE")
    found = [item.value for item in completion.get_completions([], "e")]
    assert found == ["export-index", "export-encoder", "export-items", "encode", "evaluate"]


def test_the_version_is_the_packages() -> None:
    assert ok("--version").split()[-1] == metadata.version("mecoq-faiss")


def test_debug_shows_the_traceback_of_an_error_in_one_line() -> None:
    assert fails("info", "nowhere").startswith("Error: nowhere does not exist")
    assert isinstance(call("--debug", "info", "nowhere").exception, FileNotFoundError)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("bad\nmore of it"), "Error: bad\n"),
        (KeyError("x"), "Error: 'x' (KeyError; --debug shows where)\n"),
        (MemoryError(), f"Error: {NO_MEMORY} (MemoryError)\n"),
        (MemoryError("Unable to allocate 4 GiB\nmore"), f"Error: {NO_MEMORY} (Unable to allocate 4 GiB)\n"),
        (BrokenPipeError(), ""),  # `| head` has seen enough
    ],
)
def test_an_error_is_one_line_and_exit_1(error: Exception, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> None:
        raise error

    monkeypatch.setattr("mecoq_faiss.jobs.doctor.doctor", failing)
    result = call("doctor")
    assert (result.exit_code, result.stderr, result.stdout) == (1, says, "")
