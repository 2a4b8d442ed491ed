"""Order of steps, parameters, artifacts and the command; no logic and no types of its own.

Prefect reports usage to its makers unless told otherwise. A tool that holds machines and
accounts in its hands tells it otherwise, before Prefect is imported; who wants reports
sets the variables. Prefect also gives a flow without a server 20 seconds to start one of its
own, and fails the flow after that; a busy machine, or the first start of all, takes longer.
"""

import os

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")
