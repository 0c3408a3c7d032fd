"""What may run: Cedar policies over the catalogue's actions, and the catalogue's own rules.

Pure but for :mod:`agents.policies.folder`, which reads and follows the files.
"""

from agents.policies.cedar import CedarError, Schema
from agents.policies.folder import PolicyFolder, zone_of
from agents.policies.judging import Judge
from agents.policies.policy import Policy
from agents.policies.policy_set import NO_PERMIT, PolicySet, load_policies
from agents.policies.schema import declared_schema, schema_of

__all__ = [
    "NO_PERMIT",
    "CedarError",
    "Judge",
    "Policy",
    "PolicyFolder",
    "PolicySet",
    "Schema",
    "declared_schema",
    "load_policies",
    "schema_of",
    "zone_of",
]
