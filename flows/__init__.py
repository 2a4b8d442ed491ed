"""Order of steps, parameters, artifacts and the command; no logic and no types of its own.

Prefect reports usage to its makers unless told otherwise. A tool that holds machines and
accounts in its hands tells it otherwise, before Prefect is imported; who wants reports
sets the variables.
"""

import os

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
