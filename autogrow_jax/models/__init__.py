"""Networks as pure functions of a depth tuple."""

from autogrow_jax.models.cost import Cost, PieceCosts, estimate_cost, piece_costs
from autogrow_jax.models.families import FAMILIES, Family, get_family, register_family
from autogrow_jax.models.layers import BlockOptions
from autogrow_jax.models.network import STEMS, Network, build_network, num_params, rest_block

__all__ = [
    "FAMILIES",
    "STEMS",
    "BlockOptions",
    "Cost",
    "Family",
    "Network",
    "PieceCosts",
    "build_network",
    "estimate_cost",
    "get_family",
    "num_params",
    "piece_costs",
    "register_family",
    "rest_block",
]
