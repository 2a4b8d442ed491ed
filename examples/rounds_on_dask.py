"""Rounds whose disks run on Dask: ``python examples/rounds_on_dask.py plan.yaml [SCHEDULER]``.

Without a scheduler's address two workers are started on this host. PREFECT_API_URL has to name
a server: every worker process reports to it.
"""

import os
import sys
from pathlib import Path

from prefect_dask import DaskTaskRunner

from flows.migrating import migrate
from sealift.config_load import load_plan

HERE = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}

if __name__ == "__main__":  # worker processes load this file, too
    plan = load_plan(Path(sys.argv[1]), environ=os.environ).plan
    there = {"address": sys.argv[2]} if len(sys.argv) > 2 else {"cluster_kwargs": HERE}
    migrate.with_options(task_runner=DaskTaskRunner(**there))(plan)
