"""How control messages reach nodes without a direct link, and how one reaches everybody."""
