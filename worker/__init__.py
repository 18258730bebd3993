"""The unattended worker: run the functions of gdaltools as tasks from a queue."""

from gdaltools.runtime.moved import MovedModules

# Modules that have moved; the old names keep working for one version.
MovedModules(
    {
        "worker.client": "worker.web.client",
        "worker.embedded": "worker.service.embedded",
        "worker.handlers": "worker.task.handlers",
        "worker.runner": "worker.task.runner",
    }
).install()
