"""The engine: extents, planning, pipeline, lineage, convergence, migration state.

No SDK, no Prefect, no subprocess in this package; the outside is reached through
the ports in ``sealift.disk`` (disk), ``sealift.endpoints`` (hypervisor, cloud),
``sealift.objects`` (object stores) and ``sealift.store`` (local state).
"""

__version__ = "0.1.0"
