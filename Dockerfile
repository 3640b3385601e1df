# The gateway as an image: the wheel with its locked dependencies, and nothing of the sandbox.
FROM python:3.13-slim AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./
# The dependencies first: they change less often than the code.
RUN UV_PROJECT_ENVIRONMENT=/opt/gateway uv sync --frozen --no-dev --no-install-project --compile-bytecode
COPY gateway gateway
COPY profiles profiles
RUN UV_PROJECT_ENVIRONMENT=/opt/gateway uv sync --frozen --no-dev --no-editable --compile-bytecode

FROM python:3.13-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/gateway gateway
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH GATEWAY_LISTEN=0.0.0.0:8080 GATEWAY_DATA_DIR=/var/lib/gateway GATEWAY_LOG_FORMAT=json
USER gateway
WORKDIR /var/lib/gateway
VOLUME /var/lib/gateway
EXPOSE 8080
ENTRYPOINT ["gateway"]
CMD ["serve"]
