"""What workers can be asked for: each work takes an order and comes to plain values."""
