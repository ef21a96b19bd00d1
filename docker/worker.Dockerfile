# A training worker. The pin of torch in constraints.txt brings the CUDA build where no CPU wheel is at hand.
FROM python:3.11-slim
WORKDIR /app
# The large dependencies first: a change of our code does not download them again.
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt torch numpy safetensors transformers
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY freezer freezer
COPY workers workers
COPY api api
COPY client client
COPY benchmarks benchmarks
RUN pip install --no-cache-dir --constraint constraints.txt '.[train,text]'
RUN useradd --uid 10001 --create-home smartfrz && mkdir /data && chown smartfrz /data
USER smartfrz
ENV SMARTFRZ_HOME=/data PYTHONUNBUFFERED=1
CMD ["python3", "-m", "celery", "-A", "workers.celery_app", "worker", "--pool", "prefork", "--concurrency", "1", "--without-gossip", "--without-mingle", "--loglevel", "info"]
