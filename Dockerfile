# The service of `iom`, with what a gallery needs and no more. docs/service.md says how to start it.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/iom
COPY requirements.txt pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY configs configs
COPY iom iom
RUN /opt/iom/bin/pip install --no-cache-dir --constraint requirements.txt '.[postgresql]' \
    && /opt/iom/bin/pip uninstall --yes pip

FROM python:3.13-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin iom \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data/records /data/keys
COPY --from=build /opt/iom /opt/iom
ENV PATH=/opt/iom/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    IOM_CACHE=/tmp/iom \
    IOM_GALLERY=sqlite:////data/records/gallery.db \
    IOM_KEYS=file:/data/keys/gallery.keys
# Records and keys are two volumes, so that one of them can lie on another disk and be backed up apart.
VOLUME ["/data/records", "/data/keys"]
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["iom"]
CMD ["serve", "--host", "0.0.0.0", "--tokens", "/data/keys/tokens.json"]
