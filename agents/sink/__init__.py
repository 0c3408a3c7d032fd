"""The sink: every topic in, history in Postgres out. The only writer of schema ``history``."""

from agents.sink.assembly import assemble_sink
from agents.sink.consumer import Sink, SinkOptions

__all__ = ["Sink", "SinkOptions", "assemble_sink"]
