"""One file for each verb: arguments, one workflow call, a printed result and an exit code."""
