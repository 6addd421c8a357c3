# The server, with the Go toolchain that it builds with. The bases are arguments, so that it can be built from your own:
#   docker build -t runtime-builds .
#   docker build -t runtime-builds --build-arg BASE=… --build-arg BUILD_BASE=… --build-arg GO_BASE=… .
# BUILD_BASE and BASE hold Node >= 22.19 (and apt, where git, bubblewrap or tini are missing); GO_BASE holds /usr/local/go.
ARG BUILD_BASE=node:24-bookworm
ARG BASE=node:24-bookworm-slim
ARG GO_BASE=golang:1.26-bookworm

FROM ${GO_BASE} AS go

FROM ${BUILD_BASE} AS package
COPY --from=go /usr/local/go /usr/local/go
ENV PATH=/usr/local/go/bin:$PATH
WORKDIR /src
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY . .
RUN npm run --silent build
WORKDIR /app
RUN cp /src/package.json /src/package-lock.json /src/.npmrc /src/openapi.yaml /src/CHANGELOG.md . \
	&& npm ci --omit=dev \
	&& mkdir -p clients/cli images \
	&& cp /src/images/healthcheck.mjs images/ \
	&& cp /src/clients/cli/bin.mjs /src/clients/cli/runtime.schema.json clients/cli/ \
	&& mv /src/dist . \
	&& chmod -R a+rX .

FROM ${BASE}
# tini reaps what services leave behind; git fetches remotes; bubblewrap keeps builds to themselves.
RUN { command -v git && command -v bwrap && command -v tini; } >/dev/null \
	|| { apt-get update \
		&& apt-get install -y --no-install-recommends ca-certificates git bubblewrap tini \
		&& rm -rf /var/lib/apt/lists/*; }
COPY --from=go /usr/local/go /usr/local/go
COPY --from=package /app /app
RUN ln -s /app/clients/cli/bin.mjs /usr/local/bin/runtime \
	&& groupadd --gid 10001 runtime \
	&& useradd --uid 10001 --gid 10001 --home-dir /var/lib/runtime-builds --shell /usr/sbin/nologin runtime \
	&& install -d -o runtime -g runtime -m 0700 /var/lib/runtime-builds
ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	NODE_ENV=production \
	RUNTIME_DATA_DIR=/var/lib/runtime-builds \
	RUNTIME_ADDRESS=0.0.0.0:8080
USER 10001:10001
WORKDIR /var/lib/runtime-builds
VOLUME /var/lib/runtime-builds
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["node", "/app/images/healthcheck.mjs"]
ENTRYPOINT ["tini", "--", "runtime"]
CMD ["server"]
