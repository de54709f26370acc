# Three targets: 'runtime' is Perdure alone, the base for an image of yours; 'support-desk' adds the example app;
# 'build' holds the compiler-free build of both and is in neither.
#
#   docker build --target runtime --tag perdure:0.1.0 .
#
# An image with your own agents:
#
#   FROM perdure:0.1.0
#   USER root
#   COPY . /src/my-agents
#   RUN pip install --no-cache-dir /src/my-agents
#   USER 10001:10001
#   ARG BUILD_ID=
#   ENV PERDURE_BUILD_ID=$BUILD_ID

ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/build && python -m venv /opt/perdure
COPY deploy/requirements-build.lock deploy/requirements-runtime.lock /locks/
RUN /opt/build/bin/pip install --require-hashes --requirement /locks/requirements-build.lock \
    && /opt/perdure/bin/pip install --require-hashes --requirement /locks/requirements-runtime.lock
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY perdure perdure
COPY workflows workflows
COPY activities activities
COPY api api
COPY workers workers
COPY examples/support_desk examples/support_desk
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels/perdure . \
    && /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels/support-desk ./examples/support_desk \
    && /opt/perdure/bin/pip install --no-deps --no-index /wheels/perdure/*.whl

FROM ${PYTHON_IMAGE} AS runtime
ENV PATH=/opt/perdure/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN groupadd --gid 10001 perdure \
    && useradd --uid 10001 --gid perdure --no-create-home --home-dir /var/lib/perdure --shell /usr/sbin/nologin perdure \
    && install --directory --owner=perdure --group=perdure /var/lib/perdure
COPY --from=build /opt/perdure /opt/perdure
WORKDIR /var/lib/perdure
USER 10001:10001
ENTRYPOINT ["perdure"]
CMD ["--help"]

FROM runtime AS support-desk
USER root
RUN --mount=type=bind,from=build,source=/wheels/support-desk,target=/wheels \
    pip install --no-cache-dir --no-deps --no-index /wheels/*.whl
USER 10001:10001
# Which build this is, as a commit's hash; empty, as by default, workers are not versioned.
ARG BUILD_ID=
ENV PERDURE_BUILD_ID=$BUILD_ID
