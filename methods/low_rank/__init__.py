"""Updates of a frozen backbone's weights, of few parameters, which can be merged into them."""
