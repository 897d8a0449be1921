# One image for all processes; the command says which. See docs/operations.md and compose.yaml.
FROM python:3.13-slim AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/triggerbeat/bin:$PATH
RUN python -m venv /opt/triggerbeat
WORKDIR /source

# What changes seldom comes first: the locked dependencies, then the program.
COPY requirements/run.txt requirements/run.txt
RUN pip install --require-hashes --no-deps -r requirements/run.txt
COPY . .
RUN pip install --no-build-isolation --no-deps .

FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 PATH=/opt/triggerbeat/bin:$PATH
RUN useradd --create-home --uid 10001 triggerbeat
COPY --from=build /opt/triggerbeat /opt/triggerbeat
# Empty, for modules of your own: processes import from here what TASK_MODULES names.
WORKDIR /app
USER triggerbeat
CMD ["celery", "-A", "celery_config.celery_worker", "worker", "--loglevel=info"]
