# The lock's environment and this checkout, for any container engine:
#   docker build -t foalkit .                               a processor's image
#   docker build -t foalkit --build-arg GPUS=all .          CUDA's: the engine hands in this machine's GPUs
#   docker run -v foalkit-outputs:/foalkit/outputs foalkit  the demo; any other command may stand behind it
# The locked PyTorch does not start without NVIDIA's libraries, so both images hold them. docs/install.md says more.
ARG BASE=python:3.11-slim
FROM ${BASE}
# Debian packages that are wanted in it, too: --build-arg PACKAGES="make git"
ARG PACKAGES=""
RUN if [ -n "$PACKAGES" ]; then apt-get update && apt-get install -y --no-install-recommends $PACKAGES \
    && rm -rf /var/lib/apt/lists/*; fi
# any user may write there: --user of docker, one's own of Apptainer
ENV HOME=/var/lib/foalkit
RUN useradd --uid 1000 --home-dir $HOME foalkit && mkdir -p $HOME /foalkit/outputs \
    && chown -R foalkit $HOME /foalkit && chmod 1777 $HOME /foalkit /foalkit/outputs
USER foalkit
WORKDIR /foalkit
# what installs and tries the packages, alone: the large layer stays while the rest of the library changes
COPY --chown=foalkit install.py pyproject.toml requirements*.lock ./
COPY --chown=foalkit foalkit/[_afp]*.py foalkit/
# a build behind a mirror of packages or with certificates of its own is given them as secrets, which stay outside
RUN --mount=type=cache,target=/var/cache/foalkit,uid=1000 \
    --mount=type=secret,id=pip,target=/etc/pip.conf,mode=0444 \
    --mount=type=secret,id=certificates,target=/etc/ssl/certs/ca-certificates.crt,mode=0444 \
    XDG_CACHE_HOME=/var/cache/foalkit UV_LINK_MODE=copy python3 install.py && touch .venv/bin/.installed
COPY --chown=foalkit . .
# read by NVIDIA's container toolkit
ARG GPUS=void
ENV NVIDIA_VISIBLE_DEVICES=$GPUS NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV PATH=/foalkit/.venv/bin:$PATH PYTHONUTF8=1
VOLUME /foalkit/outputs
CMD ["foalkit", "grid", "demo"]
