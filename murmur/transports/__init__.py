"""The transport port on each broker: one adapter a file, its client imported only there."""
