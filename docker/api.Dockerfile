# The API: no torch in this image.
FROM python:3.11-slim
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY freezer freezer
COPY workers workers
COPY api api
COPY client client
COPY benchmarks benchmarks
RUN pip install --no-cache-dir --constraint constraints.txt .
# One uid in every image: API and workers share the volume.
RUN useradd --uid 10001 --create-home smartfrz && mkdir /data && chown smartfrz /data
USER smartfrz
ENV SMARTFRZ_HOME=/data PYTHONUNBUFFERED=1
EXPOSE 8000
CMD ["python3", "-m", "api", "--host", "0.0.0.0", "--port", "8000"]
