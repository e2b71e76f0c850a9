"""The group of commands: its help, and errors in one line with exit code 1 or 2."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mecoq_faiss_cli.main import COMMANDS
from tests.cli.calls import call, ok


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
