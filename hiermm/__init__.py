"""hiermm."""
