"""The unattended worker: one task's life, around the functions of gdaltools."""

from gdaltools.runtime.moved import MovedModules

# Modules that have moved; for one version they are also found where they were.
MovedModules(
    {
        "worker.client": "worker.web.client",
        "worker.embedded": "worker.service.embedded",
        "worker.handlers": "worker.task.handlers",
        "worker.runner": "worker.task.runner",
    }
).install()
