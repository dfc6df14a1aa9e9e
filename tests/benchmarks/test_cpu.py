"""The benchmarks of a CPU run, in the order of a line or two each."""

import re
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("section", ["modulation", "packed"])
def test_a_section_prints_a_ratio(section):
    run = subprocess.run(
        [sys.executable, "benchmarks/cpu.py", section, "--pairs", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    (ratio,) = re.findall(r"ratio (\d\.\d{3})", run.stdout)
    assert 0 < float(ratio) < 1
