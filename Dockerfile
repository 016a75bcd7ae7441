# The backend and its workers: one small image, no root, health checked.
FROM python:3.12-slim AS build
# More of uv's options, for instance --build-arg SYNC_OPTIONS="--extra s3" for versions on S3.
ARG SYNC_OPTIONS=""
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir uv
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY ml_backend ml_backend
COPY model model
# The uv group brings label-studio-ml without its stale pins, which pip could not override.
RUN uv venv /app && UV_PROJECT_ENVIRONMENT=/app uv sync --no-editable --no-default-groups --group label-studio-ml ${SYNC_OPTIONS}

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 refit && mkdir /data && chown refit /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH ML_BACKEND_DATA_DIR=/data ML_BACKEND_HOST=0.0.0.0 PORT=9090
USER refit
VOLUME /data
EXPOSE 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=2)"]
ENTRYPOINT ["ml-backend"]
CMD ["start"]
