"""How gunicorn serves the endpoint. The names below are gunicorn's settings.

    gunicorn -c python:triggers.gunicorn_config 'triggers.api:create_app()'
"""

from __future__ import annotations

import os
from typing import Any

from triggers import logs
from triggers.settings import Settings
from triggers.shim import die_with_parent

settings = Settings.from_environment()
host = f"[{settings.host}]" if ":" in settings.host else settings.host

bind = f"{host}:{settings.port}"
workers = 1  # threads share one pool of database connections; the endpoint waits for that, not for a core
threads = 8
graceful_timeout = 2  # seconds for requests under way; `up` must be gone within 5
control_socket_disable = True
logconfig_dict = logs.dictionary(settings)


def post_fork(server: Any, worker: Any) -> None:
    """A worker ends with its master, also when that was killed."""
    die_with_parent(os.getppid())
