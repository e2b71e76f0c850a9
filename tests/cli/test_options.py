"""Options and output that commands share: what they take, what they refuse, what they print."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mecoq_faiss import config, index
from mecoq_faiss.data.protocols import PROTOCOLS
from mecoq_faiss.presets import PRESETS
from mecoq_faiss_cli import options


def test_names_to_choose_from_are_those_of_the_library() -> None:
    """The command line repeats them: reading them from the library would make --help wait for torch."""
    assert set(options.PRESETS) == set(PRESETS) and options.KINDS == index.KINDS
    assert options.CODES == config.CODES and (options.K_MAP, options.K_RESULTS) == (config.K_MAP, config.K_RESULTS)
    assert set(options.PROTOCOLS) == set(PROTOCOLS) - {"digits"}


@click.command()
@options.data_option("data", "The images")
@options.data_option("more", "More", required=False)
@options.workers_option
@options.device_option
@options.k_option(10, "How many", "all")
@options.json_option
@click.option("--budget", type=options.Duration())
def command(**given: Any) -> None:
    click.echo(json.dumps(given))


def given(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(command, ["--data", "digits", *arguments])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_options_as_they_are_given_and_left_out() -> None:
    assert given() == {
        "data": "digits", "more": None, "workers": -1, "device": "auto", "k": None, "as_json": False, "budget": None
    }  # fmt: skip
    found = given("--more", "x.npy", "--workers", "3", "--device", "cuda:1", "-k", "7", "--json")
    assert found == {
        "data": "digits", "more": "x.npy", "workers": 3, "device": "cuda:1", "k": 7, "as_json": True, "budget": None
    }  # fmt: skip


def test_help_tells_what_is_taken_and_what_is_the_default() -> None:
    text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert f"The images: {options.SRC}." in text
    assert "How many [default: 10, or all]" in text and "-1 chooses. [default: -1" in text


@pytest.mark.parametrize("arguments", [[], ["--data", "digits", "--workers", "-2"], ["--data", "digits", "-k", "few"]])
def test_wrong_options_are_exit_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(command, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("time", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("0.4m", 24), ("007s", 7), ("0.001h", 3.6)]
)
def test_times(time: str, seconds: float) -> None:
    assert given("--budget", time)["budget"] == pytest.approx(seconds, rel=1e-12)
    assert options.Duration().convert(seconds * 1.0, None, None) == seconds  # a default in Python


@pytest.mark.parametrize(
    "time", ["", "s", "30", "-3m", "0s", "0.0h", "1e3s", "3d", "nanm", ".5h", "1.h", "3 m", "3s\n"]
)
def test_what_is_no_time(time: str) -> None:
    result = CliRunner().invoke(command, ["--data", "digits", "--budget", time])
    assert result.exit_code == 2 and "write for example 90s, 30m or 2h" in result.stderr


def test_results_for_machines_and_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"map": 0.123456, "map_all": 1, "name": "a b", "counts": {"items": 3}, "refine": None}
    options.show(values, True)
    assert json.loads(capsys.readouterr().out) == values
    options.show(values, False)
    assert capsys.readouterr().out.splitlines() == [
        "map      0.1235",
        "map all  1",
        "name     a b",
        'counts   {"items": 3}',
        "refine   None",
    ]
