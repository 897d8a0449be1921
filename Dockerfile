# One image for all processes; the command says which. See docs/operations.md and compose.yaml.
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 triggerbeat
WORKDIR /app

# What changes seldom comes first: the locked dependencies, then the program.
COPY requirements/run.txt requirements/run.txt
RUN pip install --require-hashes --no-deps -r requirements/run.txt
COPY . .
RUN pip install --no-build-isolation --no-deps .

USER triggerbeat
# Celery's own commands import `celery_config` from here.
CMD ["celery", "-A", "celery_config.celery_worker", "worker", "--loglevel=info"]
