"""Networks as pure functions of a depth tuple."""

from autogrow_jax.models.blocks import BlockOptions
from autogrow_jax.models.cost import Cost, PieceCosts, estimate_cost, piece_costs
from autogrow_jax.models.network import (
    FAMILIES,
    Family,
    Network,
    build_network,
    get_family,
    num_params,
    register_family,
    rest_block,
)

__all__ = [
    "FAMILIES",
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
