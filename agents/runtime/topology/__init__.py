"""The topics of the pipeline: which there are, what they carry, who reads and writes them."""

from agents.runtime.topology.load import load_topology
from agents.runtime.topology.topics import SINK, TopicSpec, Topology, TopologyError

__all__ = ["SINK", "TopicSpec", "Topology", "TopologyError", "load_topology"]
