# docker build --target server -t steadynorm-server .
# docker build --target dashboard -t steadynorm-dashboard .
# Neither image has torch, and the dashboard's has no command line either. A training image installs steadynorm[agent]
# beside the torch that it has.
#
# Everything that is installed is checked against its hash in deploy/requirements, so two builds install the same. Pin the
# base image as well: docker build --build-arg PYTHON=python:3.11-slim@sha256:…   (docker buildx imagetools inspect)
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY deploy/requirements deploy/requirements
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY contract contract
COPY agent agent
COPY server server
COPY dashboard dashboard
COPY cli cli
COPY examples examples
COPY docs/operations.md docs/operations.md
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --requirement deploy/requirements/build.txt \
    && /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM build AS build-server
RUN python -m venv /opt/steadynorm \
    && /opt/steadynorm/bin/pip install --require-hashes --requirement deploy/requirements/server.txt \
    && /opt/steadynorm/bin/pip install --no-deps --no-index /wheels/*.whl

FROM build AS build-dashboard
RUN python -m venv /opt/steadynorm \
    && /opt/steadynorm/bin/pip install --require-hashes --requirement deploy/requirements/dashboard.txt \
    && /opt/steadynorm/bin/pip install --no-deps --no-index /wheels/*.whl

# Runs as any user, with a root that is read-only: nothing is kept but temporary files, for which /tmp must be a tmpfs then.
FROM ${PYTHON} AS runtime
ENV PATH=/opt/steadynorm/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
RUN useradd --system --uid 10001 --gid 0 --no-create-home --home-dir /tmp steadynorm
WORKDIR /tmp

FROM runtime AS server
COPY --from=build-server /opt/steadynorm /opt/steadynorm
ENV STEADYNORM_HOST=0.0.0.0 STEADYNORM_HOME=/tmp/steadynorm
USER 10001
EXPOSE 8470
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["steadynorm", "healthcheck"]
CMD ["steadynorm", "server"]

FROM runtime AS dashboard
COPY --from=build-dashboard /opt/steadynorm /opt/steadynorm
USER 10001
EXPOSE 8501
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-m", "steadynorm_dashboard", "--healthcheck"]
CMD ["python", "-m", "steadynorm_dashboard", "--host", "0.0.0.0", "--port", "8501"]
