# singleshot serve on a CPU, as a user without rights, on a file system that may be read-only:
#   docker build -t singleshot .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
#       -v "$PWD/models:/models:ro" -p 127.0.0.1:8000:8000 singleshot /models/mine.onnx
# tests/serve/test_dockerfile.py runs these steps without Docker.
FROM python:3.12-slim AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY requirements/tested.txt requirements/tested.txt
COPY src src
RUN python -m venv --without-pip /opt/venv
RUN python -m pip --python /opt/venv/bin/python install --no-cache-dir -c requirements/tested.txt ".[openvino,serve]"

FROM python:3.12-slim
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin
ENV PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /models
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["singleshot", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["model.onnx"]
