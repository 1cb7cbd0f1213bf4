# docker build --target server -t steadynorm-server .
# docker build --target dashboard -t steadynorm-dashboard .
# Neither image has torch, and the dashboard's has no command line either. A training image installs steadynorm[agent]
# beside the torch that it has.

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY contract contract
COPY agent agent
COPY server server
COPY dashboard dashboard
COPY cli cli
COPY examples examples
COPY docs/operations.md docs/operations.md
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM build AS build-server
RUN python -m venv /opt/steadynorm \
    && /opt/steadynorm/bin/pip install --constraint constraints.txt "$(echo /wheels/*.whl)[server]"

FROM build AS build-dashboard
RUN python -m venv /opt/steadynorm \
    && /opt/steadynorm/bin/pip install --constraint constraints.txt "$(echo /wheels/*.whl)[dashboard]"

FROM python:3.11-slim AS runtime
ENV PATH=/opt/steadynorm/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 10001 --create-home steadynorm
WORKDIR /home/steadynorm

FROM runtime AS server
COPY --from=build-server /opt/steadynorm /opt/steadynorm
USER 10001
EXPOSE 8470
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8470/readyz', timeout=2)"]
CMD ["steadynorm", "server", "--host", "0.0.0.0", "--port", "8470"]

FROM runtime AS dashboard
COPY --from=build-dashboard /opt/steadynorm /opt/steadynorm
USER 10001
EXPOSE 8501
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=2)"]
CMD ["python", "-m", "steadynorm_dashboard", "--host", "0.0.0.0", "--port", "8501"]
