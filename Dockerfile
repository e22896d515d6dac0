# The static binary of .ci/release.sh and the roots to check certificates with, nothing else. The release workflow builds
# it from a folder with both; the tap runs as process 1, so that the signal that ends the container reaches it.
FROM scratch
ARG TARGETARCH
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY $TARGETARCH/tap-constant-contact /tap-constant-contact
USER 65532:65532
WORKDIR /work
ENTRYPOINT ["/tap-constant-contact"]
