# Two images of the same worker:
#   worker  the default and the smallest: everything comes as wheels, GDAL inside of rasterio's
#   full    for analysts and for whoever needs osgeo: one libgdal of the distribution's, shared by rasterio,
#           which is built from source against it, and by the GDAL bindings
# make image builds both; docs/operations.md tells how they are run.

FROM docker.io/library/python:3.13-slim-trixie AS base


# What is installed, and by what.
FROM base AS sources
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==0.13.8 \
    && python3 -m venv --without-pip /opt/gdaltools
ENV PATH=/opt/gdaltools/bin:/opt/uv/bin:$PATH VIRTUAL_ENV=/opt/gdaltools UV_NO_CACHE=1 UV_LINK_MODE=copy
WORKDIR /src
COPY requirements.lock .


FROM sources AS wheels
# Without versions: Debian keeps one of each package, and replaces it when it is mended.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
# Also possible: warp (numba, 200 MB more).
ARG EXTRAS="worker telemetry"
COPY pyproject.toml README.md ./
RUN set -- && for extra in ${EXTRAS}; do set -- "$@" --extra "$extra"; done \
    && uv pip install --only-binary :all: --constraint requirements.lock --requirement pyproject.toml "$@"
COPY gdaltools gdaltools
COPY worker worker
COPY deploy/image/trim.py deploy/image/
RUN uv pip install --no-deps . && python deploy/image/trim.py


FROM sources AS bindings
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ libgdal-dev python3-dev \
    && rm -rf /var/lib/apt/lists/*
# numpy must be there when the bindings are built, or they come without gdal_array and do not say so.
RUN uv pip install --constraint requirements.lock numpy setuptools \
    && uv pip install --no-build-isolation-package gdal "GDAL==$(gdal-config --version)" \
    && uv pip install --no-binary rasterio --constraint requirements.lock rasterio
ARG EXTRAS="worker telemetry"
COPY pyproject.toml README.md ./
RUN set -- && for extra in ${EXTRAS}; do set -- "$@" --extra "$extra"; done \
    && uv pip install --constraint requirements.lock --requirement pyproject.toml "$@"
COPY gdaltools gdaltools
COPY worker worker
COPY deploy/image/trim.py deploy/image/
RUN uv pip install --no-deps . && uv pip uninstall setuptools && python deploy/image/trim.py


# How either runs. The root file system may be read-only: all that is written goes to /scratch.
FROM base AS runtime
RUN groupadd --gid 10001 worker \
    && useradd --uid 10001 --gid worker --home-dir /scratch --no-create-home --shell /usr/sbin/nologin worker \
    && install --directory --owner worker --group worker --mode 0700 /scratch
# The base has no bytecode of Python's own modules, and a read-only file system keeps none: each start would compile
# them, and so would each health check.
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x '/(test|tests|idlelib|lib2to3|tkinter|turtledemo|ensurepip|site-packages|dist-packages)/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
ENV PATH=/opt/gdaltools/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/scratch \
    TMPDIR=/scratch \
    APP_MODE=worker_docker \
    PORT=8080
WORKDIR /scratch
VOLUME /scratch
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/livez', timeout=4)"]
CMD ["python", "-m", "worker"]
ARG REVISION=""
LABEL org.opencontainers.image.title="gdaltools" \
      org.opencontainers.image.description="Huge rasters into tiles and Cloud Optimized GeoTIFFs, from a task queue" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}"


FROM runtime AS full
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libgdal36 \
    && apt-get clean && rm -rf /var/lib/apt/lists/*
COPY --from=bindings /opt/gdaltools /opt/gdaltools
USER 10001
RUN --mount=type=bind,source=deploy/image/check.py,target=/mnt/check.py python /mnt/check.py --with-osgeo


FROM runtime AS worker
COPY --from=wheels /opt/gdaltools /opt/gdaltools
USER 10001
RUN --mount=type=bind,source=deploy/image/check.py,target=/mnt/check.py python /mnt/check.py
