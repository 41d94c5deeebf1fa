# The image of refresher: `make image`, or, without make,
#
#     docker build --tag refresher .
#
# Where pip needs a mirror of yours, or an authority of yours, lend them to the build; neither stays
# in the image:
#
#     --secret id=pip.conf,src=/etc/pip.conf --secret id=ca.pem,src=/etc/ssl/our-authority.pem

# Any image with Python ≥ 3.11 as `python3`, and its module `venv`. What is installed in the first
# stage runs in the second, so both have the same base.
ARG BASE=python:3.13-slim-bookworm


FROM ${BASE} AS build

WORKDIR /src
COPY requirements/build.lock requirements/runtime.lock requirements/
# Wheels alone, so that no compiler is needed. The environment that is shipped gets no pip.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.pem,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -m venv /opt/build \
    && python3 -m venv --without-pip /opt/refresher \
    && /opt/build/bin/pip install --no-cache-dir --only-binary :all: --require-hashes \
        --requirement requirements/build.lock \
    && /opt/build/bin/pip --python /opt/refresher/bin/python install --no-cache-dir \
        --only-binary :all: --require-hashes --requirement requirements/runtime.lock

COPY pyproject.toml README.md LICENSE ./
COPY refresher refresher
RUN /opt/build/bin/hatchling build --target wheel --directory /dist \
    && /opt/build/bin/pip --python /opt/refresher/bin/python install --no-cache-dir \
        --no-index --no-deps /dist/*.whl


FROM ${BASE}

ARG VERSION=
LABEL org.opencontainers.image.title="refresher" \
      org.opencontainers.image.description="Keeps the private-registry credentials of fal apps alive" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"

# A number, for Kubernetes cannot tell of a name that it is not root.
RUN install --directory --owner=65532 --group=65532 --mode=0700 /var/lib/refresher
COPY --from=build /opt/refresher /opt/refresher
# The one folder that it writes to; a library will not even load without one for temporary files.
ENV PATH="/opt/refresher/bin:${PATH}" \
    STATE_DIRECTORY=/var/lib/refresher \
    TMPDIR=/var/lib/refresher
USER 65532:65532
VOLUME /var/lib/refresher

STOPSIGNAL SIGTERM
# Past any proxy, and without refresher itself, which would take longer to start than to answer. It
# knows the usual port; with another one in `daemon.listen`, give docker run a --health-cmd.
HEALTHCHECK --start-period=30s --timeout=5s CMD ["python3", "-c", "\
from http.client import HTTPConnection as At; \
at = At('127.0.0.1', 9478, timeout=4); \
at.request('GET', '/livez'); \
raise SystemExit(at.getresponse().status != 200)"]

ENTRYPOINT ["refresher"]
CMD ["run"]
