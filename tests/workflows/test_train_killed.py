"""A training that is killed at random moments ends with the files of the unbroken one; of many at once, one trains."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest


def kills(*arguments: str) -> str:
    """What `tests.workflows.kills` prints; it forks, so it needs a process without threads."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.workflows.kills", *arguments]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL and no fork")
def test_killed_five_times_at_random_moments_it_ends_with_the_same_files():
    seed = random.SystemRandom().randrange(2**31)  # truly random: every run of the tests tries other moments
    print(f"seed {seed}")
    said = kills("--kills", "5", "--races", "1", "--seed", str(seed))
    assert re.search(r"^5 kills over \d+ runs of 60 steps: 0 failed to resume", said, re.MULTILINE)
    assert "0 files differ" in said
    assert "1 races of 8 for one folder: 0 where not one won" in said
