"""Tells, after the tests, which fixtures our code answers, and how closely."""

import pytest
from catalog import summary


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in summary():
        terminalreporter.write_line(line)
