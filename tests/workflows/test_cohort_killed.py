"""A cohort that is killed at random moments ends with the files of the unbroken one, each case recorded once."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL and no fork")
@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_each_case_is_done_once_and_no_file_differs(times):
    seed = random.SystemRandom().randrange(2**31)  # truly random: every run of the tests tries other moments
    print(f"seed {seed}")
    options = ["--kills", str(times), "--cases", "6", "--races", "1", "--seed", str(seed)]
    command = [sys.executable, "-W", "ignore", "-m", "tests.workflows.kills_infer", *options]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=1700, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{times} kills over \d+ runs of 6 cases", done.stdout, re.MULTILINE)
    assert "0 failed or left something, 0 partial files, 0 hashes differ, 0 of" in done.stdout
    assert "1 races of 8: 0 where none won" in done.stdout
