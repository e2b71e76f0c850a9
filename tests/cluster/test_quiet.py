"""Ray's messages are no part of a command's output."""

from __future__ import annotations

import logging

import pytest

from mecoq_faiss.cluster.quiet import brief


def test_messages_are_logged_once_of_each_kind_and_the_rest_is_printed(
    capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    with brief(), caplog.at_level(logging.INFO, "mecoq_faiss"):
        print("{")
        for node in range(3):
            print(f"\x1b[33m(raylet)\x1b[0m A worker died or was killed while executing a task.\nNode {node}")
        print("(autoscaler +1s) Adding a node")
        print()
        print("}")
    assert capsys.readouterr().out == "{\n\n}\n"
    assert [record.getMessage() for record in caplog.records] == [
        "Ray: A worker died or was killed while executing a task. Node 0",
        "Ray: Adding a node",
    ]
