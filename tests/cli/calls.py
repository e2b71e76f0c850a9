"""Commands as a user types them, in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from mecoq_faiss_cli.main import main

QUICK = ("--backbone", "pixels", "--image-size", "8", "--epochs", "2", "--batch-size", "256", "--set", "flip=0")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def ok(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(*arguments: object, code: int = 1) -> str:
    """The one line that a failing command prints; no traceback."""
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]
