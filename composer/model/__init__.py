"""The mixture itself: modeling code, selection of experts, losses, routers."""
