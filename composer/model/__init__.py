"""The mixture model: modeling code, expert selection, losses, routers."""
