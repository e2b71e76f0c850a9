# The service on a CPU, of bundles that were exported with --onnx: neither PyTorch nor CUDA, about 0.5 GB.
#   docker build -t mecoq-faiss .
#   docker run --rm -p 8000:8000 -v "$PWD/bundle:/data/bundle:ro" -v "$PWD/photos:/data/photos:ro" mecoq-faiss \
#     /data/bundle --images /data/photos --api-keys /data/keys.txt
FROM python:3.12-slim

RUN useradd --create-home --uid 10001 mecoq
WORKDIR /src
COPY setup.py pyproject.toml README.md LICENSE ./
COPY mecoq_faiss mecoq_faiss
COPY cli cli
RUN pip install --no-cache-dir --no-deps . \
    && python -m mecoq_faiss.runtime.requirements --extras onnx serve metadata \
       --without torch torchvision safetensors faiss > /tmp/requirements.txt \
    && pip install --no-cache-dir faiss-cpu==1.15.* -r /tmp/requirements.txt \
    && rm -rf /src/* /tmp/requirements.txt

USER 10001
WORKDIR /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["mecoq-faiss", "serve", "--host", "0.0.0.0", "--runtime", "onnx"]
