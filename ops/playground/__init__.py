"""The playground: a small HTTP service with state, for the demo and for tests.

It plays what operations teams act on: services in environments, databases, a chat. It counts
honestly: an ``Idempotency-Key`` is recorded but changes nothing, so that whoever asks ``/calls``
sees what was done twice. Faults make calls fail on demand. Run it with
``python -m ops.playground``.

=====================================================================  =======================
``GET /environments/{environment}/services/{service}``                 how the service is
``POST …/restart``                                                     restart all replicas
``POST …/deploy`` ``{"version"}``                                      run that version
``POST …/rollback``                                                    run the version before
``POST …/scale`` ``{"replicas"}``                                      set how many replicas run
``DELETE /environments/{environment}/services/{service}``              remove it (204)
``POST /environments/{environment}/databases/{database}/backup``       take a backup
``POST /messages`` ``{"channel", "text"}``, ``GET /messages``          the chat's webhook
``GET /state``                                                         everything
``GET /calls``                                                         who did what, how often
``POST /faults``                                                       make the next calls fail
``GET /healthz``                                                       whether it answers
=====================================================================  =======================

A fault is ``{"service", "environment", "count", "kind"}``: ``refuse`` (the default) answers with
``status`` (503 if not given) and, if given, ``retry_after`` seconds, without doing anything;
``cut`` does what was asked and closes the connection without an answer; ``slow`` does it and
answers after ``delay`` seconds.

Errors are ``{"error": {"code", "message"}}``.
"""

from ops.playground.server import Playground
from ops.playground.world import World

__all__ = ["Playground", "World"]
